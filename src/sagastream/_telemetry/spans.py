"""Spans and trace context over the stream, by the OpenTelemetry API alone.

Names and attributes follow the messaging semantic conventions, version 1.44. Whoever sends
writes `traceparent`, `tracestate` and `parent_span_id` into the entry; whoever receives makes
its span a child of that and links to it. A malformed context starts a new trace. A command
that is delivered again is linked alone, and hangs under its saga's root if it has one.
"""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sagastream._telemetry import metrics
from sagastream._telemetry.operations import Attributes, MessagingOperation, Server, place

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

_TRACER = trace.get_tracer("sagastream", schema_url=SCHEMA_URL)
_PROPAGATOR = TraceContextTextMapPropagator()
# The member of `tracestate` that names the span under which a whole saga hangs.
_SAGA = "saga"
_SPAN_ID = re.compile(r"[0-9a-f]{16}")

# The values of traceparent, tracestate and parent_span_id; empty if untraced.
Trace = tuple[str, str, str]
_CARRIER = ("traceparent", "tracestate", "parent_span_id")
_UNTRACED: Trace = ("", "", "")
# What of a message a span tells, by the field that has it.
_OF_MESSAGE = (
    ("messaging.message.conversation_id", "correlation_id"),
    ("messaging.message.id", "entry_id"),
)
_OWN = tuple(
    (f"sagastream.{name}", name)
    for name in ("request_id", "saga_id", "event_type", "step", "direction", "attempt")
)

# What the current code works for, as fields of a log line: ids, step, attempt.
belonging: ContextVar[Mapping[str, str | int]] = ContextVar(
    "sagastream_belonging", default=MappingProxyType({})
)
# The id that the next span is to get, for providers whose id generator asks for it: so the
# span of a handler that was killed can be told by whoever takes its place.
chosen_span_id: ContextVar[int] = ContextVar("sagastream_chosen_span_id", default=0)


def trace_of(span: Span | None = None) -> Trace:
    """A span's context, or the current one's, as an entry carries it."""
    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return _UNTRACED
    span_id = trace.format_span_id(context.span_id)
    flags = f"{context.trace_flags:02x}"
    return (
        f"00-{trace.format_trace_id(context.trace_id)}-{span_id}-{flags}",
        context.trace_state.to_header() if context.trace_state else "",
        span_id,
    )


def carrier(span: Span | None = None) -> dict[str, str]:
    """The same as fields of an entry."""
    return dict(zip(_CARRIER, trace_of(span), strict=True))


def extract(fields: Mapping[str, Any]) -> Context:
    """The context that an entry carries; an empty one if it is missing or malformed."""
    if not fields.get("traceparent"):
        return Context()
    given = {name: str(fields.get(name) or "") for name in ("traceparent", "tracestate")}
    return _PROPAGATOR.extract({name: value for name, value in given.items() if value}, Context())


def _origin(fields: Mapping[str, Any]) -> SpanContext:
    if not fields.get("traceparent"):
        return trace.INVALID_SPAN_CONTEXT
    return trace.get_current_span(extract(fields)).get_span_context()


def trace_id() -> str:
    """The current trace's id as 32 hex digits, '' if untraced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def trace_id_of(fields: Mapping[str, Any]) -> str:
    """The trace id in a carrier, '' if it has none."""
    context = _origin(fields)
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def _tell_of(span: Span, fields: Mapping[str, Any]) -> None:
    """Have a span tell of the message, and whom the current code works for; if anybody listens."""
    if not span.is_recording():
        return
    found: dict[str, str | int | float] = {}
    for name, field in _OF_MESSAGE:
        value = fields.get(field)
        if value:
            found[name] = value
    working_for = belonging.get()
    for name, field in _OWN:
        value = fields.get(field) or working_for.get(field, "")
        if value != "":
            found[name] = value
    span.set_attributes(found)


def fail(span: Span, error_type: str, message: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, message))


def retried(error: BaseException) -> None:
    """Note on the current span that something is tried again."""
    trace.get_current_span().add_event("retry", {"error.type": type(error).__name__})


class _Operation:
    """A span around what is asked of the server, and the metrics of it."""

    __slots__ = ("_fields", "_kind", "_place", "_span", "_started", "_token")

    def __init__(
        self, place: MessagingOperation, fields: Mapping[str, Any], kind: SpanKind
    ) -> None:
        self._place = place
        self._fields = fields
        self._kind = kind

    def __enter__(self) -> Span:
        self._started = time.perf_counter()
        self._span = _TRACER.start_span(
            self._place.name,
            kind=self._kind,
            attributes=self._place.attributes,
            record_exception=False,
            set_status_on_exception=False,
        )
        _tell_of(self._span, self._fields)
        self._token = attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        detach(self._token)
        error_type = kind.__name__ if kind else ""
        if error:
            fail(self._span, error_type, str(error))
        self._span.end()
        metrics.operated(self._place.series, time.perf_counter() - self._started, error_type)
        if self._kind is SpanKind.PRODUCER:
            metrics.sent(self._place.series, error_type)


def sending(
    server: Server, stream: str, fields: Mapping[str, Any]
) -> contextlib.AbstractContextManager[Span]:
    """A `send` span around writing an entry; its context is what the entry carries."""
    return _Operation(place("send", "send", server, stream), fields, SpanKind.PRODUCER)


def settling(
    operation: str, server: Server, stream: str, fields: Mapping[str, Any]
) -> contextlib.AbstractContextManager[Span]:
    """A span around what ends a delivery: `ack`, `release` (for the next) or `reject`."""
    group = fields.get("group", "")
    return _Operation(place(operation, "settle", server, stream, group), fields, SpanKind.CLIENT)


class Receiving:
    """The wait for a request's replies. Its span is made when they have come, or it failed.

    Args:
        server: The server's attributes.
        stream: The reply stream.
        fields: The request's ids.
    """

    __slots__ = ("_events", "_fields", "_place", "_started_ns")

    def __init__(self, server: Server, stream: str, fields: Mapping[str, Any]) -> None:
        self._place = place("receive", "receive", server, stream)
        self._fields = fields
        self._events: list[tuple[int, Mapping[str, Any]]] = []

    def __enter__(self) -> Self:
        self._started_ns = time.time_ns()
        return self

    def stage(self, reply: Mapping[str, Any]) -> None:
        """Note a stage that has come."""
        self._events.append((time.time_ns(), reply))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) or (error is None and self._events):
            self._tell(type(error).__name__ if error else "", str(error or ""))

    def _tell(self, error_type: str, message: str) -> None:
        count = len(self._events)
        origin = _origin(self._events[-1][1]) if count else trace.INVALID_SPAN_CONTEXT
        span = _TRACER.start_span(
            self._place.name,
            kind=SpanKind.CLIENT,
            attributes=self._place.attributes,
            links=[Link(origin)] if origin.is_valid else [],
            start_time=self._started_ns,
        )
        _tell_of(span, self._fields)
        if span.is_recording():
            span.set_attribute("messaging.batch.message_count", count)
            for at_ns, reply in self._events:
                span.add_event(str(reply.get("status", "")), _told(reply), timestamp=at_ns)
        if error_type:
            fail(span, error_type, message)
        ended_ns = time.time_ns()
        span.end(ended_ns)
        series = self._place.series
        metrics.operated(series, (ended_ns - self._started_ns) / 1e9, error_type)
        metrics.consumed(series, count, error_type)


def _told(reply: Mapping[str, Any]) -> dict[str, str | int | float]:
    payload = reply.get("payload")
    fraction = payload.get("fraction") if isinstance(payload, Mapping) else None
    known = isinstance(fraction, int | float)
    return {"sagastream.fraction": float(fraction)} if known and fraction is not None else {}


def _above(origin: SpanContext) -> Context:
    """What a command that is delivered again hangs under: its saga's root, or nothing."""
    above = origin.trace_state.get(_SAGA, "") if origin.is_valid else ""
    if not above or not _SPAN_ID.fullmatch(above):
        return Context()
    root = SpanContext(
        origin.trace_id, int(above, 16), True, origin.trace_flags, origin.trace_state
    )
    return trace.set_span_in_context(NonRecordingSpan(root), Context())


def processing_at(server: Server, stream: str, fields: Mapping[str, Any]) -> MessagingOperation:
    """The place of `processing`."""
    return place("process", "process", server, stream, fields.get("group", ""))


def processing(
    server: Server,
    stream: str,
    fields: Mapping[str, Any],
    *,
    again: bool,
    started_ns: int | None = None,
) -> Span:
    """Start a `process` span for a delivered command, linked to the span that sent it.

    The caller ends it; one that is never ended is never exported.

    Args:
        server: The server's attributes.
        stream: The command stream.
        fields: The command's, with `entry_id` and `group`.
        again: It was delivered before, so that the sender is no longer its parent.
        started_ns: When it began; None for now.
    """
    origin = _origin(fields)
    links = []
    if origin.is_valid:
        links = [Link(origin, {"messaging.message.id": str(fields.get("entry_id", ""))})]
    where = processing_at(server, stream, fields)
    span = _TRACER.start_span(
        where.name,
        context=_above(origin) if again else extract(fields),
        kind=SpanKind.CONSUMER,
        links=links,
        attributes=where.attributes,
        start_time=started_ns,
        record_exception=False,
        set_status_on_exception=False,
    )
    _tell_of(span, fields)
    return span if span.get_span_context().is_valid else NonRecordingSpan(origin)


def tell_of_lost(
    server: Server, stream: str, fields: Mapping[str, Any], lost: str, message: str
) -> None:
    """Make the `process` span that a killed handler left behind, so that nothing is orphaned.

    Args:
        server: The server's attributes.
        stream: The command stream.
        fields: The command's, with `entry_id` and `group`.
        lost: The lost claim's epoch, beginning in milliseconds, and `traceparent`.
        message: What became of it.
    """
    epoch, began_ms, traceparent = lost.split(" ")
    span_id = _origin({"traceparent": traceparent}).span_id
    if span_id == _origin(fields).span_id:
        return  # the lost handler made no spans: what it carried on is the sender's
    token = chosen_span_id.set(span_id)
    try:
        again, began_ns = epoch != "1", int(began_ms) * 1_000_000
        own = {**fields, "attempt": int(epoch)}
        span = processing(server, stream, own, again=again, started_ns=began_ns)
    finally:
        chosen_span_id.reset(token)
    fail(span, "HandlerLost", message)
    span.end()


@contextlib.contextmanager
def root(name: str, saga_id: str) -> Iterator[dict[str, str]]:
    """The root span of a saga, and the carrier of all that is to hang under it.

    It ends at once, so that it is seen while the saga runs.
    """
    with _TRACER.start_as_current_span(name, attributes={"sagastream.saga_id": saga_id}) as span:
        fields, context = carrier(), span.get_span_context()
        if context.is_valid:
            above, state = fields["parent_span_id"], context.trace_state
            state = state.update(_SAGA, above) if _SAGA in state else state.add(_SAGA, above)
            fields["tracestate"] = state.to_header()
        yield fields


def step(name: str, attributes: Attributes, started: float, error: Mapping[str, Any]) -> None:
    """The span of a saga's step that has ended, from its intent on, under the current one.

    Args:
        name: Of the span.
        attributes: Step, direction, attempt and the ids.
        started: Seconds since the epoch.
        error: `error_type` and `message`; empty if it completed.
    """
    span = _TRACER.start_span(name, attributes=attributes, start_time=round(started * 1e9))
    if error:
        fail(span, str(error.get("error_type", "")), str(error.get("message", "")))
    span.end()


@contextlib.contextmanager
def belongs(**fields: str | int) -> Iterator[None]:
    """Have log lines and spans say what the code in this context works for."""
    token = belonging.set({**belonging.get(), **fields})
    try:
        yield
    finally:
        belonging.reset(token)
