"""Set, find, pause, resume, run and drop schedules: commands that are emitted repeatedly.

A `Schedule` is kept on the server. Every `CommandListener` of its stream fires it when it is due,
by the server's clock; each due time is one request, whichever listener fires it. What code
declares, a listener sets at its start.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sagastream._client import firing
from sagastream._codec.validation import check_name, new_id
from sagastream._functions.schedule_functions import FireAnswer
from sagastream._schedules.due_times import Firing
from sagastream._schedules.schedule import Overlap, Schedule, decode_schedule
from sagastream.bus import Bus
from sagastream.errors import InvalidMessage, SagastreamError
from sagastream.inspection import NoSuchId, escaped, only_one, scan
from sagastream.status import request_status

__all__ = [
    "CannotChange",
    "Overlap",
    "Schedule",
    "ScheduleStatus",
    "drop_schedule",
    "find_schedules",
    "overdue",
    "pause_schedule",
    "read_schedule",
    "resolve_schedule",
    "resume_schedule",
    "run_schedule",
    "set_schedule",
]

State = Literal["active", "paused", "ended", "unreadable"]
_READS_AT_ONCE = 100
_FIELDS = (
    *("spec", "due", "at", "paused", "last_request", "last_fired"),
    *("fired", "skipped", "missed", "refused"),
)


class CannotChange(SagastreamError):
    """A schedule that cannot be changed: it is malformed, or was changed meanwhile."""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule and its state.

    Attributes:
        name: Its name.
        state: `active`; `paused` by an operator; `ended`, nothing is due any more; or `unreadable`.
        schedule: Its definition; None if it is unreadable.
        problem: Why it is unreadable; '' otherwise.
        due_s: Its next due time, in seconds since the Unix epoch; None if there is none.
        fires_s: When that one is fired, its jitter included.
        last_request: The request of the last firing; '' if there was none.
        last_fired_s: When it was emitted, in seconds since the Unix epoch; None if there was none.
        last_outcome: The status of that request; '' if there was none, or it is forgotten.
        fired: How many commands it has emitted.
        skipped: How many firings were skipped, because the one before had not ended.
        missed: How many times firings were skipped because they were late; several that were
            missed together count once.
        refused: How many firings were refused, because a request with their id was known.
    """

    name: str
    state: State
    schedule: Schedule | None = None
    problem: str = ""
    due_s: float | None = None
    fires_s: float | None = None
    last_request: str = ""
    last_fired_s: float | None = None
    last_outcome: str = ""
    fired: int = 0
    skipped: int = 0
    missed: int = 0
    refused: int = 0


async def set_schedule(bus: Bus, schedule: Schedule) -> bool:
    """Write a schedule; the same one again changes nothing. Idempotent.

    Its first due time is after now. What was due before a change and not fired is skipped. One
    that is paused stays paused.

    Returns:
        Whether it is new or has changed.

    Raises:
        InvalidMessage: It has no stream or no event type, or its payload is too large.
        UnknownLayout: A newer release wrote the schedule that is there.
        ServerUnavailable: The server did not answer.
    """
    return await firing.put_schedule(bus.session(), schedule, is_declared=False)


async def read_schedule(bus: Bus, name: str) -> ScheduleStatus | None:
    """Read a schedule; None if there is none.

    Raises:
        InvalidMessage: The name is invalid.
        ServerUnavailable: The server did not answer.
    """
    key = bus.key(f"schedule:{check_name('name', name)}")
    values = await bus.command("HMGET", key, *_FIELDS)
    if all(value is None for value in values):
        return None
    found = dict(zip(_FIELDS, (value or b"" for value in values), strict=True))
    schedule, problem = await asyncio.to_thread(_decoded, found["spec"])
    due_s, fires_s, fired_s = (_seconds(found[each]) for each in ("due", "at", "last_fired"))
    state: State = "active" if due_s is not None else "ended"
    if found["paused"]:
        state = "paused"
    if schedule is None:
        state = "unreadable"
    last_request, outcome = found["last_request"].decode(errors="replace"), ""
    if last_request:
        try:
            request = await request_status(bus, last_request)
            outcome = "" if request is None else request.status
        except SagastreamError:
            outcome = "unreadable"
    return ScheduleStatus(
        name=name,
        state=state,
        schedule=schedule,
        problem=problem,
        due_s=due_s,
        fires_s=fires_s,
        last_request=last_request,
        last_fired_s=fired_s,
        last_outcome=outcome,
        **{each: _count(found[each]) for each in ("fired", "skipped", "missed", "refused")},
    )


async def find_schedules(bus: Bus, *, stream: str = "") -> list[ScheduleStatus]:
    """All schedules, by name. One that cannot be read is `unreadable`, and hides no other.

    Args:
        bus: The server.
        stream: Only those of this command stream; '' for all.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    keys = {key async for key in scan(bus, "schedule:*", "hash")}
    names = sorted(key.removeprefix("schedule:") for key in keys)
    found: list[ScheduleStatus] = []
    for first in range(0, len(names), _READS_AT_ONCE):
        some = names[first : first + _READS_AT_ONCE]
        read = await asyncio.gather(*(_readable(bus, name) for name in some))
        found += [each for each in read if each is not None]
    return [
        each
        for each in found
        if not stream or each.schedule is None or each.schedule.stream == stream
    ]


async def resolve_schedule(bus: Bus, prefix: str) -> ScheduleStatus:
    """The schedule with that name, or the only one whose name begins so.

    Raises:
        NoSuchId: There is none.
        AmbiguousId: There are several.
        ServerUnavailable: The server did not answer.
    """
    if found := await read_schedule(bus, prefix):
        return found
    names = set[str]()
    async for key in scan(bus, f"schedule:{escaped(prefix)}*", "hash"):
        names.add(key.removeprefix("schedule:"))
    found = await read_schedule(bus, only_one("schedule", prefix, names))
    if found is None:
        raise NoSuchId("schedule", prefix)
    return found


async def pause_schedule(bus: Bus, name: str) -> None:
    """Let no listener fire a schedule until it is resumed. Idempotent.

    Raises:
        NoSuchId: There is none with that name.
        ServerUnavailable: The server did not answer.
    """
    keys, session = await _keys(bus, name), bus.session()
    _require(await session.schedules.pause(*keys, name), name)


async def resume_schedule(bus: Bus, name: str) -> None:
    """Let listeners fire a paused schedule again; what was due meanwhile is skipped. Idempotent.

    Raises:
        NoSuchId: There is none with that name.
        CannotChange: It is malformed, or was changed meanwhile.
        ServerUnavailable: The server did not answer.
    """
    schedule, spec = await _definition(bus, name)
    _require(await firing.resume_schedule(bus.session(), schedule, spec), name)


async def run_schedule(bus: Bus, name: str) -> str:
    """Fire a schedule now, also one that is paused; its due times stay as they are.

    Returns:
        The id of the new request.

    Raises:
        NoSuchId: There is none with that name.
        CannotChange: It is malformed, was changed meanwhile, or the request of the firing before has
            not ended, and its `overlap` is not `replace`.
        ServerUnavailable: The server did not answer.
    """
    schedule, spec = await _definition(bus, name)
    request_id = f"{name}@run-{new_id()}"
    planned = firing.PlannedFiring(schedule, None, request_id, Firing(False, None))
    answer: FireAnswer = await firing.fire(bus.session(), planned, spec)
    if answer.outcome == "skipped":
        raise CannotChange(
            f"schedule {name}: request {answer.detail} has not ended; wait for it or cancel it first"
        )
    if answer.outcome != "fired":
        _require("moved", name)
    return request_id


async def drop_schedule(bus: Bus, name: str) -> None:
    """Delete a schedule; a request that it has emitted goes on.

    A listener whose code declares it sets it again at its start.

    Raises:
        NoSuchId: There is none with that name.
        ServerUnavailable: The server did not answer.
    """
    keys, session = await _keys(bus, name), bus.session()
    _require(await session.schedules.drop(*keys, name), name)


async def overdue(
    bus: Bus, found: Sequence[ScheduleStatus], *, by_s: float = 60.0
) -> list[ScheduleStatus]:
    """Those that should have been fired `by_s` seconds ago, by the server's clock.

    No live listener reads their stream, or all slots are taken.
    """
    now_s = await firing.server_ms(bus.session()) / 1000
    return [
        each
        for each in found
        if each.state == "active" and each.fires_s is not None and each.fires_s < now_s - by_s
    ]


async def _keys(bus: Bus, name: str) -> tuple[str, str]:
    """The keys of a schedule and of its index, also of one that cannot be read."""
    key = bus.key(f"schedule:{check_name('name', name)}")
    index = await bus.command("HGET", key, "index")
    if index is None:
        if not await bus.command("EXISTS", key):
            raise NoSuchId("schedule", name)
        index = bus.key(":schedules").encode()
    return key, index.decode()


async def _definition(bus: Bus, name: str) -> tuple[Schedule, bytes]:
    spec = await bus.command("HGET", bus.key(f"schedule:{check_name('name', name)}"), "spec")
    if spec is None:
        raise NoSuchId("schedule", name)
    schedule, problem = await asyncio.to_thread(_decoded, spec)
    if schedule is None:
        raise CannotChange(f"schedule {name} {problem}")
    return schedule, spec


def _require(answer: str, name: str) -> None:
    if answer == "none":
        raise NoSuchId("schedule", name)
    if answer == "moved":
        raise CannotChange(f"schedule {name} was changed meanwhile; try again")


async def _readable(bus: Bus, name: str) -> ScheduleStatus | None:
    try:
        return await read_schedule(bus, name)
    except InvalidMessage as error:
        return ScheduleStatus(name, "unreadable", problem=str(error))


def _decoded(spec: bytes) -> tuple[Schedule | None, str]:
    try:
        return decode_schedule(spec), ""
    except InvalidMessage as error:
        return None, str(error)


def _seconds(text: bytes) -> float | None:
    return int(text) / 1000 if text.isdigit() else None


def _count(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
