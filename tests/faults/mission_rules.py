"""What must hold for a mission at its end, whatever died on the way."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from sagastream.saga.journal import Journal, load
from tests.faults.mission_handlers import STEPS, UNDO
from tests.polling import comes_true

_TERMINAL = {"completed", "failed", "cancelled"}
_STREAMS = ("resources:commands", "routing:commands", "exploration:commands", "map:commands")
_QUIET_S = 10.0


@dataclass
class Faults:
    """What was wrong with missions, in words, by its kind."""

    unfinished: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Everything that was wrong."""
        return self.unfinished + self.doubled + self.out_of_order + self.other


def journal_of(client: "redis.Redis", saga_id: str) -> Journal | None:
    """A mission's journal, None if it has none."""
    stored: Any = client.hget(f"saga:{saga_id}", "journal")
    return None if stored is None else load(stored)


def judge(
    client: "redis.Redis", saga_id: str, out_dir: Path, right: set[str], faults: Faults
) -> None:
    """Judge one mission by its journal, its stream, the fleet and what it left on disk.

    Args:
        client: The server, answers decoded.
        saga_id: The mission.
        out_dir: Where results go.
        right: How it may have ended.
        faults: Gets what is wrong.
    """
    journal = journal_of(client, saga_id)
    if journal is None or journal.status not in {"completed", "compensated"}:
        faults.unfinished.append(f"{saga_id} is {journal.status if journal else 'not there'}")
        return
    if journal.status not in right:
        faults.other.append(f"{saga_id} is {journal.status}: {journal.error}")
    _judge_stream(client, saga_id, journal, faults)
    if held := holders(client, saga_id):
        faults.other.append(f"{saga_id} still holds {held}")
    if (out_dir / saga_id).exists() != (journal.status == "completed"):
        faults.other.append(f"{saga_id} is {journal.status}; its folder says otherwise")
    for entry in journal.entries:
        status, closed = client.hmget(f"request:{entry.request_id}", "status", "cancel")
        # One that was never sent, as its mission was undone first, is refused when it comes.
        if status not in _TERMINAL and not (status is None and closed):
            faults.unfinished.append(f"{saga_id} {entry.direction} {entry.step} is {status!r}")


def holders(client: "redis.Redis", saga_id: str) -> list[str]:
    """The robots that a mission holds."""
    stored: Any = client.hgetall("fleet")
    return [name for name, robot in stored.items() if json.loads(robot)["holder"] == saga_id]


def _judge_stream(client: "redis.Redis", saga_id: str, journal: Journal, faults: Faults) -> None:
    told: Any = client.xrange(f"saga:{saga_id}:replies")
    ends = [fields for _, fields in told if fields["status"] in _TERMINAL]
    for request_id, count in Counter(fields["request_id"] for fields in ends).items():
        if count > 1:
            faults.doubled.append(f"{saga_id}: request {request_id} has {count} ends")
    done = [f["event_type"] for f in ends if f["status"] == "completed"]
    for event_type, count in Counter(done).items():
        if count > 1:
            faults.doubled.append(f"{saga_id}: {event_type} completed {count} times")
    forward = [event for event in done if event in STEPS]
    if forward != list(STEPS[: len(forward)]):
        faults.out_of_order.append(f"{saga_id} went forward as {forward}")
    undone = [UNDO[event] for event in done if event in UNDO]
    if undone != sorted(undone, key=STEPS.index, reverse=True):
        faults.out_of_order.append(f"{saga_id} was undone as {undone}")
    statuses = [(f["event_type"], f["status"]) for _, f in told]
    first_undo = next((i for i, (event, _) in enumerate(statuses) if event in UNDO), None)
    late = [
        event
        for event, status in statuses[first_undo or len(statuses) :]
        if event in STEPS and status != "cancelled"
    ]
    if first_undo is not None and late:
        faults.out_of_order.append(f"{saga_id}: {late} after the first undo")
    if journal.status == "compensated":
        names = dict(zip((s.step for s in _steps(journal)), STEPS, strict=False))
        owed = {names[entry.step] for entry in _steps(journal)} - {"routing:plan"}
        if missing := owed - set(undone):
            faults.other.append(f"{saga_id}: {missing} was not undone")


def _steps(journal: Journal) -> list[Any]:
    """The first forward entry of each step, in order."""
    seen: dict[str, Any] = {}
    for entry in journal.entries:
        if entry.direction == "forward":
            seen.setdefault(entry.step, entry)
    return list(seen.values())


def wait_quiet(client: "redis.Redis") -> list[str]:
    """Wait until nothing is pending on the missions' streams; what still is."""

    def pending() -> list[str]:
        return [s for s in _STREAMS if client.xpending(s, "sagastream")["pending"]]

    return [] if comes_true(lambda: not pending(), within_s=_QUIET_S) else pending()
