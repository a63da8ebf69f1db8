"""Schedules while listeners are killed at the functions that fire them, and the server with them."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess

import pytest

from sagastream import Bus, Schedule
from sagastream.schedules import pause_schedule, read_schedule, set_schedule
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.crash_points import command_name
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.faults.roles import kill_and_wait, spawn
from tests.faults.scheduled_roles import scheduled_listener
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(600)]

_POINTS = [
    (name, fault) for name in ("take_schedules", "fire") for fault in (Fault.BEFORE, Fault.AFTER)
]


class Doomed:
    """A listener that is killed before or after its n-th call of a function, and replaced."""

    def __init__(self, url: str, name: str, fault: Fault, number: int, stack: ExitStack) -> None:
        self._url = url
        self._point = (f"FCALL {name}", fault, number)
        self._count = 0
        self.has_died = False
        self._proxy = stack.enter_context(FaultProxy(url, self._plan, on_fault=self._die))
        self.process: BaseProcess = spawn(scheduled_listener, self._proxy.url)
        stack.callback(lambda: kill_and_wait(self.process))

    def _plan(self, _number: int, command: tuple[bytes, ...]) -> Fault:
        name, fault, number = self._point
        if self.has_died or command_name(command) != name:
            return Fault.NONE
        self._count += 1
        return fault if self._count == number else Fault.NONE

    def _die(self) -> None:
        self.has_died = True
        kill_and_wait(self.process)
        self.process = spawn(scheduled_listener, self._url)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as made:
        yield made


@pytest.mark.invariant(1)
@pytest.mark.invariant(12)
@pytest.mark.parametrize("server_dies", [False, True], ids=["listeners", "and server"])
async def test_no_firing_is_lost_or_doubled(
    store: EmbeddedServer,
    report: Report,
    is_long: bool,
    stack: ExitStack,
    *,
    server_dies: bool,
) -> None:
    """Each due time of a schedule of each second has one effect."""
    row = report.row(
        "schedules: listeners killed at each function" + ", and the server" * server_dies
    )
    if server_dies:
        store = stack.enter_context(EmbeddedServer(aof=True, fsync="always"))
    numbers = range(1, 6) if is_long else (1, 2)
    async with Bus(store.url) as bus:
        schedule = Schedule(
            name="tick",
            stream=STREAM,
            event_type="work:do",
            every_s=1.0,
            late_s=600.0,
            overlap="queue",
            catch_up=100,
            payload={"n": 1},
        )
        await set_schedule(bus, schedule)
        doomed = [
            Doomed(store.url, name, fault, number, stack)
            for number in numbers
            for name, fault in _POINTS
        ]
        await eventually(
            lambda: sum(each.has_died for each in doomed) >= len(doomed) // 2,
            within_s=60,
            why="half of the listeners were killed at their functions",
        )
        if server_dies:
            await asyncio.to_thread(store.kill)
            await asyncio.to_thread(store.start)
        fired = await _fired(bus)
        await eventually(lambda: _goes_on(bus, fired), within_s=60, why="the firings go on")
        await pause_schedule(bus, "tick")
        found = await read_schedule(bus, "tick")
        assert found
        await eventually(
            lambda: _has_effects(bus, found.fired), within_s=60, why="all fired ones have an effect"
        )
        raw = await bus.command("HGETALL", "effects")
    effects = {name.decode(): count for name, count in raw.items()}
    times = sorted(datetime.fromisoformat(each.removeprefix("tick@")) for each in effects)
    assert set(effects.values()) == {b"1"}, "each firing has one effect"
    gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert gaps == {timedelta(seconds=1)}, "no due time is left out"
    assert found.missed == found.refused == 0
    row.check(store, *effects, entries=None)


async def _fired(bus: Bus) -> int:
    found = await read_schedule(bus, "tick")
    return found.fired if found else 0


async def _goes_on(bus: Bus, before: int) -> bool:
    return await _fired(bus) >= before + 3


async def _has_effects(bus: Bus, count: int) -> bool:
    return bool(await bus.command("HLEN", "effects") == count)
