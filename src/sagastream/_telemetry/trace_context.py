"""Trace context in an entry: written by the sender, read by the receiver.

Three fields carry it: `traceparent` and `tracestate` of W3C Trace Context, and `parent_span_id`,
which is informative. A malformed one starts a new trace. What other propagators carry is one more
value, `context`; a malformed one is ignored.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sagastream._telemetry.propagation import extracted, injected

_PROPAGATOR = TraceContextTextMapPropagator()
# The member of `tracestate` that names the root span of a saga.
_SAGA = "saga"
_SPAN_ID = re.compile(r"[0-9a-f]{16}")

# The values of traceparent, tracestate and parent_span_id; empty if untraced.
Trace = tuple[str, str, str]
_FIELDS = ("traceparent", "tracestate", "parent_span_id")
_UNTRACED: Trace = ("", "", "")

# The id that the next span must get, for providers whose id generator reads it. With it, the
# process that takes over a request records the span of the handler that was killed.
next_span_id: ContextVar[int] = ContextVar("sagastream_next_span_id", default=0)


def trace_of(span: Span | None = None) -> Trace:
    """The context of a span, or of the current one, as an entry carries it."""
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


def trace_fields(span: Span | None = None) -> dict[str, str]:
    """The context of a span, or of the current one, as fields of an entry."""
    return dict(zip(_FIELDS, trace_of(span), strict=True))


def context_fields(span: Span | None = None) -> dict[str, str]:
    """The fields of `trace_fields`, and `context` if there is something else to carry."""
    fields, context = trace_fields(span), injected()
    return fields | {"context": context} if context else fields


def extract(fields: Mapping[str, Any]) -> Context:
    """The context that fields carry; an empty one if they are missing or malformed.

    The span is that of `traceparent`; without one, the one that `context` carries, if any.
    """
    context = Context()
    if fields.get("traceparent"):
        headers = {name: str(fields.get(name) or "") for name in ("traceparent", "tracestate")}
        carrier = {name: value for name, value in headers.items() if value}
        context = _PROPAGATOR.extract(carrier, context)
    if not fields.get("context"):
        return context
    sender = trace.get_current_span(context)
    context = extracted(fields["context"], context)
    if sender.get_span_context().is_valid:
        context = trace.set_span_in_context(sender, context)
    return context


def sender_context(fields: Mapping[str, Any]) -> SpanContext:
    """The context of the span that sent an entry; an invalid one if it was not traced."""
    if not fields.get("traceparent") and not fields.get("context"):
        return trace.INVALID_SPAN_CONTEXT
    return trace.get_current_span(extract(fields)).get_span_context()


def trace_id() -> str:
    """The current trace's id as 32 hex digits, '' if untraced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def trace_id_of(fields: Mapping[str, Any]) -> str:
    """The trace id that an entry carries, '' if it has none."""
    context = sender_context(fields)
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def mark_saga_root(span: Span) -> dict[str, str]:
    """A saga's root span as `context_fields`, with its id in `tracestate` too."""
    fields, context = context_fields(span), span.get_span_context()
    if context.is_valid:
        root, state = fields["parent_span_id"], context.trace_state
        state = state.update(_SAGA, root) if _SAGA in state else state.add(_SAGA, root)
        fields["tracestate"] = state.to_header()
    return fields


def saga_root_of(sender: SpanContext) -> Context:
    """The context of the saga's root span, from the sender's `tracestate`; empty without one."""
    root_id = sender.trace_state.get(_SAGA, "") if sender.is_valid else ""
    if not root_id or not _SPAN_ID.fullmatch(root_id):
        return Context()
    root = SpanContext(
        sender.trace_id, int(root_id, 16), True, sender.trace_flags, sender.trace_state
    )
    return trace.set_span_in_context(NonRecordingSpan(root), Context())
