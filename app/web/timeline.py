"""What a mission's journal shows as a timeline: steps done and to come, and what undoes them."""

import time
from dataclasses import dataclass
from typing import Any, Literal

from sagastream.saga.definition import Saga
from sagastream.saga.journal import Direction, Journal, JournalEntry

State = Literal["to do", "running", "done", "failed", "undone", "undo failed", "not begun"]


@dataclass(frozen=True, slots=True)
class Item:
    """A step, or its compensation.

    Attributes:
        step: Its name.
        state: `to do` while it may still come, `not begun` when it will not.
        attempts: Its requests, the first one first.
        duration_s: Of all its attempts; until now, if it is running.
    """

    step: str
    state: State
    attempts: tuple[dict[str, Any], ...]
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A mission in steps.

    Attributes:
        steps: Forward, in order; those that remain are among them.
        lane: The compensations, in the order in which they are done; () if nothing is undone.
        undoes: What a cancel would undo now, in that order.
    """

    steps: tuple[Item, ...]
    lane: tuple[Item, ...]
    undoes: tuple[str, ...]


def timeline_of(saga: Saga, journal: Journal) -> Timeline:
    """The steps of a saga and what became of them.

    Args:
        saga: Its declaration.
        journal: Where it stands.
    """
    forward = tuple(_item(journal, step.name, "forward") for step in saga.steps)
    undoable = [
        step.name
        for step in reversed(saga.steps)
        if step.compensation is not None and journal.last(step.name, "forward")
    ]
    back = journal.status not in {"running", "completed"}
    lane = tuple(_item(journal, name, "undo") for name in undoable) if back else ()
    return Timeline(forward, lane, tuple(undoable))


def _item(journal: Journal, step: str, direction: Direction) -> Item:
    entries = [e for e in journal.entries if (e.step, e.direction) == (step, direction)]
    ended = entries[-1].ended or time.time() if entries else None
    return Item(
        step,
        _state(journal, entries, direction),
        tuple(_attempt(entry) for entry in entries),
        None if ended is None else max(0.0, ended - entries[0].started),
    )


def _state(journal: Journal, entries: list[JournalEntry], direction: Direction) -> State:
    undoing = direction == "undo"
    if not entries:
        over = journal.is_over or (journal.status == "compensating" and not undoing)
        return "not begun" if over else "to do"
    if entries[-1].status == "intended":
        return "running"
    if entries[-1].status == "completed":
        return "undone" if undoing else "done"
    if undoing:
        return "undo failed"
    return "failed"


def _attempt(entry: JournalEntry) -> dict[str, Any]:
    return {
        "number": entry.attempt,
        "status": entry.status,
        "request_id": entry.request_id,
        "started": entry.started,
        "ended": entry.ended,
        "error": entry.error,
    }
