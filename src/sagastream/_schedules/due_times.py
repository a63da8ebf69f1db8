"""When a schedule is due: pure functions of a schedule and a time.

Times are in milliseconds since the Unix epoch. Every process computes the same: a due time
follows from the schedule alone, and never from when it was computed.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from zoneinfo import ZoneInfo

from sagastream._schedules.schedule import Schedule, cron_library

_MINUTE_MS = 60_000
# The years of `datetime`, with room for any zone.
_FIRST = datetime(2, 1, 1, tzinfo=UTC)
_LAST = datetime(9990, 1, 1, tzinfo=UTC)
# A cron time that does not exist in its zone is moved by a gap, which is a day at most.
_WIDEST_GAP = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Firing:
    """What to do with a schedule that is due.

    Attributes:
        is_missed: Whether this due time is skipped, because it is too late.
        next_ms: The due time after it; None if there is none.
    """

    is_missed: bool
    next_ms: int | None


def next_due(schedule: Schedule, after_ms: int) -> int | None:
    """The first due time after a time; None if there is none."""
    return next(due_times(schedule, after_ms), None)


def due_times(schedule: Schedule, after_ms: int) -> Iterator[int]:
    """The due times after a time, in order.

    A time that daylight saving skips is due when the gap ends, and one that occurs twice is due
    the first time only. An expression whose minute or hour begins with `*` follows the clock:
    it is due in both hours. This is what Debian's cron does.
    """
    starts_ms = None if schedule.starts is None else _milliseconds(schedule.starts)
    after_ms = max(after_ms, _milliseconds(_FIRST))
    if starts_ms is not None:
        after_ms = max(after_ms, starts_ms - 1)
    if schedule.every_s is not None:
        every_ms, first_ms = round(1000 * schedule.every_s), starts_ms or 0
        found: Iterator[int] = count(
            first_ms + ((after_ms - first_ms) // every_ms + 1) * every_ms, every_ms
        )
    else:
        found = _cron_times(schedule, after_ms)
    last_ms = _milliseconds(schedule.ends or _LAST)
    return takewhile(lambda due_ms: due_ms <= last_ms, found)


def _cron_times(schedule: Schedule, after_ms: int) -> Iterator[int]:
    """The due times of a cron expression after a time."""
    zone, after = ZoneInfo(schedule.zone), datetime.fromtimestamp(after_ms // 1000, UTC)
    if after > _LAST:
        return
    begin = after.astimezone(zone)
    if _changes_near(begin):
        # The gap that moves a time may have begun before `after`.
        begin = (after - _WIDEST_GAP).astimezone(zone)
    last_ms = after_ms
    for found in cron_library().CronSim(schedule.cron, begin):
        due_ms = _milliseconds(found)
        if due_ms > last_ms:
            last_ms = due_ms
            yield due_ms


def _changes_near(moment: datetime) -> bool:
    """Whether the offset of the zone changes within a day before or after a time."""
    zone, utc = moment.tzinfo, moment.astimezone(UTC)
    offsets = {
        (utc + each).astimezone(zone).utcoffset()
        for each in (-_WIDEST_GAP, timedelta(0), _WIDEST_GAP)
    }
    return len(offsets) > 1


def fire_at(schedule: Schedule, due_ms: int) -> int:
    """When a due time is fired: up to `jitter_s` later."""
    digest = hashlib.sha256(schedule.request_id(due_ms).encode()).digest()
    return due_ms + math.floor(1000 * schedule.jitter_s * int.from_bytes(digest[:4]) / 2**32)


def judge(schedule: Schedule, due_ms: int, now_ms: int) -> Firing:
    """Whether a due time is fired or skipped, and which one follows.

    Of the due times that are missed the last `catch_up` are fired; all that are not missed are.

    Args:
        schedule: The schedule.
        due_ms: Its oldest due time that was neither fired nor skipped.
        now_ms: The server's time.
    """
    missed_before_ms = now_ms - round(1000 * schedule.late_s)
    missed = _last_missed(schedule, due_ms, missed_before_ms)
    if fire_at(schedule, due_ms) >= missed_before_ms or missed[:1] == [due_ms]:
        return Firing(is_missed=False, next_ms=next_due(schedule, due_ms))
    if missed:
        return Firing(is_missed=True, next_ms=missed[0])
    # Only times within the jitter before `missed_before_ms` may still be fired in time.
    last_ms = max(due_ms, missed_before_ms - round(1000 * schedule.jitter_s) - 1)
    in_time = (
        each for each in due_times(schedule, last_ms) if fire_at(schedule, each) >= missed_before_ms
    )
    return Firing(is_missed=True, next_ms=next(in_time, None))


def _last_missed(schedule: Schedule, due_ms: int, before_ms: int) -> list[int]:
    """The last `catch_up` missed due times from `due_ms` on, the oldest first.

    The search goes back twice as far each time: months without a listener cost little.
    """
    if not schedule.catch_up:
        return []
    span_ms = _MINUTE_MS * (schedule.catch_up + 1)
    while True:
        first_ms = max(due_ms, before_ms - span_ms)
        candidates = takewhile(lambda at_ms: at_ms < before_ms, due_times(schedule, first_ms - 1))
        found = [each for each in candidates if fire_at(schedule, each) < before_ms]
        if len(found) >= schedule.catch_up or first_ms == due_ms:
            return found[-schedule.catch_up :]
        span_ms *= 2


def _milliseconds(moment: datetime) -> int:
    return round(1000 * moment.timestamp())
