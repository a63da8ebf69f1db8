"""How a saga ended, from its journal."""

from dataclasses import dataclass
from typing import Any

from sagastream._telemetry.trace_context import trace_id_of
from sagastream.saga.state import Journal, JournalEntry


@dataclass(frozen=True, slots=True)
class SagaOutcome:
    """How a saga ended.

    Attributes:
        saga_id: Its identity.
        correlation_id: One id for all its messages.
        trace_id: 32 hex digits, '' if it was not traced.
        status: `completed`, `compensated` or `stuck`.
        entries: Its requests, forward and undo, in order.
        results: The results of the completed steps, by name.
        error: Why it was compensated: `error_type`, `message`, `trace_id`; {} if it was not.
        duration_s: From its start to the end of its last request, in seconds.
    """

    saga_id: str
    correlation_id: str
    trace_id: str
    status: str
    entries: tuple[JournalEntry, ...]
    results: dict[str, dict[str, Any]]
    error: dict[str, Any]
    duration_s: float


def outcome_of(journal: Journal) -> SagaOutcome:
    """How a saga ended, or its current state."""
    ends = [entry.ended for entry in journal.entries if entry.ended is not None]
    return SagaOutcome(
        saga_id=journal.saga_id,
        correlation_id=journal.correlation_id,
        trace_id=trace_id_of(journal.trace),
        status=journal.status,
        entries=journal.entries,
        results=journal.results(),
        error=journal.error,
        duration_s=max(ends, default=journal.started) - journal.started,
    )
