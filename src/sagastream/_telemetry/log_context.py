"""The ids that the current code works for, as fields of log lines and attributes of spans."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any

from opentelemetry.trace import Span

# Ids, event type, step, direction and attempt.
LogContext = Mapping[str, str | int]

_context: ContextVar[LogContext] = ContextVar(
    "sagastream_log_context", default=MappingProxyType({})
)
# Attributes of a span, each with the field of a message that has its value.
_OF_MESSAGE = (
    ("messaging.message.conversation_id", "correlation_id"),
    ("messaging.message.id", "entry_id"),
)
_OWN = tuple(
    (f"sagastream.{name}", name)
    for name in ("request_id", "saga_id", "event_type", "step", "direction", "attempt")
)


def log_context() -> LogContext:
    """The ids that the current code works for, with event type, step and attempt."""
    return _context.get()


def enter_log_context(**fields: str | int) -> Token[LogContext]:
    """Add fields to the context; `leave_log_context` removes them again."""
    return _context.set({**_context.get(), **fields})


def leave_log_context(token: Token[LogContext]) -> None:
    """End what `enter_log_context` began."""
    _context.reset(token)


@contextlib.contextmanager
def in_log_context(**fields: str | int) -> Iterator[None]:
    """Add fields to the context for as long as the block lasts."""
    token = enter_log_context(**fields)
    try:
        yield
    finally:
        leave_log_context(token)


def set_message_attributes(span: Span, fields: Mapping[str, Any]) -> None:
    """Set the attributes of a message, and of the context, on a recording span."""
    if not span.is_recording():
        return
    attributes: dict[str, str | int | float] = {}
    for name, field in _OF_MESSAGE:
        value = fields.get(field)
        if value:
            attributes[name] = value
    context = _context.get()
    for name, field in _OWN:
        value = fields.get(field) or context.get(field, "")
        if value != "":
            attributes[name] = value
    span.set_attributes(attributes)
