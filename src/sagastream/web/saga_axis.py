"""The requests of a saga on one time axis: its steps, and its compensations in their lane."""

from dataclasses import dataclass
from typing import Any, Literal

from sagastream.bus import Bus
from sagastream.errors import SagastreamError
from sagastream.inspection import read_request
from sagastream.saga.state import Direction, Journal, JournalEntry

# The least width of a bar, in percent: a short one must be seen.
_MIN_WIDTH = 0.8

RowStatus = Literal["running", "completed", "failed", "retried"]


@dataclass(frozen=True, slots=True)
class SagaRequest:
    """One request of a saga.

    Attributes:
        entry: Its entry in the journal.
        status: Its current status: that of its record while the journal does not know its end.
        progress: The payload of its last progress; {} when it does not run.
        due_time_s: When its next attempt begins, in seconds since the Unix epoch; 0 if it does not
            wait for one.
        left: Where its bar begins, in percent of the axis.
        width: How long its bar is, in percent.
        duration_s: Its duration in seconds, until now while it runs.
    """

    entry: JournalEntry
    status: str
    progress: dict[str, Any]
    due_time_s: float
    left: float
    width: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class AxisRow:
    """A step, or its compensation.

    Attributes:
        step: The name of the step.
        requests: Its requests, the oldest first.
    """

    step: str
    requests: tuple[SagaRequest, ...]

    @property
    def status(self) -> str:
        """That of its last request."""
        return self.requests[-1].status


@dataclass(frozen=True, slots=True)
class Axis:
    """The whole time axis.

    Attributes:
        start_s: Its begin, in seconds since the Unix epoch.
        length_s: Its length in seconds.
        steps: The steps that have begun, in their order.
        lane: The compensations that have begun, in their order.
    """

    start_s: float
    length_s: float
    steps: tuple[AxisRow, ...]
    lane: tuple[AxisRow, ...]


async def axis_of(bus: Bus, journal: Journal) -> Axis:
    """Place the requests of a saga on one axis, from its start to its end, or until now.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    seconds, micros = await bus.command("TIME")
    now = seconds + micros / 1e6
    ends = [entry.ended for entry in journal.entries if entry.ended is not None]
    end = max(ends, default=journal.started) if journal.is_over else now
    length = max(0.001, end - journal.started)

    async def placed_on_axis(entry: JournalEntry) -> SagaRequest:
        status, progress, due = await _current(bus, entry)
        until = end if entry.ended is None else entry.ended
        left = _percent(entry.started - journal.started, length, 100 - _MIN_WIDTH)
        width = max(_MIN_WIDTH, _percent(until - entry.started, length, 100 - left))
        return SagaRequest(
            entry, status, progress, due, left, width, max(0.0, until - entry.started)
        )

    placed = [await placed_on_axis(entry) for entry in journal.entries]
    return Axis(
        journal.started, length, tuple(_rows(placed, "forward")), tuple(_rows(placed, "undo"))
    )


def _percent(part: float, whole: float, limit: float) -> float:
    return round(min(limit, max(0.0, 100 * part / whole)), 2)


def _rows(placed: list[SagaRequest], direction: Direction) -> list[AxisRow]:
    by_step: dict[str, list[SagaRequest]] = {}
    for each in placed:
        if each.entry.direction == direction:
            by_step.setdefault(each.entry.step, []).append(each)
    return [AxisRow(step, tuple(requests)) for step, requests in by_step.items()]


async def _current(bus: Bus, entry: JournalEntry) -> tuple[str, dict[str, Any], float]:
    """Status, progress and next attempt of a request: an end in the journal closes its progress."""
    if entry.status != "intended":
        return entry.status, {}, 0.0
    try:
        request = await read_request(bus, entry.request_id)
    except SagastreamError:
        return "unreadable", {}, 0.0
    if request is None:
        return "intended", {}, 0.0
    return request.status, request.progress, request.due_time_s
