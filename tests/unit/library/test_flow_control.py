"""Limits, priorities and pauses: which requests wait for others, and that none starves."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    DeadlineExceeded,
    InvalidMessage,
    Limit,
    Priority,
    RegistrationError,
    RequestCancelled,
    multi_stage_reply,
)
from sagastream._functions.answers import BeginAnswer, Claimed, Limited
from sagastream._functions.requests import renew_command
from sagastream.flow_control import pause, pauses, queues, resume
from sagastream.handlers import Handler
from sagastream.status import request_status
from tests.listeners import listening
from tests.plain_client import GROUP, call, deliver
from tests.polling import eventually

STREAM = "work:commands"


class Work:
    """A handler that notes what runs, and waits until the test lets it end."""

    def __init__(self, *limits: Limit, is_open: bool = False) -> None:
        self.begun: list[str] = []
        self.times: list[float] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._gates: dict[str, asyncio.Event] = {}
        self._is_open = is_open
        self.handler = Handler(STREAM, "work:do", self._run, limits=limits)

    def let_end(self, *request_ids: str) -> None:
        """Let these requests end."""
        for request_id in request_ids:
            self._gates.setdefault(request_id, asyncio.Event()).set()

    async def has_begun(self, count: int) -> None:
        """Wait until this many have begun."""
        await eventually(lambda: len(self.begun) == count, within_s=10, why=f"{count} have begun")

    async def _run(self, command: Command) -> dict[str, Any]:
        key = command.payload.get("key", "")
        self.begun.append(command.request_id)
        self.times.append(time.monotonic())
        self.running[key] += 1
        self.most[key] = max(self.most[key], self.running[key])
        try:
            if self._is_open:
                await asyncio.sleep(0.002)  # so that they overlap
            else:
                await self._gates.setdefault(command.request_id, asyncio.Event()).wait()
        finally:
            self.running[key] -= 1
        return {"key": key}


async def _emit(bus: Bus, request_id: str, key: str = "", **options: Any) -> str:
    given: dict[str, Any] = {"request_id": request_id, "correlation_id": "c"}
    return await bus.emit_command(
        STREAM, event_type="work:do", payload={"key": key}, **(given | options)
    )


async def _ended(bus: Bus, *request_ids: str) -> None:
    async def all_ended() -> bool:
        return all([await bus.outcome(request_id) for request_id in request_ids])

    await eventually(all_ended, within_s=20, why="all have ended")


async def _waits(bus: Bus, count: int) -> None:
    async def wait() -> bool:
        return sum(queue.waiting for queue in await queues(bus, STREAM)) == count

    await eventually(wait, within_s=10, why=f"{count} requests wait")


async def test_no_more_run_at_once_than_the_limit(bus: Bus) -> None:
    """Over all listeners; the others wait without a slot, and begin in their order."""
    work = Work(Limit(concurrency=2))
    names = [f"r{i}" for i in range(6)]
    async with AsyncExitStack() as listeners:
        await listeners.enter_async_context(listening(bus, [work.handler]))
        for name in names:
            await _emit(bus, name)
        await _waits(bus, 4)
        assert work.begun == names[:2]
        await listeners.enter_async_context(listening(bus, [work.handler]))
        (queue,) = await queues(bus, STREAM)
        assert (queue.reason, queue.key, queue.in_use) == ("limit", "work:do", 2)
        waiting = await request_status(bus, "r5")
        assert waiting is not None
        assert (waiting.status, waiting.waits_for) == ("pending", "limit work:do")
        for i, name in enumerate(names):
            work.let_end(name)
            await _ended(bus, name)
            await work.has_begun(min(6, i + 3))
    assert work.begun == names
    assert work.most[""] == 2
    assert not await queues(bus, STREAM)


async def test_a_key_counts_by_itself(bus: Bus) -> None:
    """One key at its limit holds up no other."""
    work = Work(Limit(concurrency=1, per="key"))
    async with listening(bus, [work.handler]):
        for name, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"), ("b2", "b")):
            await _emit(bus, name, key)
        await _waits(bus, 3)
        assert work.begun == ["a1", "b1"]
        work.let_end("b1", "b2")
        await _ended(bus, "b1", "b2")
        assert work.begun == ["a1", "b1", "b2"]
        work.let_end("a1", "a2", "a3")
        await _ended(bus, "a1", "a2", "a3")
    assert work.begun == ["a1", "b1", "b2", "a2", "a3"]
    assert not await queues(bus, STREAM)


async def test_a_limit_holds_under_many_requests_and_listeners(bus: Bus) -> None:
    """400 requests of ten keys; never more than two of a key, nor twelve in all."""
    work = Work(Limit(concurrency=12), Limit(concurrency=2, per="key"), is_open=True)
    names = [f"r{i}" for i in range(400)]
    await asyncio.gather(*(_emit(bus, name, f"k{i % 10}") for i, name in enumerate(names)))
    async with listening(bus, [work.handler]), listening(bus, [work.handler]):
        await _ended(bus, *names)
    assert sorted(work.begun) == sorted(names), "each has begun once"
    assert max(work.most.values()) == 2
    assert not await queues(bus, STREAM)
    left = [key for key in await bus.command("KEYS", bus.key("*")) if b":limit" in key]
    assert left == [], "a limiter without requests has no key"


async def test_a_rate_is_kept(bus: Bus) -> None:
    """At most `burst` at once, then one each interval; what waits is not read repeatedly."""
    work = Work(Limit(rate=50, burst=2), is_open=True)
    names = [f"r{i}" for i in range(20)]
    async with listening(bus, [work.handler]):
        for name in names:
            await _emit(bus, name)
        await _ended(bus, *names)
    for first in range(len(names)):
        for last in range(first + 2, len(names)):
            took_s = work.times[last] - work.times[first]
            assert took_s > (last - first - 1) / 50 - 0.03, "more have begun than the rate allows"
    assert work.times[-1] - work.times[0] < 18 / 50 + 5.0
    assert work.begun == names


class Claims:
    """Claims of two requests of a handler that may run once at a time, by calls of the functions."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._entries: dict[str, str] = {}

    async def send(self) -> None:
        """Emit `first` and `second`, and deliver them to a process that is gone."""
        await _emit(self._bus, "first")
        await _emit(self._bus, "second")
        delivered = await deliver(self._bus, STREAM)
        for name, (entry_id, _) in zip(("first", "second"), delivered, strict=True):
            self._entries[name] = entry_id

    async def begin(self, name: str, *, lease_s: float = 100.0) -> BeginAnswer:
        """Claim one."""
        return await self._bus.session().requests.begin(
            self._bus.key(f"request:{name}"),
            self._bus.key(STREAM),
            group=GROUP,
            entry_id=self._entries[name],
            consumer="dead",
            token=f"token of {name}",
            lease_ms=round(1000 * lease_s),
            retention=self._bus.retention,
            max_deliveries=5,
            trace=("", "", ""),
            limiters=Limit(concurrency=1).limiters("work:do", {}),
        )

    async def end(self, name: str) -> None:
        """End a claim."""
        await self._bus.session().requests.finish(
            self._bus.key(f"request:{name}"),
            self._bus.key(STREAM),
            "completed",
            "{}",
            group=GROUP,
            entry_id=self._entries[name],
            token=f"token of {name}",
            retention=self._bus.retention,
            trace=("", "", ""),
        )

    async def renew(self, name: str) -> bool:
        """Renew the lease of one for a long time; whether it is kept."""
        key, stream = self._bus.key(f"request:{name}"), self._bus.key(STREAM)
        claim = (key, stream, f"token of {name}", self._entries[name])
        command = renew_command([claim], lease_ms=100_000, group=GROUP, consumer="dead")
        return bool((await self._bus.command(*command))[0] == b"1")


async def _passes(bus: Bus, seconds: float) -> None:
    """Wait until this time has passed by the server's clock."""

    async def now() -> float:
        whole, micros = await bus.command("TIME")
        return int(whole) + int(micros) / 1e6

    until = await now() + seconds

    async def is_later() -> bool:
        return await now() > until

    await eventually(is_later, within_s=10, why=f"{seconds} s have passed")


async def test_a_lapsed_lease_frees_its_permit(bus: Bus) -> None:
    """Not before; and then its own renewal comes too late, and the claim is lost."""
    claims = Claims(bus)
    await claims.send()
    assert isinstance(await claims.begin("first", lease_s=0.05), Claimed)
    await _passes(bus, 0.06)
    assert isinstance(await claims.begin("second"), Claimed)
    assert not await claims.renew("first"), "two would run at once"
    await claims.end("first")
    await claims.end("second")


async def test_a_renewed_lease_keeps_its_permit(bus: Bus) -> None:
    """However long it was at the begin."""
    claims = Claims(bus)
    await claims.send()
    assert isinstance(await claims.begin("first", lease_s=0.05), Claimed)
    assert await claims.renew("first")
    await _passes(bus, 0.06)
    assert isinstance(await claims.begin("second"), Limited)
    await bus.cancel("second")
    await claims.end("first")


async def test_a_listener_that_died_counts_until_its_lease_lapses(bus: Bus) -> None:
    """Then both requests run, one after the other."""
    work, lease_s = Work(Limit(concurrency=1), is_open=True), 0.8
    claims = Claims(bus)
    await claims.send()
    claimed_at = time.monotonic()
    await claims.begin("first", lease_s=lease_s)
    async with listening(bus, [work.handler], lease_s=lease_s):
        await _ended(bus, "first", "second")
    assert set(work.begun) == {"first", "second"}
    assert min(work.times) >= claimed_at + lease_s - 0.01, "one began while the lease was current"
    assert work.most[""] == 1
    assert not await queues(bus, STREAM)


async def test_a_request_that_waits_fails_at_its_deadline(bus: Bus) -> None:
    """Whatever it waits for; the others keep their places."""
    work = Work(Limit(concurrency=1))
    async with listening(bus, [work.handler], concurrency=4):
        for name, deadline_s in (("first", None), ("second", 2.0), ("third", None)):
            await _emit(bus, name, deadline_s=deadline_s, reply_stream="replies:me")
        await _waits(bus, 2)
        with pytest.raises(DeadlineExceeded):
            await bus.read_replies("replies:me", "c", "second", 10)
        assert work.begun == ["first"]
        work.let_end("first", "third")
        await _ended(bus, "first", "third")
    assert work.begun == ["first", "third"]
    assert not await queues(bus, STREAM)


async def test_a_paused_request_fails_at_its_deadline(bus: Bus) -> None:
    """Nothing begins, and nobody waits for longer than he said."""
    work = Work(is_open=True)
    await pause(bus, STREAM)
    async with listening(bus, [work.handler]):
        await _emit(bus, "late", deadline_s=0.3, reply_stream="replies:me")
        with pytest.raises(DeadlineExceeded):
            await bus.read_replies("replies:me", "c", "late", 10)
        await resume(bus, STREAM)
    assert work.begun == []


async def test_a_request_that_waits_can_be_cancelled(bus: Bus) -> None:
    """It leaves the queue, and never begins."""
    work = Work(Limit(concurrency=1))
    async with listening(bus, [work.handler]):
        for name in ("first", "second", "third"):
            await _emit(bus, name)
        await _waits(bus, 2)
        assert await bus.cancel("second") == "cancelled"
        await _waits(bus, 1)
        work.let_end("first", "third")
        await _ended(bus, "first", "third")
        with pytest.raises(RequestCancelled):
            await bus.request_and_reply(STREAM, "work:do", {"key": ""}, 5, request_id="second")
    assert work.begun == ["first", "third"]


async def test_a_cancelled_handler_counts_until_it_has_ended(bus: Bus) -> None:
    """The next one begins when its place is free, not when the cancel is asked for."""
    work = Work(Limit(concurrency=1))
    async with listening(bus, [work.handler]):
        await _emit(bus, "first")
        await eventually(lambda: work.begun == ["first"], within_s=10, why="the first runs")
        await _emit(bus, "second")
        await _waits(bus, 1)
        assert await bus.cancel("first") == "cancelling"
        await eventually(lambda: len(work.begun) == 2, within_s=10, why="the second runs")
        assert work.most[""] == 1
        work.let_end("second")
        await _ended(bus, "second")


async def test_the_turns_go_by_key_and_weight(bus: Bus) -> None:
    """A backlog of one key holds up no other; a weight of two gets two turns for one."""
    work = Work(is_open=True)
    for i in range(60):
        await _emit(bus, f"big{i}", priority=Priority(fairness_key="big"))
    for i in range(6):
        await _emit(bus, f"one{i}", priority=Priority(fairness_key="one"))
        await _emit(bus, f"two{i}", priority=Priority(fairness_key="two", weight=2.0))
    async with listening(bus, [work.handler], concurrency=1):
        await eventually(lambda: len(work.begun) == 72, within_s=20, why="all have begun")
    late = work.begun[32:]  # those before have been let into the stream as they came
    assert {f"two{i}" for i in range(6)} <= set(late[:14])
    assert {f"one{i}" for i in range(6)} <= set(late[:20])
    by_key = [name for name in work.begun if name.startswith("big")]
    assert by_key == [f"big{i}" for i in range(60)], "those of one key keep their order"


async def test_the_classes_take_turns_and_none_starves(bus: Bus) -> None:
    """The high class goes before the low one, but not always."""
    work = Work(is_open=True)
    for i in range(40):
        await _emit(bus, f"low{i}", priority=Priority("low"))
    for i in range(130):
        await _emit(bus, f"high{i}", priority=Priority("high"))
    async with listening(bus, [work.handler], concurrency=1):
        await eventually(lambda: len(work.begun) == 170, within_s=20, why="all have begun")
    late = work.begun[32:]
    assert sum(name.startswith("high") for name in late[:65]) >= 63
    assert any(name.startswith("low") for name in late[:130]), "the low class gets its share"


@pytest.mark.parametrize(
    ("target", "held"),
    [({}, {"a", "b"}), ({"event_type": "work:do"}, {"a", "b"}), ({"key": "key=a"}, {"a"})],
    ids=["stream", "event type", "key"],
)
async def test_what_is_paused_does_not_begin(
    bus: Bus, target: dict[str, str], held: set[str]
) -> None:
    """And is seen to be paused; it begins when it is resumed."""
    work = Work(Limit(concurrency=5, per="key"), is_open=True)
    await pause(bus, STREAM, **target, reason="the bank is closed")
    (paused,) = await pauses(bus, STREAM)
    seconds, _ = await bus.command("TIME")
    assert paused.reason == "the bank is closed"
    assert paused.since == pytest.approx(int(seconds), abs=5)
    async with listening(bus, [work.handler]):
        await _emit(bus, "a", "a")
        await _emit(bus, "b", "b")
        await _waits(bus, len(held))
        await _ended(bus, *({"a", "b"} - held))
        assert set(work.begun) == {"a", "b"} - held
        (queue,) = await queues(bus, STREAM)
        assert (queue.reason, queue.waiting) == ("paused", len(held))
        assert await resume(bus, STREAM, **target)
        await _ended(bus, "a", "b")
    assert not await pauses(bus, STREAM)
    assert not await resume(bus, STREAM, **target)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"concurrency": True},
        {"rate": 0},
        {"rate": 1, "rate_s": 0.0},
        {"concurrency": 1, "burst": 2},
        {"concurrency": 1, "per": 7},
    ],
    ids=str,
)
def test_a_limit_that_means_nothing_is_refused(options: dict[str, Any]) -> None:
    """When it is made, with the field named."""
    with pytest.raises(ValueError, match=r"concurrency|rate|burst|per"):
        Limit(**options)


@pytest.mark.parametrize(
    "options",
    [{"priority": "urgent"}, {"weight": 0.0}, {"weight": float("nan")}, {"fairness_key": "a\nb"}],
    ids=str,
)
def test_a_priority_that_means_nothing_is_refused(options: dict[str, Any]) -> None:
    """When it is made, with the field named."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Priority(**options)


def test_two_limits_that_count_the_same_are_refused() -> None:
    """At the decorator, with the handler named."""
    with pytest.raises(RegistrationError, match=r"work:do.*two limits have a concurrency per key"):
        multi_stage_reply(
            stream=STREAM,
            event_type="work:do",
            limits=[Limit(concurrency=1, per="key"), Limit(concurrency=2, per="key")],
        )(Work().handler.function)


async def test_a_priority_that_is_none_is_refused(bus: Bus) -> None:
    """And so is one beside an option that it does not fit; nothing is written."""
    with pytest.raises(InvalidMessage, match="priority: must be a Priority"):
        await _emit(bus, "r", priority="high")
    with pytest.raises(InvalidMessage, match="maxlen: does not fit a command that waits"):
        await _emit(bus, "r", priority=Priority(), maxlen=5)
    assert await request_status(bus, "r") is None


async def test_a_limit_that_is_raised_lets_all_in_that_fit(bus: Bus) -> None:
    """Also when more than a hundred wait: one call lets in a hundred, the next sweeps the others."""
    few, many = Work(Limit(concurrency=1)), Work(Limit(concurrency=300))
    names = [f"r{number}" for number in range(260)]
    await asyncio.gather(*(_emit(bus, name) for name in names))
    async with listening(bus, [few.handler], drain_s=0.0):
        await _waits(bus, 259)
    async with listening(bus, [many.handler], concurrency=300):
        await eventually(lambda: many.begun, within_s=10, why="the first hundred are let in")
        next_look = await call(bus, "ZSCORE", f"{STREAM}:limits", "limit work:do")
        seconds, _ = await bus.command("TIME")
        assert next_look is None or float(next_look) < 1000 * (int(seconds) + 2), "a sweep is due"
        await many.has_begun(260)
        many.let_end(*names)
        await _ended(bus, *names)
