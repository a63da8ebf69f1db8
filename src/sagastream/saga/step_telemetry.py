"""Trace, count and log the steps and waits of a saga, in any process and at any time."""

import contextlib
import logging
from collections.abc import Iterator

from opentelemetry import context as otel_context

from sagastream._telemetry import metrics, spans
from sagastream._telemetry.trace_context import extract
from sagastream.saga.state import Journal, JournalEntry

logger = logging.getLogger(__name__)


def report(journal: Journal, entry: JournalEntry) -> None:
    """Trace, count and log how a request or a wait ended. Its span goes from its intent to its end."""
    ids = ids_of(journal, entry)
    name = entry.step if entry.direction == "forward" else f"undo {entry.step}"
    error_type = str(entry.error.get("error_type", ""))
    ended = entry.started if entry.ended is None else entry.ended
    with under_root_span(journal):
        attributes = {f"sagastream.{field}": value for field, value in ids.items()}
        spans.step(name, attributes, entry.started, ended, entry.error)
        logger.info("%s %s; saga %s", name, entry.status, journal.status, extra=ids)
    metrics.step_ended(journal.saga, entry.step, entry.direction, ended - entry.started, error_type)


@contextlib.contextmanager
def under_root_span(journal: Journal) -> Iterator[None]:
    """Make the saga's root span the current one."""
    token = otel_context.attach(extract(journal.trace))
    try:
        yield
    finally:
        otel_context.detach(token)


def ids_of(journal: Journal, entry: JournalEntry) -> dict[str, str | int]:
    """The ids of a request and its saga, for log lines and spans."""
    return {
        "saga_id": journal.saga_id,
        "correlation_id": journal.correlation_id,
        "request_id": entry.request_id,
        "step": entry.step,
        "direction": entry.direction,
        "attempt": entry.attempt,
    }
