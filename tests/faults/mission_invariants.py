"""What must hold for a mission at its end, whatever was killed; lists what does not."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from sagastream.message import TERMINAL_STAGES
from sagastream.saga.journal_json import load
from sagastream.saga.state import Journal
from tests.faults.mission_handlers import STEPS, UNDO
from tests.plain_client import GROUP
from tests.polling import NotInTime, eventually_sync
from tests.records import read_record

_STREAMS = ("resources:commands", "routing:commands", "exploration:commands", "map:commands")
_ACK_S = 10.0


@dataclass
class MissionViolations:
    """What was wrong with missions, by kind, with a message for each case.

    Attributes:
        unfinished: Missions or requests without an end.
        doubled: Terminal stages and completed steps beyond the first one.
        out_of_order: Steps and compensations in the wrong order.
        other: Everything else, such as robots that are still reserved.
    """

    unfinished: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """All messages."""
        return self.unfinished + self.doubled + self.out_of_order + self.other


def journal_of(client: "redis.Redis", saga_id: str) -> Journal | None:
    """Read the journal of a mission; None if there is none."""
    stored: Any = client.hget(f"saga:{saga_id}", "journal")
    return None if stored is None else load(stored)


def check_mission(
    client: "redis.Redis",
    saga_id: str,
    out_dir: Path,
    expected: set[str],
    violations: MissionViolations,
) -> None:
    """Check the journal, the reply stream, the robots and the results of a mission.

    Args:
        client: The server; answers are text.
        saga_id: The mission.
        out_dir: The folder for results.
        expected: The statuses with which it may end.
        violations: Gets what is wrong.
    """
    journal = journal_of(client, saga_id)
    if journal is None or journal.status not in {"completed", "compensated"}:
        violations.unfinished.append(f"{saga_id} is {journal.status if journal else 'missing'}")
        return
    if journal.status not in expected:
        violations.other.append(f"{saga_id} is {journal.status}: {journal.error}")
    _check_replies(client, saga_id, journal, violations)
    if reserved := reserved_robots(client, saga_id):
        violations.other.append(f"{saga_id} still holds {reserved}")
    if (out_dir / saga_id).exists() != (journal.status == "completed"):
        violations.other.append(f"{saga_id} is {journal.status}, but its result folder differs")
    for entry in journal.entries:
        status = read_record(client, entry.request_id).get("status")
        # A request that its compensation superseded before it was sent has no status, but a note.
        is_noted = status is None and client.hexists(f"request:{entry.request_id}", "cancel")
        if status not in TERMINAL_STAGES and not is_noted:
            violations.unfinished.append(f"{saga_id} {entry.direction} {entry.step} is {status!r}")


def reserved_robots(client: "redis.Redis", saga_id: str) -> list[str]:
    """List the robots that a mission has reserved."""
    stored: Any = client.hgetall("fleet")
    return [name for name, robot in stored.items() if json.loads(robot)["holder"] == saga_id]


def _check_replies(
    client: "redis.Redis", saga_id: str, journal: Journal, violations: MissionViolations
) -> None:
    replies: Any = client.xrange(f"saga:{saga_id}:replies")
    ends = [fields for _, fields in replies if fields["status"] in TERMINAL_STAGES]
    for request_id, count in Counter(fields["request_id"] for fields in ends).items():
        if count > 1:
            violations.doubled.append(f"{saga_id}: request {request_id} has {count} ends")
    done = [f["event_type"] for f in ends if f["status"] == "completed"]
    for event_type, count in Counter(done).items():
        if count > 1:
            violations.doubled.append(f"{saga_id}: {event_type} completed {count} times")
    forward = [event for event in done if event in STEPS]
    if forward != list(STEPS[: len(forward)]):
        violations.out_of_order.append(f"{saga_id}: order of steps {forward}")
    undone = [UNDO[event] for event in done if event in UNDO]
    if undone != sorted(undone, key=STEPS.index, reverse=True):
        violations.out_of_order.append(f"{saga_id}: order of compensations {undone}")
    statuses = [(f["event_type"], f["status"]) for _, f in replies]
    first_undo = next((i for i, (event, _) in enumerate(statuses) if event in UNDO), None)
    late = [
        event
        for event, status in statuses[first_undo or len(statuses) :]
        if event in STEPS and status != "cancelled"
    ]
    if first_undo is not None and late:
        violations.out_of_order.append(f"{saga_id}: {late} after the first compensation")
    if journal.status == "compensated":
        names = dict(zip((s.step for s in _first_entries(journal)), STEPS, strict=False))
        required = {names[entry.step] for entry in _first_entries(journal)} - {"routing:plan"}
        if missing := required - set(undone):
            violations.other.append(f"{saga_id}: {missing} was not compensated")


def _first_entries(journal: Journal) -> list[Any]:
    """Return the first forward entry of each step, in order."""
    first: dict[str, Any] = {}
    for entry in journal.entries:
        if entry.direction == "forward":
            first.setdefault(entry.step, entry)
    return list(first.values())


def check_pending(client: "redis.Redis", violations: MissionViolations) -> None:
    """Wait until nothing is pending on the command streams of missions, or report it."""
    try:
        eventually_sync(
            lambda: not any(client.xpending(s, GROUP)["pending"] for s in _STREAMS),
            within_s=_ACK_S,
            why="all commands are acknowledged",
        )
    except NotInTime as error:
        pending = [s for s in _STREAMS if client.xpending(s, GROUP)["pending"]]
        violations.other.append(f"pending on {pending}: {error}")
