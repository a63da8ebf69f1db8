"""The state of a saga: its journal and the entries in it, as values."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

JOURNAL_VERSION = 2
# The time of a move: the server's function that writes the journal replaces it by its own time.
NOW = math.inf

Direction = Literal["forward", "undo"]
# `unreadable` is never stored: it stands for a journal that this release cannot read.
SagaStatus = Literal["running", "compensating", "completed", "compensated", "stuck", "unreadable"]

_ENDED = frozenset({"completed", "compensated", "stuck"})


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One request of a saga in its journal.

    Attributes:
        step: The step's name.
        direction: `forward`, or `undo` for its compensation.
        attempt: From 1; grows when the attempt before has failed and the step is tried again.
        request_id: Derived from saga, step, direction and attempt.
        payload: The payload of its command.
        status: `intended` until its end is known, then `completed` or `failed`.
        result: The payload of its completed reply.
        error: Type, message and trace id of its failure; `unhandled` is true if it is the attempt
            of a compensation that no handler began.
        started: When the intent was written, in seconds since the Unix epoch, in server time.
        ended: When its end was written; None before.
    """

    step: str
    direction: Direction
    attempt: int
    request_id: str
    payload: dict[str, Any]
    status: Literal["intended", "completed", "failed"] = "intended"
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """The whole state of a saga, apart from its declaration.

    Attributes:
        saga_id: Its identity.
        saga: The declaration's name.
        correlation_id: One id for all its messages.
        input: The input that it was started with.
        status: Its current status.
        entries: Its requests, in the order in which they were intended.
        trace: The trace context of its root span, and what else its starter's propagators carry.
        started: When it was started, in seconds since the Unix epoch, in server time.
        error: Why it was compensated: `error_type`, `message`, `trace_id`; {} if it was not.
        resumed: The number of entries when a stuck saga was last resumed.
        v: Schema version; 0 if the journal is malformed.
    """

    saga_id: str
    saga: str
    correlation_id: str
    input: dict[str, Any]
    status: SagaStatus = "running"
    entries: tuple[JournalEntry, ...] = ()
    trace: dict[str, str] = field(default_factory=dict)
    started: float = 0.0
    error: dict[str, Any] = field(default_factory=dict)
    resumed: int = 0
    v: int = JOURNAL_VERSION

    @property
    def is_over(self) -> bool:
        """Whether the saga has ended: completed, compensated or stuck."""
        return self.status in _ENDED

    def last(self, step: str, direction: Direction) -> JournalEntry | None:
        """The latest request of a step in a direction."""
        requests = [e for e in self.entries if (e.step, e.direction) == (step, direction)]
        return requests[-1] if requests else None

    def results(self) -> dict[str, dict[str, Any]]:
        """The results of the completed steps, by name."""
        return {
            e.step: e.result
            for e in self.entries
            if e.direction == "forward" and e.status == "completed"
        }

    def failures(self, step: str, direction: Direction) -> int:
        """How many times a step failed in a direction; `undo` counts from the last resume."""
        recent = self.entries[self.resumed :] if direction == "undo" else self.entries
        return sum((e.step, e.direction, e.status) == (step, direction, "failed") for e in recent)
