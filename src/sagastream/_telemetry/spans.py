"""Spans of messages and sagas; needs only the OpenTelemetry API.

Names and attributes follow the messaging semantic conventions, version 1.44. The receiver's
span is a child of the sender's and links to it. The span of a redelivered command only links to
the sender's; its parent is the root span of its saga, if it has one.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode

from sagastream._telemetry import metrics
from sagastream._telemetry.log_context import set_message_attributes
from sagastream._telemetry.operations import (
    Attributes,
    MessagingOperation,
    Server,
    operation_on,
)
from sagastream._telemetry.trace_context import (
    extract,
    mark_saga_root,
    next_span_id,
    saga_root_of,
    sender_context,
)

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

_TRACER = trace.get_tracer("sagastream", schema_url=SCHEMA_URL)


def _records() -> bool:
    """Whether a tracer provider is installed; without one a span only passes its context on."""
    if not isinstance(_TRACER, trace.ProxyTracer):
        return True
    # `get_tracer_provider` reads the environment, which costs more than the rest of such a span.
    if vars(trace).get("_TRACER_PROVIDER", trace) is None:
        return False
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _current() -> Span:
    span = trace.get_current_span()
    return NonRecordingSpan(span.get_span_context()) if span.is_recording() else span


def fail(span: Span, error_type: str, message: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, message))


def retried(error: BaseException) -> None:
    """Add a `retry` event to the current span."""
    trace.get_current_span().add_event("retry", {"error.type": type(error).__name__})


class _OperationSpan:
    """A span around a call to the server, with its metrics."""

    __slots__ = ("_fields", "_kind", "_operation", "_span", "_started", "_token")

    def __init__(
        self, operation: MessagingOperation, fields: Mapping[str, Any], kind: SpanKind
    ) -> None:
        self._operation = operation
        self._fields = fields
        self._kind = kind

    def __enter__(self) -> Span:
        self._started = time.perf_counter()
        self._token = None
        if not _records():
            self._span = _current()
            return self._span
        self._span = _TRACER.start_span(
            self._operation.name,
            kind=self._kind,
            attributes=self._operation.attributes,
            record_exception=False,
            set_status_on_exception=False,
        )
        set_message_attributes(self._span, self._fields)
        self._token = attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        error_type = kind.__name__ if kind else ""
        if self._token:
            detach(self._token)
            if error:
                fail(self._span, error_type, str(error))
            self._span.end()
        series = self._operation.series
        metrics.operated(series, time.perf_counter() - self._started, error_type)
        if self._kind is SpanKind.PRODUCER:
            metrics.sent(series, error_type)


def sending(
    server: Server, stream: str, fields: Mapping[str, Any]
) -> contextlib.AbstractContextManager[Span]:
    """A `send` span around writing an entry; the entry carries its context."""
    operation = operation_on("send", "send", server, stream)
    return _OperationSpan(operation, fields, SpanKind.PRODUCER)


def settling(
    name: str, server: Server, stream: str, fields: Mapping[str, Any]
) -> contextlib.AbstractContextManager[Span]:
    """A span around the end of a delivery: `ack`, `release` (to the next listener) or `reject`."""
    operation = operation_on(name, "settle", server, stream, fields.get("group", ""))
    return _OperationSpan(operation, fields, SpanKind.CLIENT)


class Receiving:
    """The wait for a request's replies. Its span is made when the wait has ended.

    Args:
        server: The server's attributes.
        stream: The reply stream.
        fields: The request's ids.
    """

    __slots__ = ("_events", "_fields", "_operation", "_started_ns")

    def __init__(self, server: Server, stream: str, fields: Mapping[str, Any]) -> None:
        self._operation = operation_on("receive", "receive", server, stream)
        self._fields = fields
        self._events: list[tuple[int, Mapping[str, Any]]] = []

    def __enter__(self) -> Self:
        self._started_ns = 0
        return self

    def begin(self) -> None:
        """The wait begins now; without it there is no span."""
        self._started_ns = time.time_ns()

    def stage(self, reply: Mapping[str, Any]) -> None:
        """Note a stage that has arrived."""
        self._events.append((time.time_ns(), reply))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._started_ns:
            return
        if isinstance(error, Exception) or (error is None and self._events):
            self._record(type(error).__name__ if error else "", str(error or ""))

    def _record(self, error_type: str, message: str) -> None:
        count, series = len(self._events), self._operation.series
        if not _records():
            metrics.operated(series, (time.time_ns() - self._started_ns) / 1e9, error_type)
            metrics.consumed(series, count, error_type)
            return
        sender = sender_context(self._events[-1][1]) if count else trace.INVALID_SPAN_CONTEXT
        span = _TRACER.start_span(
            self._operation.name,
            kind=SpanKind.CLIENT,
            attributes=self._operation.attributes,
            links=[Link(sender)] if sender.is_valid else [],
            start_time=self._started_ns,
        )
        set_message_attributes(span, self._fields)
        if span.is_recording():
            span.set_attribute("messaging.batch.message_count", count)
            for at_ns, reply in self._events:
                span.add_event(str(reply.get("status", "")), _fraction_of(reply), timestamp=at_ns)
        if error_type:
            fail(span, error_type, message)
        ended_ns = time.time_ns()
        span.end(ended_ns)
        metrics.operated(series, (ended_ns - self._started_ns) / 1e9, error_type)
        metrics.consumed(series, count, error_type)


def _fraction_of(reply: Mapping[str, Any]) -> dict[str, str | int | float]:
    payload = reply.get("payload")
    fraction = payload.get("fraction") if isinstance(payload, Mapping) else None
    return {"sagastream.fraction": float(fraction)} if isinstance(fraction, int | float) else {}


def process_operation(server: Server, stream: str, fields: Mapping[str, Any]) -> MessagingOperation:
    """The operation whose spans `processing` starts."""
    return operation_on("process", "process", server, stream, fields.get("group", ""))


def processing(
    server: Server,
    stream: str,
    fields: Mapping[str, Any],
    *,
    redelivered: bool,
    started_ns: int | None = None,
) -> Span:
    """Start a `process` span for a delivered command, linked to the span that sent it.

    The caller ends it; one that is never ended is never exported.

    Args:
        server: The server's attributes.
        stream: The command stream.
        fields: The command's, with `entry_id` and `group`.
        redelivered: It was delivered before: the sender's span is linked, but not the parent.
        started_ns: When it began, in nanoseconds since the Unix epoch; None for now.
    """
    sender = sender_context(fields)
    if not _records():
        return NonRecordingSpan(sender) if sender.is_valid else trace.INVALID_SPAN
    links = []
    if sender.is_valid:
        links = [Link(sender, {"messaging.message.id": str(fields.get("entry_id", ""))})]
    operation = process_operation(server, stream, fields)
    span = _TRACER.start_span(
        operation.name,
        context=saga_root_of(sender) if redelivered else extract(fields),
        kind=SpanKind.CONSUMER,
        links=links,
        attributes=operation.attributes,
        start_time=started_ns,
        record_exception=False,
        set_status_on_exception=False,
    )
    set_message_attributes(span, fields)
    return span if span.get_span_context().is_valid else NonRecordingSpan(sender)


def record_lost_span(
    server: Server, stream: str, fields: Mapping[str, Any], lost: str, message: str
) -> None:
    """Record the `process` span of a handler that was killed, so that its children have a parent.

    Args:
        server: The server's attributes.
        stream: The command stream.
        fields: The command's, with `entry_id` and `group`.
        lost: The lost claim's attempt, its begin in milliseconds and its `traceparent`, with a
            space between them.
        message: What became of the handler.
    """
    attempt, began_ms, traceparent = lost.split(" ")
    span_id = sender_context({"traceparent": traceparent}).span_id
    if span_id == sender_context(fields).span_id:
        return  # the lost handler recorded no spans: it used the sender's context
    token = next_span_id.set(span_id)
    try:
        lost_fields = {**fields, "attempt": int(attempt)}
        redelivered, began_ns = attempt != "1", int(began_ms) * 1_000_000
        span = processing(server, stream, lost_fields, redelivered=redelivered, started_ns=began_ns)
    finally:
        next_span_id.reset(token)
    fail(span, "HandlerLost", message)
    span.end()


@contextlib.contextmanager
def root(name: str, saga_id: str) -> Iterator[dict[str, str]]:
    """Make the root span of a saga; yields its context as fields of an entry.

    The span ends at once, so that it is visible while the saga runs.
    """
    with _TRACER.start_as_current_span(name, attributes={"sagastream.saga_id": saga_id}) as span:
        yield mark_saga_root(span)


def step(
    name: str, attributes: Attributes, started: float, ended: float, error: Mapping[str, Any]
) -> None:
    """Record the span of a saga's step that has ended, as a child of the current span.

    Args:
        name: The name of the span.
        attributes: Step, direction, attempt and the ids.
        started: When its intent was written, in seconds since the Unix epoch.
        ended: When its end was written, by the same clock.
        error: `error_type` and `message`; empty if it completed.
    """
    span = _TRACER.start_span(name, attributes=attributes, start_time=round(started * 1e9))
    if error:
        fail(span, str(error.get("error_type", "")), str(error.get("message", "")))
    span.end(round(ended * 1e9))
