"""Spans and trace context over the stream, by the OpenTelemetry API alone.

Names and attributes follow the messaging semantic conventions. Whoever sends writes
`traceparent`, `tracestate` and `parent_span_id` into the entry; whoever receives makes
its span a child of that and links to it. A malformed context starts a new trace.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACER = trace.get_tracer("sagastream")
_PROPAGATOR = TraceContextTextMapPropagator()
_UNIQUE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


def carrier() -> dict[str, str]:
    """The current trace context as the three fields of an entry; empty text if untraced."""
    fields: dict[str, str] = {}
    _PROPAGATOR.inject(fields)
    context = trace.get_current_span().get_span_context()
    return {
        "traceparent": fields.get("traceparent", ""),
        "tracestate": fields.get("tracestate", ""),
        "parent_span_id": trace.format_span_id(context.span_id) if context.is_valid else "",
    }


def extract(fields: Mapping[str, Any]) -> Context:
    """The context that an entry carries; an empty one if it is missing or malformed."""
    given = {name: str(fields.get(name) or "") for name in ("traceparent", "tracestate")}
    return _PROPAGATOR.extract({name: value for name, value in given.items() if value}, Context())


def trace_id() -> str:
    """The current trace's id as 32 hex digits, '' if untraced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def template(stream: str) -> str:
    """A stream's name with its ids taken out, so that span names stay few."""
    return _UNIQUE.sub("{id}", stream)


def _attributes(
    operation: str,
    stream: str,
    fields: Mapping[str, Any],
) -> dict[str, str]:
    low = template(stream)
    attributes = {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": stream,
        "messaging.message.conversation_id": str(fields.get("correlation_id", "")),
        "sagastream.request_id": str(fields.get("request_id", "")),
        "sagastream.saga_id": str(fields.get("saga_id", "")),
        "sagastream.event_type": str(fields.get("event_type", "")),
    }
    if low != stream:
        attributes["messaging.destination.template"] = low
    return {name: value for name, value in attributes.items() if value}


@contextlib.contextmanager
def _failing(span: Span) -> Iterator[Span]:
    try:
        yield span
    except BaseException as error:
        fail(span, type(error).__name__, str(error))
        raise


def fail(span: Span, error_type: str, message: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, message))


@contextlib.contextmanager
def _client_span(
    operation: str, kind: SpanKind, stream: str, fields: Mapping[str, Any]
) -> Iterator[Span]:
    with (
        _TRACER.start_as_current_span(
            f"{operation} {template(stream)}",
            kind=kind,
            attributes=_attributes(operation, stream, fields),
            record_exception=False,
            set_status_on_exception=False,
        ) as span,
        _failing(span),
    ):
        yield span


def sending(stream: str, fields: Mapping[str, Any]) -> AbstractContextManager[Span]:
    """A `send` span around writing an entry; its context is what the entry carries."""
    return _client_span("send", SpanKind.PRODUCER, stream, fields)


def receiving(stream: str, fields: Mapping[str, Any]) -> AbstractContextManager[Span]:
    """A `receive` span around the wait for a reply."""
    return _client_span("receive", SpanKind.CLIENT, stream, fields)


def received(span: Span, reply: Mapping[str, Any]) -> None:
    """Link a `receive` span to the span that wrote the reply."""
    origin = trace.get_current_span(extract(reply)).get_span_context()
    if origin.is_valid:
        span.add_link(origin, {"sagastream.status": str(reply.get("status", ""))})


def processing(stream: str, fields: Mapping[str, Any], entry_id: str, group: str) -> Span:
    """Start a `process` span for a delivered command: child of its sender, linked to it.

    The caller ends it; one that is never ended is never exported.
    """
    context = extract(fields)
    origin = trace.get_current_span(context).get_span_context()
    attributes = _attributes("process", stream, fields) | {
        "messaging.message.id": entry_id,
        "messaging.consumer.group.name": group,
    }
    return _TRACER.start_span(
        f"process {template(stream)}",
        context=context,
        kind=SpanKind.CONSUMER,
        links=[Link(origin, {"messaging.message.id": entry_id})] if origin.is_valid else [],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )


@contextlib.contextmanager
def root(name: str, saga_id: str) -> Iterator[Span]:
    """The root span of a saga. It ends at once, so that it is seen while the saga runs."""
    with _TRACER.start_as_current_span(name, attributes={"sagastream.saga_id": saga_id}) as span:
        yield span


def trace_id_of(fields: Mapping[str, Any]) -> str:
    """The trace id in a carrier, '' if it has none."""
    context = trace.get_current_span(extract(fields)).get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""
