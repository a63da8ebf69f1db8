"""The state of a saga: its journal and the entries in it, as values."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sagastream._codec.validation import derived_id

# The newest schema version of a journal that this release reads. A plain saga's has the older one.
JOURNAL_VERSION = 3
PLAIN_JOURNAL_VERSION = 2
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
        step: The step's name; in a child saga `child/step`, of an item of a list `step[0]`.
        direction: `forward`, or `undo` for its compensation.
        attempt: From 1; grows when the attempt before has failed and the step is tried again.
        request_id: Derived from saga, step, direction and attempt.
        payload: The payload of its command; of a wait its `key` and its `timeout_s`, of a child saga
            its input.
        status: `intended` until its end is known, then `completed` or `failed`; a wait is `waiting`
            until then. `skipped` is a step that was not needed, or a wait that has timed out.
        result: The payload of its completed reply; of a list its `items`, of a wait the event.
        error: Type, message and trace id of its failure; `unhandled` is true if it is the attempt
            of a compensation that no handler began.
        started: When the intent was written, in seconds since the Unix epoch, in server time.
        ended: When its end was written; None before.
        kind: `request`; `wait` for an event; or `decision`, which sends nothing: a skipped step,
            the items of a list, the input of a child saga.
    """

    step: str
    direction: Direction
    attempt: int
    request_id: str
    payload: dict[str, Any]
    status: Literal["intended", "waiting", "completed", "failed", "skipped"] = "intended"
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    ended: float | None = None
    kind: Literal["request", "wait", "decision"] = "request"


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
        version: The version of the declaration that it began with.
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
    v: int = PLAIN_JOURNAL_VERSION
    version: int = 1

    @property
    def is_over(self) -> bool:
        """Whether the saga has ended: completed, compensated or stuck."""
        return self.status in _ENDED

    def last(self, step: str, direction: Direction) -> JournalEntry | None:
        """The latest request of a step in a direction."""
        requests = [e for e in self.entries if (e.step, e.direction) == (step, direction)]
        return requests[-1] if requests else None

    def results(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """The results of the completed steps, by name.

        A list has its `items` and their `results`, a child saga the results of its steps by name.

        Args:
            prefix: The name of a child saga and `/`; '' for the saga itself.
        """
        done = {
            e.step.removeprefix(prefix): e
            for e in self.entries
            if e.direction == "forward" and e.status == "completed" and e.step.startswith(prefix)
        }
        groups = [name for name, entry in done.items() if entry.kind == "decision"]
        inner = tuple(f"{name}{mark}" for name in groups for mark in "/[")
        found = {
            name: e.result for name, e in done.items() if not (inner and name.startswith(inner))
        }
        for name in groups:
            if name not in found:
                continue  # it is within a child saga
            if "items" in done[name].result:
                of_items = [f"{name}[{index}]" for index in range(len(done[name].result["items"]))]
                results = [done[each].result if each in done else None for each in of_items]
                found[name] = done[name].result | {"results": results}
            else:
                found[name] = self.results(f"{prefix}{name}/")
        return found


def request_id_of(saga_id: str, step: str, direction: Direction, attempt: int) -> str:
    """The identity of a saga's request: the same for every runner that would send it."""
    return derived_id(f"saga/{saga_id}/{step}/{direction}/{attempt}")
