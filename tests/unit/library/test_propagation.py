"""Baggage, and what else the configured propagators carry, from requester to handler."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.b3 import B3MultiFormat
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from sagastream import Bus, Command, PlainProgress, Progress, multi_stage_reply
from sagastream._telemetry.propagation import MAX_CONTEXT_BYTES
from sagastream._telemetry.trace_context import sender_context, trace_id
from sagastream.saga import Compensation, Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer
from sagastream.tracing import process_span, send_span
from tests.listeners import listening
from tests.plain_client import add_entry, call, deliver
from tests.polling import eventually
from tests.records import record_of

STREAM = "work:commands"
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# The fields that every release takes in a command's entry.
FIELDS = {
    *("correlation_id", "request_id", "saga_id", "event_type", "payload", "reply_stream", "v"),
    *("traceparent", "tracestate", "parent_span_id", "deadline", "timestamp"),
}


def _seen() -> dict[str, Any]:
    return {"tenant": baggage.get_baggage("tenant"), "trace_id": trace_id()}


@multi_stage_reply(stream=STREAM, event_type="work:see")
async def see(_command: Command, _progress: Progress) -> dict[str, Any]:
    """Reply with the tenant in the baggage, and the trace."""
    return _seen()


@multi_stage_reply(stream=STREAM, event_type="work:see_plain")
def see_plain(_command: Command, _progress: PlainProgress) -> dict[str, Any]:
    """As `see`, in a thread."""
    return _seen()


@multi_stage_reply(stream=STREAM, event_type="work:see_late")
async def see_late(command: Command, _progress: Progress) -> dict[str, Any]:
    """As `see`, but the first claim never ends."""
    if command.attempt == 1:
        await asyncio.Event().wait()
    return _seen() | {"attempt": command.attempt}


@multi_stage_reply(stream=STREAM, event_type="work:refuse")
async def refuse(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise LookupError


@contextmanager
def _tenant(name: str) -> Iterator[None]:
    """Have a tenant in the baggage."""
    token = context.attach(baggage.set_baggage("tenant", name))
    try:
        yield
    finally:
        context.detach(token)


async def _ask(bus: Bus, event_type: str = "work:see", **options: Any) -> dict[str, Any]:
    reply = await bus.request_and_reply(STREAM, event_type, {}, 20, **options)
    return dict(reply["payload"])


async def _outcome(bus: Bus, request_id: str) -> dict[str, Any]:
    reply = await eventually(
        lambda: bus.outcome(request_id), within_s=20, why=f"request {request_id} has ended"
    )
    return dict(reply["payload"])


async def _ask_plainly(bus: Bus, carried: str | bytes, **fields: str) -> dict[str, Any]:
    """Send a command with XADD, with a `context`, as a client in another language does."""
    entry = {"event_type": "work:see", "payload": "{}", "request_id": "r", "context": carried}
    async with listening(bus, [see]):
        await add_entry(bus, STREAM, entry | fields)
        return await _outcome(bus, "r")


@contextmanager
def _propagator(propagator: TextMapPropagator) -> Iterator[None]:
    """Have a propagator configured in this process."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(propagator)
    try:
        yield
    finally:
        propagate.set_global_textmap(before)


class _Colour(TextMapPropagator):
    """Carries a colour, which is the handler's tenant; `broken` raises instead."""

    def __init__(self, colour: str = "red", *, broken: bool = False) -> None:
        self._colour = colour
        self._broken = broken

    def _check(self) -> None:
        if self._broken:
            raise ZeroDivisionError

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        self._check()
        carrier["colour"] = self._colour

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        self._check()
        return baggage.set_baggage("tenant", carrier["colour"], context)

    @property
    def fields(self) -> set[str]:
        return {"colour"}


@pytest.mark.parametrize("event_type", ["work:see", "work:see_plain"])
async def test_a_handler_sees_the_baggage_of_its_requester(bus: Bus, event_type: str) -> None:
    """An async one and one in a thread."""
    async with listening(bus, [see, see_plain]):
        with _tenant("blue"):
            assert (await _ask(bus, event_type))["tenant"] == "blue"
        assert (await _ask(bus, event_type))["tenant"] is None


async def test_a_handler_does_not_see_the_baggage_of_its_listener(bus: Bus) -> None:
    """What was current when the listener started belongs to no request."""
    async with AsyncExitStack() as stack:
        with _tenant("listener"):
            await stack.enter_async_context(listening(bus, [see]))
        assert (await _ask(bus))["tenant"] is None


async def test_the_entry_has_no_field_that_an_earlier_release_refuses(bus: Bus) -> None:
    """The record carries the context, and nothing if there is none."""
    with _tenant("blue"):
        await bus.emit_command(STREAM, event_type="work:see", payload={}, request_id="with")
    await bus.emit_command(STREAM, event_type="work:see", payload={}, request_id="without")
    for entry in await bus.last_entries(STREAM, 2):
        assert entry.fields.keys() <= FIELDS
    assert json.loads((await record_of(bus, "with"))["context"]) == {"baggage": "tenant=blue"}
    assert (await record_of(bus, "without"))["context"] == ""


async def test_the_next_claim_after_a_release_sees_it_too(bus: Bus) -> None:
    """A listener that stops gives the request back, and another one takes it."""
    with _tenant("blue"):
        await bus.emit_command(STREAM, event_type="work:see_late", payload={}, request_id="r")
    async with listening(bus, [see_late], drain_s=0.1):
        await anext(bus.follow("r"))
    async with listening(bus, [see_late], lease_s=0.5):
        assert await _outcome(bus, "r") | {"trace_id": ""} == {
            "tenant": "blue",
            "trace_id": "",
            "attempt": 2,
        }


async def test_a_requeued_command_has_it_too(bus: Bus) -> None:
    """Its entry is lost; the record has all that the handler needs."""
    with _tenant("blue"):
        await bus.emit_command(STREAM, event_type="work:see", payload={}, request_id="r")
    await deliver(bus, STREAM)
    await call(bus, "DEL", STREAM)
    async with listening(bus, [see], lease_s=0.3):
        assert (await _outcome(bus, "r"))["tenant"] == "blue"
    (entry,) = await bus.last_entries(STREAM, 1)
    assert entry.fields.keys() <= FIELDS


async def test_a_handlers_own_requests_carry_it_on(bus: Bus) -> None:
    """As they continue the trace."""

    @multi_stage_reply(stream=STREAM, event_type="work:ask")
    async def ask(_command: Command, _progress: Progress) -> dict[str, Any]:
        """Ask another handler."""
        return await _ask(bus)

    async with listening(bus, [see, ask]):
        with _tenant("blue"):
            assert (await _ask(bus, "work:ask"))["tenant"] == "blue"


async def test_a_plain_entry_may_have_a_context(bus: Bus) -> None:
    """Its handler sees it, whichever client wrote the entry."""
    seen = await _ask_plainly(bus, '{"baggage": "tenant=blue,other=1"}')
    assert seen["tenant"] == "blue"


@pytest.mark.parametrize(
    "carried",
    [
        "tenant=blue",
        '"tenant=blue"',
        '["tenant=blue"]',
        '{"baggage": 1}',
        '{"baggage": null, "tenant": {"a": []}}',
        '{"baggage": ";;,,==\\u0000"}',
        b'{"baggage": "tenant=\xff"}',
        "[" * 5000,
        json.dumps({"baggage": "tenant=blue", "more": "x" * MAX_CONTEXT_BYTES}),
    ],
    ids=["text", "string", "list", "number", "nested", "baggage", "bytes", "deep", "large"],
)
async def test_a_malformed_context_is_ignored(bus: Bus, carried: str | bytes) -> None:
    """The command runs as without it."""
    assert (await _ask_plainly(bus, carried))["tenant"] is None


async def test_a_context_that_is_too_large_is_left_out(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """The request runs without it, and one line in the debug log says so."""
    caplog.set_level(logging.DEBUG, "sagastream")
    with _propagator(_Colour("r" * (MAX_CONTEXT_BYTES - len('{"colour":""}')))):
        assert (await _ask_alone(bus))["tenant"] is not None
    with _propagator(_Colour("r" * MAX_CONTEXT_BYTES)):
        assert (await _ask_alone(bus))["tenant"] is None
    (line,) = [record for record in caplog.records if "context not propagated" in record.message]
    assert line.levelno == logging.DEBUG


async def _ask_alone(bus: Bus) -> dict[str, Any]:
    async with listening(bus, [see]):
        return await _ask(bus)


async def test_any_propagator_is_used(bus: Bus) -> None:
    """What it injects comes to its `extract` in the handler's process."""
    with _propagator(_Colour()):
        assert (await _ask_alone(bus))["tenant"] == "red"


async def test_a_propagator_gets_text_only(bus: Bus) -> None:
    """It need not expect what only JSON has."""
    with _propagator(_Colour()):
        assert (await _ask_plainly(bus, '{"colour": 7}'))["tenant"] is None


async def test_a_propagator_that_raises_fails_nothing(bus: Bus) -> None:
    """Neither at the requester nor at the handler."""
    with _propagator(_Colour(broken=True)):
        assert (await _ask_alone(bus))["tenant"] is None
        assert (await _ask_plainly(bus, '{"colour": "red"}'))["tenant"] is None


async def test_b3_headers_are_carried_and_the_trace_is_the_same(bus: Bus) -> None:
    """The W3C fields stay: listeners that are configured otherwise continue the trace."""
    span = SpanContext(
        int(TRACE_ID, 16), int(SPAN_ID, 16), is_remote=False, trace_flags=TraceFlags(1)
    )
    with _propagator(B3MultiFormat()), trace.use_span(NonRecordingSpan(span)):
        assert (await _ask_alone(bus))["trace_id"] == TRACE_ID
        await bus.emit_command(STREAM, event_type="work:see", payload={}, request_id="r")
    carried = json.loads((await record_of(bus, "r"))["context"])
    assert carried["x-b3-traceid"] == TRACE_ID
    assert (await bus.last_entries(STREAM, 1))[0].fields["traceparent"].split("-")[1] == TRACE_ID


async def test_an_entry_with_b3_headers_only_continues_their_trace(bus: Bus) -> None:
    """A client in another language may know no other propagator."""
    carried = {"x-b3-traceid": TRACE_ID, "x-b3-spanid": SPAN_ID, "x-b3-sampled": "1"}
    with _propagator(B3MultiFormat()):
        assert (await _ask_plainly(bus, json.dumps(carried)))["trace_id"] == TRACE_ID
        assert sender_context({"context": json.dumps(carried)}).span_id == int(SPAN_ID, 16)


async def test_a_traceparent_wins_over_other_headers(bus: Bus) -> None:
    """The trace of an entry is that of `traceparent`."""
    carried = {"x-b3-traceid": "1" * 32, "x-b3-spanid": "2" * 16, "x-b3-sampled": "1"}
    traceparent = f"00-{TRACE_ID}-{SPAN_ID}-01"
    with _propagator(B3MultiFormat()):
        seen = await _ask_plainly(bus, json.dumps(carried), traceparent=traceparent)
    assert seen["trace_id"] == TRACE_ID


def _payload(given: dict[str, Any], _results: Any) -> dict[str, Any]:
    return given


async def test_steps_and_compensations_have_the_baggage_of_the_sagas_start(bus: Bus) -> None:
    """The journal carries it: another process drives the saga, without the baggage."""
    seen: list[tuple[str, Any]] = []

    def seer(name: str) -> Any:
        @multi_stage_reply(stream=STREAM, event_type=name)
        async def handler(command: Command, _progress: Progress) -> None:
            """Note the tenant."""
            seen.append((command.event_type, baggage.get_baggage("tenant")))

        return handler

    steps = (
        Step("first", STREAM, "work:do", _payload, Compensation("work:undo", _payload)),
        Step("last", STREAM, "work:refuse", _payload),
    )
    saga = Saga("trip", steps)
    with _tenant("blue"):
        saga_id = await SagaRunner(bus, saga).start({})
    async with (
        Bus(bus.url, namespace=bus.namespace) as other,
        listening(bus, [seer("work:do"), seer("work:undo"), refuse]),
    ):
        outcome = await SagaRunner(other, saga).run(saga_id)
    assert outcome.status == "compensated"
    assert seen == [("work:do", "blue"), ("work:undo", "blue")]


async def test_another_transport_carries_it_too() -> None:
    """The headers of `send_span` have it, and `process_span` makes it current."""
    with _tenant("blue"), send_span("redis://localhost", "tasks", {}) as headers:
        pass
    with process_span("redis://localhost", "tasks", {}, headers, kind="task"):
        assert baggage.get_baggage("tenant") == "blue"
    with _tenant("own"), process_span("redis://localhost", "tasks", {}, {}, kind="task"):
        assert baggage.get_baggage("tenant") is None
    assert baggage.get_baggage("tenant") is None


def _emit_in_a_process(server: EmbeddedServer, propagators: str) -> str:
    """Emit request `r` with baggage and a span in a process with OTEL_PROPAGATORS."""
    code = f"""
import asyncio, sys
from opentelemetry import baggage, context, trace
from sagastream import Bus

async def main():
    async with Bus(sys.argv[1]) as bus:
        await bus.emit_command("{STREAM}", event_type="work:see", payload={{}}, request_id="r")

span = trace.SpanContext(int("{TRACE_ID}", 16), int("{SPAN_ID}", 16), False, trace.TraceFlags(1))
context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))
context.attach(baggage.set_baggage("tenant", "blue"))
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, server.url],
        env=os.environ | {"OTEL_PROPAGATORS": propagators},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("propagators", "names"),
    [
        ("tracecontext,baggage", {"baggage"}),
        ("b3", {"b3"}),
        ("b3multi,baggage", {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "baggage"}),
        ("none", set()),
        ("unknown,baggage", set()),
    ],
)
async def test_otel_propagators_is_respected(
    own_server: EmbeddedServer, propagators: str, names: set[str]
) -> None:
    """One that is not installed is a warning: the library works, with the trace context alone."""
    errors = await asyncio.to_thread(_emit_in_a_process, own_server, propagators)
    assert ("only the trace context is propagated" in errors) == ("unknown" in propagators)
    async with Bus(own_server.url) as bus:
        stored = (await record_of(bus, "r"))["context"]
        assert json.loads(stored or "{}").keys() == names
        (entry,) = await bus.last_entries(STREAM, 1)
    assert entry.fields["traceparent"].split("-")[1] == TRACE_ID
