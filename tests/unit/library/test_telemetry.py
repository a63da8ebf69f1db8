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
from sagastream import Bus, Command, Progress, ReplyTimeout, RequestFailed, multi_stage_reply
from sagastream._functions.answers import Claimed
from sagastream._telemetry import metrics
from sagastream._telemetry import spans as telemetry
from sagastream._telemetry.trace_context import Trace, next_span_id, trace_id
from sagastream.saga import Saga, SagaRunner, Step
from tests.listeners import listening
from tests.semconv import (
    SeenSpan,
    faults_of_series,
    faults_of_span,
    faults_of_trace,
    seen,
    series_of,
)

STREAM = "echo:commands"
_LOST = "00f067aa0ba902b7"
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@multi_stage_reply(stream=STREAM, event_type="echo:say")
async def say(command: Command, _progress: Progress) -> dict[str, Any]:
    """Say what the handler knows of its trace."""
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
    """Tell of progress twice, and take as long as one is asked to."""
    for fraction in (0.25, 0.75):
        await progress(fraction)
        await asyncio.sleep(0.01)
    await asyncio.sleep(command.payload.get("for", 0))
    return {}


class _ChosenIds(RandomIdGenerator):
    def generate_span_id(self) -> int:
        return next_span_id.get() or super().generate_span_id()


async def _begin(bus: Bus, request_id: str, *, span_id: str = _LOST) -> None:
    """Claim a command as a listener does that is killed right after."""
    key = bus.key
    call = bus.command
    await call("XGROUP", "CREATE", key(STREAM), "sagastream", "0", "MKSTREAM")
    read = ("XREADGROUP", "GROUP", "sagastream", "dead", "COUNT", 1, "STREAMS", key(STREAM), ">")
    ((_, ((entry_id, raw),)),) = await call(*read)
    carried = str(raw[b"traceparent"], "ascii").split("-")
    trace = ("-".join((*carried[:2], span_id, carried[3])), "", span_id)
    await _claim(bus, request_id, entry_id.decode(), trace)


async def _claim(bus: Bus, request_id: str, entry_id: str, trace: Trace) -> str:
    """Begin a request; what the claim before it left behind."""
    answer = await bus.session().requests.begin(
        bus.key(f"request:{request_id}"),
        bus.key(STREAM),
        group="sagastream",
        entry_id=entry_id,
        consumer="other",
        token=str(uuid.uuid4()),
        lease_ms=100,
        retention_ms=60_000,
        max_deliveries=5,
        trace=trace,
    )
    assert isinstance(answer, Claimed)
    return answer.lost_span


async def _claimed_and_left(bus: Bus, request_id: str) -> None:
    await bus.emit_command(STREAM, event_type="echo:say", payload={}, request_id=request_id)
    await _begin(bus, request_id)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """What the library's meter counts, in memory."""
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
    """What the library's tracer makes, in memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=_ChosenIds())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("sagastream"))
    yield exporter
    provider.shutdown()


def _named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in spans.get_finished_spans() if span.name == name]
    return found


async def test_emit_handler_and_reply_are_one_trace(bus: Bus, spans: InMemorySpanExporter) -> None:
    """The spans of requester and handler exist and hang together over the stream."""
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
    send, process = _named(spans, f"send {STREAM}"), _named(spans, f"process {STREAM}")
    receive = _named(spans, "receive mine")
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


async def test_a_failure_is_seen_on_the_handlers_span(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """The span has the error's type, and the error has the span's trace."""
    async with listening(bus, [fail]):
        with pytest.raises(RequestFailed) as caught:
            await bus.request_and_reply(STREAM, "echo:fail", {})
    process = _named(spans, f"process {STREAM}")
    assert process.attributes is not None
    assert process.attributes["error.type"] == "LookupError"
    assert process.status.status_code is trace.StatusCode.ERROR
    assert caught.value.trace_id == f"{process.context.trace_id:032x}"


@pytest.mark.parametrize("given", ["zz", "00-0-0-0", _TRACEPARENT.upper(), "00-" + "0" * 55])
async def test_a_malformed_context_starts_a_new_trace(
    bus: Bus, spans: InMemorySpanExporter, given: str
) -> None:
    """A bad header neither fails the message nor joins a stranger's trace."""
    async with listening(bus, [say]):
        await bus.command(
            *("XADD", bus.key(STREAM), "*", "event_type", "echo:say", "payload", "{}"),
            *("request_id", "r", "reply_stream", "mine", "traceparent", given),
        )
        await bus.read_replies("mine", "r", "r", 10)
    process = _named(spans, f"process {STREAM}")
    assert process.parent is None
    assert process.links == ()


async def test_a_good_context_from_elsewhere_is_joined(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """Another language's trace goes on in the handler."""
    async with listening(bus, [say]):
        await bus.command(
            *("XADD", bus.key(STREAM), "*", "event_type", "echo:say", "payload", "{}"),
            *("request_id", "r", "reply_stream", "mine", "traceparent", _TRACEPARENT),
        )
        await bus.read_replies("mine", "r", "r", 10)
    process = _named(spans, f"process {STREAM}")
    assert f"{process.context.trace_id:032x}" == _TRACEPARENT.split("-")[1]


async def test_an_idle_listener_makes_no_span(bus: Bus, spans: InMemorySpanExporter) -> None:
    """Polling is not work: several empty reads, sweeps and announcements leave nothing."""
    async with listening(bus, [say], lease_s=1.0):
        sweeper = bus.key(f"sweeper:sagastream:{STREAM}")
        while not await bus.command("EXISTS", sweeper):
            await asyncio.sleep(0.02)
        first = await bus.command("HGET", sweeper, "until")
        while await bus.command("HGET", sweeper, "until") == first:
            await asyncio.sleep(0.02)
    assert spans.get_finished_spans() == ()


async def test_progress_and_start_are_events(bus: Bus, spans: InMemorySpanExporter) -> None:
    """Stages are events of the handler's span and of its requester's, not spans of their own."""
    async with listening(bus, [work], progress_interval_s=0.001):
        await bus.request_and_reply(STREAM, "echo:work", {})
    process, receive = _named(spans, f"process {STREAM}"), _named(spans, "receive replies:{id}")
    assert [event.name for event in process.events] == ["start", "progress", "progress"]
    fractions = [event.attributes["sagastream.fraction"] for event in process.events[1:]]  # type: ignore[index]
    assert fractions == [0.25, 0.75]
    names = [event.name for event in receive.events]
    assert names == ["start", "progress", "progress", "completed"]


async def test_a_redelivery_is_linked_and_the_lost_claim_is_told(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """The second claim links to the sender; what the first began is there, and is an error."""
    await _claimed_and_left(bus, "r")
    async with listening(bus, [say], lease_s=1.0):
        while not await bus.outcome("r"):
            await asyncio.sleep(0.02)
    send = _named(spans, f"send {STREAM}")
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
    """It carried the sender's context on, whose span is the sender's to tell."""
    await bus.emit_command(STREAM, event_type="echo:say", payload={}, request_id="r")
    ((_, raw),) = await bus.command("XRANGE", bus.key(STREAM), "-", "+")
    sender = raw[b"traceparent"].decode().split("-")[2]
    await _begin(bus, "r", span_id=sender)
    async with listening(bus, [say], lease_s=1.0):
        while not await bus.outcome("r"):
            await asyncio.sleep(0.02)
    ids = [seen(span).span_id for span in spans.get_finished_spans()]
    assert ids.count(sender) == 1


async def test_a_handler_that_comes_back_does_not_tell_its_span_again(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """Whoever took over has told of it: one span id is exported by one process."""
    async with listening(bus, [work], lease_s=1.0):
        entry_id = await bus.emit_command(
            STREAM, event_type="echo:work", payload={"for": 60}, request_id="r", correlation_id="c"
        )
        call, record = bus.command, bus.key("request:r")
        while not await call("HEXISTS", record, "span"):
            await asyncio.sleep(0.01)
        await call("HSET", record, "lease_until", "0")
        lost = await _claim(bus, "r", entry_id, ("", "", ""))
        while f"release {STREAM}" not in {span.name for span in spans.get_finished_spans()}:
            await asyncio.sleep(0.01)
    release = _named(spans, f"release {STREAM}")
    assert release.parent is not None
    assert f"{release.parent.span_id:016x}" == lost.split("-")[2]
    assert f"process {STREAM}" not in {span.name for span in spans.get_finished_spans()}


async def test_a_redelivered_step_hangs_under_its_sagas_root(
    bus: Bus, spans: InMemorySpanExporter
) -> None:
    """So that a mission whose worker was killed has one root and no orphan."""
    runner = SagaRunner(bus, Saga("sayer", (Step("one", STREAM, "echo:say", lambda i, _: i),)))
    saga_id = await runner.start({})
    running = asyncio.create_task(runner.run(saga_id))
    while not await bus.command("XLEN", bus.key(STREAM)):
        await asyncio.sleep(0.01)
    journal = await runner.journal(saga_id)
    await _begin(bus, journal.entries[0].request_id)
    async with listening(bus, [say], lease_s=1.0):
        await running
    found = [seen(span) for span in spans.get_finished_spans()]
    assert faults_of_trace(found) == []
    (root,) = [span for span in found if not span.parent_id]
    assert root.name == "saga sayer"
    parents = {span.parent_id for span in found if span.name == f"process {STREAM}"}
    assert root.span_id in parents


async def test_all_spans_and_series_pass_the_conventions(
    bus: Bus, spans: InMemorySpanExporter, reader: InMemoryMetricReader
) -> None:
    """Success, failure, timeout, dead letter, release and a takeover keep to version 1.44."""
    await _claimed_and_left(bus, "r")
    async with listening(bus, [say, fail, work], lease_s=1.0, drain_s=0.01):
        await bus.request_and_reply(STREAM, "echo:say", {})
        with pytest.raises(RequestFailed):
            await bus.request_and_reply(STREAM, "echo:fail", {})
        with pytest.raises(ReplyTimeout):
            await bus.read_replies("nobody", "c", "unknown", 0.05)
        await bus.emit_event(
            "news", event_type="a:b", status="said", payload={}, correlation_id="c", ttl=60
        )
        await bus.command("XADD", bus.key(STREAM), "*", "what", "this")
        while not await bus.command("XLEN", bus.key(f"{STREAM}:dead")):
            await asyncio.sleep(0.02)
        while not await bus.outcome("r"):
            await asyncio.sleep(0.02)
        await bus.emit_command(
            STREAM, event_type="echo:work", payload={"for": 60}, request_id="long"
        )
        stages = bus.key("request:long:stages")
        while not await bus.command("XLEN", stages):
            await asyncio.sleep(0.01)
    found = [seen(span) for span in spans.get_finished_spans()]
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
        ({"attributes": {"messaging.batch.message_count": 1}}, "no operation on a batch"),
        ({"name": "send replies:0af76519-16cd-43dd-8448-eb211c80319c"}, "an id in its name"),
    ],
)
def test_the_table_rejects(change: dict[str, Any], fault: str) -> None:
    """A span that breaks one rule is found."""
    attributes = {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": STREAM,
        "server.address": "localhost",
    }
    good = SeenSpan(f"send {STREAM}", "producer", "t", "s", "", attributes, False)
    assert faults_of_span(good) == []
    change = change | {"attributes": attributes | change.get("attributes", {})}
    assert any(fault in found for found in faults_of_span(replace(good, **change)))


async def test_names_of_spans_have_no_ids(bus: Bus, spans: InMemorySpanExporter) -> None:
    """Inboxes are many; span names stay few."""
    async with listening(bus, [say]):
        await bus.request_and_reply(STREAM, "echo:say", {})
    names = {span.name for span in spans.get_finished_spans()}
    assert names == {
        f"send {STREAM}",
        f"process {STREAM}",
        f"ack {STREAM}",
        "receive replies:{id}",
    }


async def test_without_an_sdk_the_callers_context_still_goes_through(bus: Bus) -> None:
    """The API alone costs nothing and loses nothing."""
    async with listening(bus, [say]):
        await bus.command(
            *("XADD", bus.key(STREAM), "*", "event_type", "echo:say", "payload", "{}"),
            *("request_id", "r", "reply_stream", "mine", "traceparent", _TRACEPARENT),
        )
        reply = await bus.read_replies("mine", "r", "r", 10)
    assert reply["traceparent"].split("-")[1] == _TRACEPARENT.split("-")[1]


def test_the_library_knows_the_api_alone() -> None:
    """Whoever installs it chooses an SDK, exporters and how to log; or none."""
    sources = sorted(Path(sagastream.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    foreign = re.compile(r"opentelemetry[.](sdk|exporter|instrumentation|semconv)|structlog")
    assert [path.name for path in sources if foreign.search(path.read_text())] == []
