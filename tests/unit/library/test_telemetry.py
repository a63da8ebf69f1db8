"""Spans, trace context and metrics of the library, and the semantic conventions."""

import asyncio
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

import sagastream
from sagastream import (
    Bus,
    Command,
    Progress,
    ReplyTimeout,
    RequestFailed,
    Retention,
    multi_stage_reply,
)
from sagastream._functions.answers import Claimed
from sagastream._telemetry import metrics
from sagastream._telemetry import spans as telemetry
from sagastream._telemetry.trace_context import Trace, next_span_id, trace_id
from sagastream.saga import Saga, SagaRunner, Step, WaitFor, signal_saga
from sagastream.status import dead_letters, request_status
from tests.listeners import listening
from tests.plain_client import GROUP, add_entry, call, deliver
from tests.polling import eventually
from tests.records import alter_record
from tests.semconv import (
    ExportedSpan,
    exported,
    faults_of_series,
    faults_of_span,
    faults_of_trace,
    series_of,
)

STREAM = "echo:commands"
_LOST = "00f067aa0ba902b7"
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@multi_stage_reply(stream=STREAM, event_type="echo:say")
async def say(command: Command, _progress: Progress) -> dict[str, Any]:
    """Reply with the trace context that the handler sees."""
    return {
        "inside": trace_id(),
        "traceparent": command.traceparent,
        "parent_span_id": command.parent_span_id,
    }


@multi_stage_reply(stream=STREAM, event_type="echo:fail")
async def fail(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise LookupError("no such thing")


@multi_stage_reply(stream=STREAM, event_type="echo:work")
async def work(command: Command, progress: Progress) -> dict[str, Any]:
    """Report progress twice, then work for `for` seconds."""
    for fraction in (0.25, 0.75):
        await progress(fraction)
        await asyncio.sleep(0.01)  # longer than the interval of progress entries
    await asyncio.sleep(command.payload.get("for", 0))
    return {}


class _ChosenIds(RandomIdGenerator):
    def generate_span_id(self) -> int:
        return next_span_id.get() or super().generate_span_id()


async def _claim_and_die(bus: Bus, request_id: str, *, span_id: str = _LOST) -> None:
    """Claim a command, as a listener that is killed right after."""
    ((entry_id, raw),) = await deliver(bus, STREAM, count=1)
    parts = str(raw[b"traceparent"], "ascii").split("-")
    trace = ("-".join((*parts[:2], span_id, parts[3])), "", span_id)
    await _claim(bus, request_id, entry_id, trace)


async def _claim(bus: Bus, request_id: str, entry_id: str, trace: Trace) -> str:
    """Claim a request; returns the span context that the lost claim has left, if any."""
    answer = await bus.session().requests.begin(
        bus.key(f"request:{request_id}"),
        bus.key(STREAM),
        group=GROUP,
        entry_id=entry_id,
        consumer="other",
        token=str(uuid.uuid4()),
        lease_ms=100,
        retention=Retention(),
        max_deliveries=5,
        trace=trace,
    )
    assert isinstance(answer, Claimed)
    return answer.lost_span


async def _emit_and_lose_claim(bus: Bus, request_id: str) -> None:
    await bus.emit_command(STREAM, event_type="echo:say", payload={}, request_id=request_id)
    await _claim_and_die(bus, request_id)


async def _add_plain_command(bus: Bus, traceparent: str) -> None:
    """Add a command with XADD, with the trace context of another client."""
    fields = {
        "event_type": "echo:say",
        "payload": "{}",
        "request_id": "r",
        "reply_stream": "mine",
        "traceparent": traceparent,
    }
    await add_entry(bus, STREAM, fields)


async def _wait_until_running(bus: Bus, request_id: str) -> None:
    async def is_running() -> bool:
        status = await request_status(bus, request_id)
        return status is not None and status.status == "running"

    await eventually(is_running, within_s=20, why=f"a handler runs request {request_id}")


async def _wait_for_end(bus: Bus, request_id: str) -> None:
    await eventually(
        lambda: bus.outcome(request_id), within_s=20, why=f"request {request_id} has ended"
    )


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """The metrics of the library, in memory."""
    made = InMemoryMetricReader()
    provider = MeterProvider([made])
    meter = provider.get_meter("sagastream")
    for name, value in list(vars(metrics).items()):
        if isinstance(value, otel_metrics.Histogram):
            bounds = value._explicit_bucket_boundaries_advisory  # type: ignore[attr-defined]
            own: Any = meter.create_histogram(
                value._name,  # type: ignore[attr-defined]
                unit=value._unit,  # type: ignore[attr-defined]
                explicit_bucket_boundaries_advisory=bounds,
            )
            monkeypatch.setattr(metrics, name, own)
        elif isinstance(value, otel_metrics.Counter):
            own = meter.create_counter(value._name, unit=value._unit)  # type: ignore[attr-defined]
            monkeypatch.setattr(metrics, name, own)
    yield made
    provider.shutdown()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The finished spans of the library, in memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=_ChosenIds())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("sagastream"))
    yield exporter
    provider.shutdown()


def _find(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in spans.get_finished_spans() if span.name == name]
    return found


async def test_emit_handler_and_reply_are_one_trace(bus: Bus, spans: InMemorySpanExporter) -> None:
    """The span of the handler is a child of the sender's span and linked to it."""
    async with listening(bus, [say]):
        await bus.emit_command(
            STREAM,
            event_type="echo:say",
            payload={},
            correlation_id="c",
            request_id="r",
            reply_stream="mine",
        )
        reply = await bus.read_replies("mine", "c", "r", 10)
    send, process = _find(spans, f"send {STREAM}"), _find(spans, f"process {STREAM}")
    receive = _find(spans, "receive mine")
    assert (send.kind, process.kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)
    assert process.parent is not None
    assert process.parent.span_id == send.context.span_id
    assert process.context.trace_id == send.context.trace_id
    assert [link.context.span_id for link in process.links] == [send.context.span_id]
    assert [link.context.span_id for link in receive.links] == [process.context.span_id]
    assert reply["traceparent"].split("-")[2] == f"{process.context.span_id:016x}"
    assert reply["parent_span_id"] == f"{process.context.span_id:016x}"
    assert reply["payload"]["inside"] == f"{send.context.trace_id:032x}"
    assert reply["payload"]["parent_span_id"] == f"{send.context.span_id:016x}"


async def test_a_failure_is_recorded_on_the_handlers_span(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """The span has the type of the error, and the error has the trace id of the span."""
    async with listening(bus, [fail]):
        with pytest.raises(RequestFailed) as caught:
            await bus.request_and_reply(STREAM, "echo:fail", {})
    process = _find(spans, f"process {STREAM}")
    assert process.attributes is not None
    assert process.attributes["error.type"] == "LookupError"
    assert process.status.status_code is trace.StatusCode.ERROR
    assert caught.value.trace_id == f"{process.context.trace_id:032x}"


@pytest.mark.parametrize("given", ["zz", "00-0-0-0", _TRACEPARENT.upper(), "00-" + "0" * 55])
async def test_a_malformed_context_starts_a_new_trace(
    bus: Bus, spans: InMemorySpanExporter, given: str
) -> None:
    """A malformed traceparent does not fail the command and joins no other trace."""
    async with listening(bus, [say]):
        await _add_plain_command(bus, given)
        await bus.read_replies("mine", "r", "r", 10)
    process = _find(spans, f"process {STREAM}")
    assert process.parent is None
    assert process.links == ()


async def test_a_valid_context_of_another_client_is_joined(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """The trace of a client in another language continues in the handler."""
    async with listening(bus, [say]):
        await _add_plain_command(bus, _TRACEPARENT)
        await bus.read_replies("mine", "r", "r", 10)
    process = _find(spans, f"process {STREAM}")
    assert f"{process.context.trace_id:032x}" == _TRACEPARENT.split("-")[1]


async def test_an_idle_listener_makes_no_span(bus: Bus, spans: InMemorySpanExporter) -> None:
    """Several empty reads, sweeps and announcements make no span."""
    sweeps: set[bytes] = set()

    async def has_swept_twice() -> bool:
        # Only the sweeper's own lease shows that a sweep took place.
        until = await call(bus, "HGET", f"sweeper:{GROUP}:{STREAM}", "until")
        sweeps.update([until] if until else [])
        return len(sweeps) > 1

    async with listening(bus, [say], lease_s=1.0):
        await eventually(has_swept_twice, within_s=20, why="the listener has swept twice")
    assert spans.get_finished_spans() == ()


async def test_progress_and_start_are_events(bus: Bus, spans: InMemorySpanExporter) -> None:
    """Stages are events on the spans of handler and requester, not separate spans."""
    async with listening(bus, [work], progress_interval_s=0.001):
        await bus.request_and_reply(STREAM, "echo:work", {})
    process, receive = _find(spans, f"process {STREAM}"), _find(spans, "receive replies:{id}")
    assert [event.name for event in process.events] == ["start", "progress", "progress"]
    fractions = [event.attributes["sagastream.fraction"] for event in process.events[1:]]  # type: ignore[index]
    assert fractions == [0.25, 0.75]
    names = [event.name for event in receive.events]
    assert names == ["start", "progress", "progress", "completed"]


async def test_a_redelivery_is_linked_and_the_lost_claim_has_a_span(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """The span of the second claim links to the sender; that of the first one is an error."""
    await _emit_and_lose_claim(bus, "r")
    async with listening(bus, [say], lease_s=1.0):
        await _wait_for_end(bus, "r")
    send = _find(spans, f"send {STREAM}")
    lost, again = sorted(
        (span for span in spans.get_finished_spans() if span.name == f"process {STREAM}"),
        key=lambda span: span.start_time or 0,
    )
    assert again.parent is None
    assert [link.context.span_id for link in again.links] == [send.context.span_id]
    assert lost.parent is not None
    assert lost.parent.span_id == send.context.span_id
    assert lost.attributes is not None
    assert lost.attributes["error.type"] == "HandlerLost"
    assert (again.attributes or {})["sagastream.attempt"] == 2
    assert f"{lost.context.span_id:016x}" == _LOST


async def test_a_lost_handler_without_an_sdk_leaves_no_span(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """It had only the context of the sender, whose span the sender exports."""
    await bus.emit_command(STREAM, event_type="echo:say", payload={}, request_id="r")
    (command,) = await bus.last_entries(STREAM, 1)
    sender = command.fields["traceparent"].split("-")[2]
    await _claim_and_die(bus, "r", span_id=sender)
    async with listening(bus, [say], lease_s=1.0):
        await _wait_for_end(bus, "r")
    ids = [exported(span).span_id for span in spans.get_finished_spans()]
    assert ids.count(sender) == 1


async def test_a_handler_that_lost_its_claim_does_not_export_its_span(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """The process that took over exports it, so that a span id is exported once."""

    def is_released() -> bool:
        return f"release {STREAM}" in {span.name for span in spans.get_finished_spans()}

    async with listening(bus, [work], lease_s=1.0):
        entry_id = await bus.emit_command(
            STREAM, event_type="echo:work", payload={"for": 60}, request_id="r", correlation_id="c"
        )
        await _wait_until_running(bus, "r")
        await alter_record(bus, "r", lease_until=0)
        lost = await _claim(bus, "r", entry_id, ("", "", ""))
        await eventually(is_released, within_s=20, why="the first handler was stopped")
    release = _find(spans, f"release {STREAM}")
    assert release.parent is not None
    assert f"{release.parent.span_id:016x}" == lost.split("-")[2]
    assert f"process {STREAM}" not in {span.name for span in spans.get_finished_spans()}


@pytest.mark.parametrize(("approved", "error_type"), [(True, None), (False, "EventRejected")])
async def test_a_wait_has_a_span(
    bus: Bus, spans: InMemorySpanExporter, approved: bool, error_type: str | None
) -> None:
    """A child of the saga's root span, as long as the saga waited; an error if it was refused."""
    saga = Saga("order", (WaitFor("approval", accept=lambda event: event["ok"]),))
    runner = SagaRunner(bus, saga)
    saga_id = await runner.start({})
    running = asyncio.create_task(runner.run(saga_id))

    async def is_waiting() -> bool:
        return bool((await runner.journal(saga_id)).entries)

    await eventually(is_waiting, within_s=10, why="it waits")
    await signal_saga(bus, saga_id, "approval", {"ok": approved})
    await running
    wait, root = _find(spans, "approval"), _find(spans, "saga order")
    assert wait.parent is not None
    assert wait.parent.span_id == root.context.span_id
    entry = (await runner.journal(saga_id)).entries[0]
    assert (wait.start_time, wait.end_time) == (
        round(entry.started * 1e9),
        round((entry.ended or 0) * 1e9),
    )
    assert (wait.attributes or {}).get("error.type") == error_type


async def test_a_redelivered_step_is_a_child_of_the_sagas_root_span(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """A saga whose worker was killed has one root span and no orphan."""
    runner = SagaRunner(bus, Saga("sayer", (Step("one", STREAM, "echo:say", lambda i, _: i),)))
    saga_id = await runner.start({})
    running = asyncio.create_task(runner.run(saga_id))
    await eventually(
        lambda: bus.last_entries(STREAM, 1), within_s=10, why="the step's command is sent"
    )
    journal = await runner.journal(saga_id)
    await _claim_and_die(bus, journal.entries[0].request_id)
    async with listening(bus, [say], lease_s=1.0):
        await running
    found = [exported(span) for span in spans.get_finished_spans()]
    assert faults_of_trace(found) == []
    (root,) = [span for span in found if not span.parent_id]
    assert root.name == "saga sayer"
    parents = {span.parent_id for span in found if span.name == f"process {STREAM}"}
    assert root.span_id in parents


async def test_all_spans_and_series_pass_the_conventions(
    bus: Bus, spans: InMemorySpanExporter, reader: InMemoryMetricReader
) -> None:
    """Success, failure, timeout, dead letter, release and takeover conform to version 1.44."""
    await _emit_and_lose_claim(bus, "r")
    async with listening(bus, [say, fail, work], lease_s=1.0, drain_s=0.01):
        await bus.request_and_reply(STREAM, "echo:say", {})
        with pytest.raises(RequestFailed):
            await bus.request_and_reply(STREAM, "echo:fail", {})
        with pytest.raises(ReplyTimeout):
            await bus.read_replies("nobody", "c", "unknown", 0.05)
        await bus.emit_event(
            "news", event_type="a:b", status="said", payload={}, correlation_id="c", ttl=60
        )
        await add_entry(bus, STREAM, {"what": "this"})
        await eventually(
            lambda: dead_letters(bus, STREAM), within_s=10, why="the entry is a dead letter"
        )
        await _wait_for_end(bus, "r")
        await bus.emit_command(
            STREAM, event_type="echo:work", payload={"for": 60}, request_id="long"
        )
        await _wait_until_running(bus, "long")
    found = [exported(span) for span in spans.get_finished_spans()]
    assert [fault for span in found for fault in faults_of_span(span)] == []
    assert {span.attributes["messaging.operation.name"] for span in found} == {
        *("send", "receive", "process", "ack", "reject", "release")
    }
    series = series_of(reader.get_metrics_data())
    assert [fault for one in series for fault in faults_of_series(one)] == []
    assert {one.name for one in series} >= {
        "messaging.client.operation.duration",
        "messaging.process.duration",
        "messaging.client.sent.messages",
        "messaging.client.consumed.messages",
        "sagastream.redeliveries",
        "sagastream.dead_letters",
    }


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"name": "echo:commands send"}, "is not named"),
        ({"kind": "client"}, "not one of ['producer']"),
        ({"is_error": True}, "error"),
        ({"attributes": {"messaging.operation": "publish"}}, "not in the conventions"),
        ({"attributes": {"messaging.batch.message_count": 1}}, "not a batch operation"),
        ({"name": "send replies:0af76519-16cd-43dd-8448-eb211c80319c"}, "an id in its name"),
    ],
)
def test_a_span_that_breaks_a_convention_is_found(change: dict[str, Any], fault: str) -> None:
    """The check of the tests reports each kind of fault."""
    attributes = {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": STREAM,
        "server.address": "localhost",
    }
    good = ExportedSpan(f"send {STREAM}", "producer", "t", "s", "", attributes, False)
    assert faults_of_span(good) == []
    change = change | {"attributes": attributes | change.get("attributes", {})}
    assert any(fault in found for found in faults_of_span(replace(good, **change)))


async def test_span_names_have_no_ids(bus: Bus, spans: InMemorySpanExporter) -> None:
    """The name of a span has no id of an inbox, so that there are few names."""
    async with listening(bus, [say]):
        await bus.request_and_reply(STREAM, "echo:say", {})
    names = {span.name for span in spans.get_finished_spans()}
    assert names == {
        f"send {STREAM}",
        f"process {STREAM}",
        f"ack {STREAM}",
        "receive replies:{id}",
    }


async def test_without_an_sdk_the_callers_context_reaches_the_reply(bus: Bus) -> None:
    """With the OpenTelemetry API alone the trace context is passed on."""
    async with listening(bus, [say]):
        await _add_plain_command(bus, _TRACEPARENT)
        reply = await bus.read_replies("mine", "r", "r", 10)
    assert reply["traceparent"].split("-")[1] == _TRACEPARENT.split("-")[1]


def test_the_library_imports_only_the_opentelemetry_api() -> None:
    """The application chooses the SDK, the exporters and the logging, or none."""
    sources = sorted(Path(sagastream.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    foreign = re.compile(r"opentelemetry[.](sdk|exporter|instrumentation|semconv)|structlog")
    assert [path.name for path in sources if foreign.search(path.read_text())] == []
