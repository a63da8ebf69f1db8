"""The telemetry of a claim: its span, its metrics, and the ids in its log lines."""

import contextlib
import time
from collections.abc import Mapping

from opentelemetry.context import attach, detach, get_current
from opentelemetry.trace import INVALID_SPAN, Span, set_span_in_context

from sagastream._client.session import Session
from sagastream._telemetry import metrics, spans
from sagastream._telemetry.log_context import enter_log_context, leave_log_context
from sagastream._telemetry.trace_context import Trace, extract, trace_of
from sagastream.message import Command


class ClaimTelemetry:
    """The telemetry of one claim.

    Args:
        session: The server.
        command: The command.
        raw: The fields of its entry.
        group: The consumer group.
        redelivered: Whether another listener had the command before.

    Attributes:
        ids: The ids of the request, for log lines.
        span: The span of the claim.
        is_span_taken: Whether a later claim has recorded the span of this one.
    """

    def __init__(
        self,
        session: Session,
        command: Command,
        raw: Mapping[bytes, bytes],
        group: str,
        *,
        redelivered: bool,
    ) -> None:
        self.ids = {
            "request_id": command.request_id,
            "correlation_id": command.correlation_id,
            "saga_id": command.saga_id,
            "event_type": command.event_type,
        }
        self._message = self.ids | {
            "traceparent": command.traceparent,
            "tracestate": command.tracestate,
            "context": raw.get(b"context", b""),
            "entry_id": command.entry_id,
            "group": group,
        }
        self._server = session.server
        self._command = command
        self.span: Span = spans.processing(
            self._server, command.stream, self._message, redelivered=redelivered
        )
        self._series = spans.process_operation(self._server, command.stream, self._message).series
        self.is_span_taken = False
        self._error_type = ""
        self._has_entered = False

    @property
    def trace(self) -> Trace:
        """The trace context of the span."""
        return trace_of(self.span)

    def lost_span(self, span: str, *, is_dead: bool = False) -> None:
        """Record the span of a handler that was killed, '' if there is none."""
        if span:
            message = "its handler was lost" + ("; it is a dead letter" if is_dead else "")
            spans.record_lost_span(self._server, self._command.stream, self._message, span, message)
        if is_dead:
            metrics.dead_lettered(self._series, "HandlerLost")

    def begin(self, attempt: int, context: str) -> None:
        """The claim has begun.

        Args:
            attempt: Which claim of the request this is.
            context: What other propagators than W3C Trace Context carry, '' if nothing.
        """
        self._context = context
        self.span.set_attribute("sagastream.attempt", attempt)
        self.span.add_event("start")
        metrics.consumed(self._series, 1)
        if attempt > 1:
            metrics.redelivered(self._series)

    def enter(self, *, is_handled: bool) -> None:
        """Make the span, what other propagators carry, and the ids the current ones.

        Args:
            is_handled: Whether the listener has a handler for the event type.
        """
        self._kind = self._command.event_type if is_handled else "_OTHER"
        fields = {name: value for name, value in self.ids.items() if value}
        self._token = None
        if self._context or self.span is not INVALID_SPAN or get_current():
            context = extract({"context": self._context})
            self._token = attach(set_span_in_context(self.span, context))
        self._log_token = enter_log_context(**fields, attempt=self._command.attempt)
        self._started = time.perf_counter()
        self._has_entered = True

    def leave(self) -> None:
        """End what `enter` began, and the span."""
        if not self._has_entered:
            return
        leave_log_context(self._log_token)
        if self._token:
            detach(self._token)
        seconds = time.perf_counter() - self._started
        metrics.processed(self._series, seconds, self._kind, self._error_type)
        if not self.is_span_taken:
            self.span.end()

    def progress(self, fraction: float) -> None:
        """A progress stage was written."""
        self.span.add_event("progress", {"sagastream.fraction": fraction})

    def fail(self, error_type: str, message: str) -> None:
        """The handler failed, or lost its claim."""
        self._error_type = error_type
        spans.fail(self.span, error_type, message)

    def lose(self) -> None:
        """Another claim has the request."""
        metrics.lease_lost(self._series)
        self.fail("LeaseLost", "another claim has the request")

    def settling(self, operation: str) -> contextlib.AbstractContextManager[Span]:
        """The span of a call that ends the delivery."""
        return spans.settling(operation, self._server, self._command.stream, self._message)
