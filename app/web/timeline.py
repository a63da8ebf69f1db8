"""The timeline of a mission, from its journal: its steps, begun or not, and its compensations."""

import time
from dataclasses import dataclass
from typing import Any, Literal

from sagastream.saga import Direction, Journal, JournalEntry, Saga

State = Literal[
    "to do",
    "running",
    "waiting",
    "done",
    "failed",
    "cancelled",
    "undone",
    "undo failed",
    "not begun",
]


@dataclass(frozen=True, slots=True)
class TimelineItem:
    """A step, a wait, or a compensation.

    Attributes:
        step: The name of the step.
        state: `waiting` for a person, or for its next attempt; `to do` while it may still run, `not begun` when it will not.
        attempts: Its requests, oldest first.
        duration_s: Seconds of all attempts together; until now while it runs.
    """

    step: str
    state: State
    attempts: tuple[dict[str, Any], ...]
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The steps and compensations of a mission.

    Attributes:
        steps: All steps forward, in order, including those still to come.
        lane: The compensations, in the order in which they run; () if nothing is undone.
        undoes: The steps that a cancel would undo now, in that order.
    """

    steps: tuple[TimelineItem, ...]
    lane: tuple[TimelineItem, ...]
    undoes: tuple[str, ...]


def timeline_of(saga: Saga, journal: Journal) -> Timeline:
    """Return the timeline of a saga.

    Args:
        saga: The saga's declaration.
        journal: The saga's journal.
    """
    forward = tuple(_item(journal, node.name, "forward") for node in saga.steps)
    undoable = [
        step.name
        for step in reversed(saga.every_step())
        if step.compensation is not None and journal.last(step.name, "forward")
    ]
    is_undone = journal.status not in {"running", "completed"}
    lane = tuple(_item(journal, name, "undo") for name in undoable) if is_undone else ()
    return Timeline(forward, lane, tuple(undoable))


def _item(journal: Journal, step: str, direction: Direction) -> TimelineItem:
    entries = [e for e in journal.entries if (e.step, e.direction) == (step, direction)]
    ended = entries[-1].ended or time.time() if entries else None
    return TimelineItem(
        step,
        _state(journal, entries, direction),
        tuple(_attempt(entry) for entry in entries),
        None if ended is None else max(0.0, ended - entries[0].started),
    )


def _state(journal: Journal, entries: list[JournalEntry], direction: Direction) -> State:
    is_undo = direction == "undo"
    if not entries:
        is_over = journal.is_over or (journal.status == "compensating" and not is_undo)
        return "not begun" if is_over else "to do"
    if entries[-1].status == "waiting":
        return "waiting"
    if entries[-1].status == "intended":
        return "running"
    if entries[-1].status == "completed":
        return "undone" if is_undo else "done"
    if is_undo:
        return "undo failed"
    if journal.status == "running":
        return "waiting"  # it is tried again, as when robots charge
    return "cancelled" if _is_cancelled(entries[-1]) else "failed"


def _is_cancelled(entry: JournalEntry) -> bool:
    """Whether an operator has ended a request, not a failure."""
    return entry.status == "failed" and entry.error.get("error_type") == "Cancelled"


def _attempt(entry: JournalEntry) -> dict[str, Any]:
    return {
        "number": entry.attempt,
        "is_wait": entry.kind == "wait",
        "status": "cancelled" if _is_cancelled(entry) else entry.status,
        "request_id": entry.request_id,
        "started": entry.started,
        "ended": entry.ended,
        "error": entry.error,
    }
