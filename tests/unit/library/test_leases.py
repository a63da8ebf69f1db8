"""Claims that lapse, are taken over, cancelled, or run out of time."""

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    DeadlineExceeded,
    HandlerStopped,
    NoHandlers,
    PlainProgress,
    Progress,
    ReplyTimeout,
    RequestCancelled,
    multi_stage_reply,
)
from sagastream.testing import Fault, FaultProxy
from tests.conftest import listening

STREAM = "work:commands"


async def _call(bus: Bus, command: str, name: str, *args: Any) -> Any:
    return await bus.command(command, bus.key(name), *args)


class Work:
    """A handler that waits to be let go, and counts."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.epochs: list[int] = []
        self.stopped = 0
        self.handler = multi_stage_reply(stream=STREAM, event_type="work:do")(self._do)

    async def _do(self, command: Command, _progress: Progress) -> dict[str, Any]:
        self.epochs.append(command.epoch)
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return {"epoch": command.epoch}


@pytest.fixture
async def work() -> Work:
    """A fresh handler."""
    return Work()


def _ask(bus: Bus, **options: Any) -> "asyncio.Task[dict[str, Any]]":
    asked = bus.request_and_reply(STREAM, "work:do", {}, **({"request_id": "r"} | options))
    return asyncio.create_task(asked)


@pytest.mark.invariant(5)
async def test_a_handler_that_takes_many_leases_runs_once(bus: Bus, work: Work) -> None:
    """Renewal keeps the claim, whatever another listener's sweeper would like."""
    async with (
        listening(bus, [work.handler], lease_s=0.2),
        listening(bus, [work.handler], lease_s=0.2),
    ):
        asked = _ask(bus)
        await work.begun.wait()
        first = await _call(bus, "HGET", "request:r", "lease_until")
        while int(await _call(bus, "HGET", "request:r", "lease_until")) < int(first) + 1000:
            await asyncio.sleep(0.05)
        work.go.set()
        assert (await asked)["payload"] == {"epoch": 1}
    assert work.epochs == [1]


@pytest.mark.invariant(5)
async def test_the_command_of_a_dead_listener_is_taken_over(bus: Bus, work: Work) -> None:
    """A claim that nobody renews goes to another listener, with a higher epoch."""
    call = bus.command
    await call("XGROUP", "CREATE", bus.key(STREAM), "sagastream", "0", "MKSTREAM")
    asked = _ask(bus)
    while not await call("XLEN", bus.key(STREAM)):
        await asyncio.sleep(0.01)
    await call("XREADGROUP", "GROUP", "sagastream", "dead", "STREAMS", bus.key(STREAM), ">")
    work.go.set()
    async with listening(bus, [work.handler], lease_s=0.2):
        assert (await asyncio.wait_for(asked, 10))["status"] == "completed"
        while (
            b"dead" in str(await call("XINFO", "CONSUMERS", bus.key(STREAM), "sagastream")).encode()
        ):
            await asyncio.sleep(0.05)


@pytest.mark.invariant(5)
async def test_all_that_a_dead_listener_held_waits_for_free_slots_only(
    bus: Bus, work: Work
) -> None:
    """A sweep that filled all slots is followed by the next at once, not after a while."""
    call = bus.command
    await call("XGROUP", "CREATE", bus.key(STREAM), "sagastream", "0", "MKSTREAM")
    asked = [_ask(bus, request_id=f"r{number}") for number in range(60)]
    while await call("XLEN", bus.key(STREAM)) < len(asked):
        await asyncio.sleep(0.01)
    await call("XREADGROUP", "GROUP", "sagastream", "dead", "STREAMS", bus.key(STREAM), ">")
    work.go.set()
    async with listening(bus, [work.handler], lease_s=2, concurrency=1):
        replies = await asyncio.wait_for(asyncio.gather(*asked), 15)
    assert len(replies) == len(asked)


@pytest.mark.invariant(4)
async def test_a_stopped_listener_hands_its_work_on_at_once(bus: Bus, work: Work) -> None:
    """The next need not wait for the lease to lapse."""
    asked = _ask(bus)
    async with listening(bus, [work.handler], lease_s=30, drain_s=0.05):
        await work.begun.wait()
    assert work.stopped == 1
    work.go.set()
    async with listening(bus, [work.handler], lease_s=0.2):
        reply = await asyncio.wait_for(asked, 10)
    assert reply["payload"] == {"epoch": 2}


@pytest.mark.invariant(3)
@pytest.mark.invariant(5)
async def test_a_lost_lease_stops_the_handler_which_writes_nothing(bus: Bus, work: Work) -> None:
    """When the server says that the claim is another's, the handler ends in silence."""
    asked = _ask(bus, timeout=60)
    async with listening(bus, [work.handler], lease_s=0.2):
        await work.begun.wait()
        await _call(bus, "HSET", "request:r", "token", "another")
        while not work.stopped:
            await asyncio.sleep(0.02)
    assert await bus.outcome("r") is None
    asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asked


@pytest.mark.blocking
async def test_a_renewal_that_meets_the_end_of_its_own_request_is_no_lost_lease(
    bus: Bus,
    work: Work,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Between the end on the server and its answer the handler is not taken for stopped."""
    monkeypatch.setattr("sagastream._redis.protocol.ANSWER_TIMEOUT_S", 1.0)
    finished: list[int] = []

    def plan(number: int, command: tuple[bytes, ...]) -> Fault:
        if not finished and command[0] == b"FCALL" and command[1].endswith(b"_finish"):
            finished.append(number)
            return Fault.SWALLOW
        return Fault.NONE

    work.go.set()
    with FaultProxy(bus.url, plan) as proxy, caplog.at_level("WARNING", "sagastream.listener"):
        async with (
            Bus(proxy.url, namespace=namespace) as far,
            listening(far, [work.handler], lease_s=0.2),
        ):
            await _ask(bus)
            renewed = len(proxy.commands) + 20
            while len(proxy.commands) < renewed:
                await asyncio.sleep(0.02)
    assert finished
    assert "lease lost" not in caplog.text


async def test_cancelling_what_runs_stops_its_handler(bus: Bus, work: Work) -> None:
    """The answer comes at once, the handler is told long before its next renewal."""
    async with listening(bus, [work.handler], lease_s=60):
        asked = _ask(bus)
        await work.begun.wait()
        assert await bus.cancel("r") == "cancelling"
        with pytest.raises(RequestCancelled) as caught:
            await asyncio.wait_for(asked, 5)
        assert await bus.cancel("r") == "cancelled"
    assert work.stopped == 1
    assert caught.value.reply["event_type"] == "work:do"


async def test_cancelling_what_has_not_begun_ends_it_at_once(bus: Bus, work: Work) -> None:
    """It never runs, and its requester knows."""
    asked = _ask(bus)
    while not await _call(bus, "EXISTS", "request:r"):
        await asyncio.sleep(0.01)
    assert await bus.cancel("r") == "cancelled"
    with pytest.raises(RequestCancelled):
        await asked
    work.go.set()
    async with listening(bus, [work.handler]):
        await bus.request_and_reply(STREAM, "work:do", {})
        assert (await _call(bus, "XPENDING", STREAM, "sagastream"))["pending"] == 0
    assert len(work.epochs) == 1


async def test_a_cancel_that_comes_first_is_honoured(bus: Bus, work: Work) -> None:
    """Order on the way does not matter: the command finds that it is cancelled."""
    assert await bus.cancel("r") == "cancelled"
    work.go.set()
    async with listening(bus, [work.handler]):
        with pytest.raises(RequestCancelled):
            await _ask(bus, correlation_id="c")
        assert await bus.cancel("plain") == "cancelled"
        entry = ("event_type", "work:do", "payload", "{}", "request_id", "plain")
        await _call(bus, "XADD", STREAM, "*", *entry, "reply_stream", "nowhere")
        with pytest.raises(RequestCancelled):
            await bus.read_replies("nowhere", "plain", "plain", 5)
    assert work.epochs == []


async def test_cancelling_what_has_ended_says_how(bus: Bus, work: Work) -> None:
    """A late cancel changes nothing."""
    work.go.set()
    async with listening(bus, [work.handler]):
        reply = await _ask(bus)
    assert await bus.cancel("r") == "completed"
    assert await bus.outcome("r") == reply


async def test_a_plain_handler_stops_at_its_next_progress(bus: Bus) -> None:
    """A thread cannot be stopped from outside; its `progress` raises."""
    begun, stopped = threading.Event(), threading.Event()

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    def plain(_command: Command, progress: PlainProgress) -> None:
        begun.set()
        try:
            while True:
                progress(0.5)
        except HandlerStopped:
            stopped.set()
            raise

    async with listening(bus, [plain], lease_s=0.3):
        asked = _ask(bus)
        await asyncio.to_thread(begun.wait, 10)
        await bus.cancel("r")
        with pytest.raises(RequestCancelled):
            await asyncio.wait_for(asked, 10)
    assert stopped.is_set()


@pytest.mark.invariant(11)
async def test_a_running_request_ends_at_its_deadline(bus: Bus, work: Work) -> None:
    """Its handler is cancelled, its requester is told by name."""
    async with listening(bus, [work.handler]):
        await bus.emit_command(
            STREAM,
            event_type="work:do",
            payload={},
            request_id="r",
            correlation_id="c",
            reply_stream="mine",
            deadline_s=0.3,
        )
        with pytest.raises(DeadlineExceeded, match="while it ran"):
            await bus.read_replies("mine", "c", "r", 10)
    assert work.stopped == 1


async def test_fast_progress_is_coalesced_and_the_last_is_kept(bus: Bus) -> None:
    """A thousand reports are a few entries; the first and the newest are among them."""

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def fast(_command: Command, progress: Progress) -> None:
        for number in range(1000):
            await progress(number / 1000, {"n": number})

    told: list[dict[str, Any]] = []
    async with listening(bus, [fast], progress_interval_s=60):
        await _ask(bus, on_progress=told.append)
    numbers = [stage["payload"]["n"] for stage in told if stage["status"] == "progress"]
    assert numbers == [0, 999]
    assert told[-1]["status"] == "completed"


async def test_silence_without_a_listener_has_a_name(bus: Bus) -> None:
    """Nobody handles that: it is a TimeoutError that says so."""
    with pytest.raises(NoHandlers, match="no live listener handles work:do on work:commands"):
        await _ask(bus, timeout=0.1)
    with pytest.raises(NoHandlers):
        await bus.read_replies("mine", "c", "r", 0.1)


async def test_silence_of_a_handler_says_who_has_it(bus: Bus, work: Work) -> None:
    """Last stage, owner, epoch and lease are in the error."""
    async with listening(bus, [work.handler]):
        asked = _ask(bus, timeout=0.5)
        with pytest.raises(ReplyTimeout, match=r"start; .*held by .*epoch 1, its lease current"):
            await asked
        work.go.set()


async def test_silence_about_an_unknown_request_says_so(bus: Bus) -> None:
    """A wrong id is not a slow handler."""
    with pytest.raises(ReplyTimeout, match="no record"):
        await bus.read_replies("mine", "c", "never", 0.1)


@pytest.mark.invariant(5)
async def test_a_listener_sweeps_only_after_a_lease_of_contact(bus: Bus, work: Work) -> None:
    """What looks idle may be a server's that was away: its owner gets a lease to renew it."""
    lease_s = 2.0
    entry = await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    call = bus.command
    await call("XGROUP", "CREATE", bus.key(STREAM), "sagastream", "0")
    await call(
        *("XREADGROUP", "GROUP", "sagastream", "dead", "COUNT", 1),
        *("STREAMS", bus.key(STREAM), ">"),
    )
    await call(
        *("XCLAIM", bus.key(STREAM), "sagastream", "dead", 0, entry),
        *("IDLE", 60_000),
    )
    work.go.set()
    clock = asyncio.get_running_loop().time
    began = clock()
    async with listening(bus, [work.handler], lease_s=lease_s):
        await work.begun.wait()
        assert clock() - began > 0.9 * lease_s
        await _ask(bus)
