"""Limits while listeners are killed: never exceeded, and none waits without a reason."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess

import pytest

from sagastream import Bus, Priority
from sagastream.flow_control import queues
from sagastream.testing import EmbeddedServer
from tests.faults.invariants import STREAM
from tests.faults.limited_roles import limited_listener
from tests.faults.report import Report
from tests.faults.roles import kill_and_wait, spawn
from tests.plain_client import connect
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]

_PER_KEY, _AT_ONCE = 2, 32


class Killed:
    """Listeners that are killed and replaced, and when each was."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._processes = [self._start() for _ in range(count)]
        self.dead_after: dict[int, int] = {}

    def _start(self) -> BaseProcess:
        return spawn(limited_listener, self._url, _PER_KEY, _AT_ONCE)

    def kill_one(self, number: int, begun: Callable[[], int]) -> None:
        """Kill one and start another; `begun` counts the handlers that have begun."""
        victim = self._processes[number]
        kill_and_wait(victim)
        assert victim.pid is not None
        self.dead_after[victim.pid] = begun()
        self._processes[number] = self._start()

    def end(self) -> None:
        """Kill all."""
        for process in self._processes:
            kill_and_wait(process)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("has_priority", [False, True], ids=["plain", "with priority"])
async def test_no_limit_is_exceeded_while_listeners_are_killed(
    store: EmbeddedServer, report: Report, is_long: bool, has_priority: bool, stack: ExitStack
) -> None:
    """Told by the handlers themselves, who see each other."""
    count, keys, listeners, kills = (10_000, 100, 4, 40) if is_long else (300, 12, 2, 3)
    rng = random.Random(7)
    names = [f"r{number}" for number in range(count)]
    row = report.row(f"limits, {listeners} listeners killed in turn")
    killed = Killed(store.url, listeners)
    stack.callback(killed.end)
    async with Bus(store.url) as bus:
        for first in range(0, count, 500):
            emits = []
            for name in names[first : first + 500]:
                key = f"k{rng.randrange(keys)}"
                priority = Priority(fairness_key=key) if has_priority else None
                emits.append(
                    bus.emit_command(
                        STREAM,
                        event_type="work:do",
                        payload={"key": key, "work_s": 0.02},
                        request_id=name,
                        correlation_id="c",
                        reply_stream="replies:limits",
                        priority=priority,
                    )
                )
            await asyncio.gather(*emits)
        with connect(store.url) as client:
            for number in range(kills):
                target = (number + 1) * count // (kills + 2)
                await eventually(
                    lambda target=target: client.hlen("effects") >= target,  # type: ignore[misc]
                    within_s=120,
                    why=f"{target} requests have ended",
                )
                await asyncio.to_thread(
                    killed.kill_one, number % listeners, lambda: client.llen("seen")
                )
            await eventually(
                lambda: client.hlen("effects") == count, within_s=300, why="all have ended"
            )
            await _all_answered(bus, names)
            assert not await queues(bus, STREAM)
            seen = [json.loads(each) for each in client.lrange("seen", 0, -1)]
            assert set(client.hvals("effects")) == {"1"}, "an effect took place twice"
    most = max(_alive(present, at, killed.dead_after) for at, present in enumerate(seen))
    assert most <= _PER_KEY, f"{most} of a key ran at once"
    row.check(store, *names, entries=None)
    row.notes["most of a key at once"] = str(most)
    row.notes["kills"] = str(int(row.notes.get("kills", "0")) + kills)


def _alive(present: list[str], at: int, dead_after: dict[int, int]) -> int:
    """How many of those present belonged to a living process when this handler began."""
    return sum(dead_after.get(int(each.split()[0]), at + 1) > at for each in present)


async def _all_answered(bus: Bus, names: list[str]) -> None:
    async def answered() -> bool:
        return all([await bus.outcome(name) for name in names])

    await eventually(answered, within_s=60, why="all have ended")
