"""Random schedules of the pure model of limiters, pauses and fair queues."""

import random

import pytest

from tests.faults.limiter_model import Stream, Work
from tests.faults.report import Report

pytestmark = pytest.mark.timeout(3600)

_LIMITS: tuple[dict[str, int], ...] = (
    {"limit {key}": 1},
    {"limit all": 2},
    {"limit {key}": 2, "limit all": 3},
    {},
)
_TARGETS = ("*", "work:do", "key=a", "fairness_key=x")
_STEPS, _MOST = 30, 8


def _turn(chance: random.Random) -> tuple[int, float, str] | None:
    if chance.random() < 0.4:
        return None
    return chance.randint(1, 3), chance.choice((1.0, 2.0)), chance.choice("xy")


def _step(stream: Stream, chance: random.Random, number: int) -> None:
    """Do one transition: commands come, listeners claim and die, operators pause."""
    entry = chance.choice(stream.entries) if stream.entries else None
    work = stream.works[chance.choice(list(stream.works))] if stream.works else None
    match chance.choice(("emit", "emit", "begin", "begin", "begin", "end", "end", "die", "pause")):
        case "emit" if len(stream.works) < _MOST:
            stream.emit(f"r{number}", chance.choice("abc"), _turn(chance))
        case "begin" if entry:
            stream.begin(entry, f"t{number}", lapses=chance.random() < 0.2)
        case "end" if work and work.token:
            getattr(stream, chance.choice(("finish", "release", "renew")))(work.name, work.token)
        case "die" if work and work.status == "running":
            work.leased = False
        case "die" if work:
            stream.cancel(work.name)
        case "pause":
            chance.choice((stream.pause, stream.resume))(chance.choice(_TARGETS))


def _exceeded(stream: Stream) -> list[str]:
    """The limits that more requests hold than they may, as far as their leases are current."""
    running = [each for each in stream.works.values() if each.status == "running" and each.leased]
    return [
        name
        for kind, count in stream.limits.items()
        for name in {kind.format(key=each.key) for each in running}
        if sum(name == kind.format(key=each.key) for each in running) > count
    ]


def _places(stream: Stream, work: Work) -> int:
    """In how many places an open request is: the stream, and the queues."""
    queued = [
        name
        for queue in stream.queues.values()
        for waiting in queue.waiting.values()
        for _, name in waiting
        if name == work.name
    ]
    return stream.entries.count(work.name) + len(queued)


def _drain(stream: Stream) -> int:
    """Resume all, and let listeners handle what is in the stream; returns how many are left open."""
    for target in _TARGETS:
        stream.resume(target)
    for number in range(3 * _MOST):
        for name in list(stream.entries):
            work = stream.works[name]
            work.leased = False  # every listener died, and its leases have lapsed
            if stream.begin(name, f"last{number}", lapses=False) == "claimed":
                stream.finish(name, f"last{number}")
    return sum(each.status in {"pending", "running"} for each in stream.works.values())


@pytest.mark.invariant(3)
def test_no_schedule_exceeds_a_limit_or_starves_a_request(report: Report, is_long: bool) -> None:
    """After each step no limit is exceeded and each open request is in one place; all end at last."""
    schedules, waited = 1_000_000 if is_long else 5_000, 0
    for seed in range(schedules):
        chance = random.Random(seed)
        stream = Stream(_LIMITS[seed % len(_LIMITS)])
        for number in range(_STEPS):
            _step(stream, chance, number)
            assert not _exceeded(stream), seed
            for work in stream.works.values():
                if work.status in {"pending", "running"}:
                    assert _places(stream, work) == 1, (seed, work)
            waited += len(stream.queues)
        assert _drain(stream) == 0, seed
    row = report.row("limiters, pauses and turns in random schedules of the pure model")
    row.tries = schedules
    assert waited > schedules
