from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sagastream import Bus, Command, Progress, RequestFailed, multi_stage_reply, telemetry
from tests.conftest import listening

STREAM = "echo:commands"
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@multi_stage_reply(stream=STREAM, event_type="echo:say")
async def say(command: Command, _progress: Progress) -> dict[str, Any]:
    """Say what the handler knows of its trace."""
    return {
        "inside": telemetry.trace_id(),
        "traceparent": command.traceparent,
        "parent_span_id": command.parent_span_id,
    }


@multi_stage_reply(stream=STREAM, event_type="echo:fail")
async def fail(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise LookupError("no such thing")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What the library's tracer makes, in memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
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
        await bus.endpoint().connection.call(
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
        await bus.endpoint().connection.call(
            *("XADD", bus.key(STREAM), "*", "event_type", "echo:say", "payload", "{}"),
            *("request_id", "r", "reply_stream", "mine", "traceparent", _TRACEPARENT),
        )
        await bus.read_replies("mine", "r", "r", 10)
    process = _named(spans, f"process {STREAM}")
    assert f"{process.context.trace_id:032x}" == _TRACEPARENT.split("-")[1]


async def test_an_idle_listener_makes_no_span(bus: Bus, spans: InMemorySpanExporter) -> None:
    """Polling is not work."""
    async with listening(bus, [say]):
        assert (await bus.endpoint().connection.call("PING")) in {b"PONG", True}
    assert spans.get_finished_spans() == ()


async def test_names_of_spans_have_no_ids(bus: Bus, spans: InMemorySpanExporter) -> None:
    """Inboxes are many; span names stay few."""
    async with listening(bus, [say]):
        await bus.request_and_reply(STREAM, "echo:say", {})
    names = {span.name for span in spans.get_finished_spans()}
    assert names == {f"send {STREAM}", f"process {STREAM}", "receive replies:{id}"}


async def test_without_an_sdk_the_callers_context_still_goes_through(bus: Bus) -> None:
    """The API alone costs nothing and loses nothing."""
    async with listening(bus, [say]):
        await bus.endpoint().connection.call(
            *("XADD", bus.key(STREAM), "*", "event_type", "echo:say", "payload", "{}"),
            *("request_id", "r", "reply_stream", "mine", "traceparent", _TRACEPARENT),
        )
        reply = await bus.read_replies("mine", "r", "r", 10)
    assert reply["traceparent"].split("-")[1] == _TRACEPARENT.split("-")[1]
