"""Claims: their leases, takeover, release, cancellation, deadlines and timeouts."""

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
from sagastream.status import request_status, stream_status
from sagastream.testing import Fault, FaultProxy
from tests.listeners import listening
from tests.plain_client import GROUP, add_entry, call, deliver
from tests.polling import eventually
from tests.records import alter_record

STREAM = "work:commands"


class Work:
    """A handler that runs until `go` is set.

    Attributes:
        begun: It was called.
        go: Lets it end.
        attempts: The attempt of each call.
        stopped: How many calls were cancelled.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.attempts: list[int] = []
        self.stopped = 0
        self.handler = multi_stage_reply(stream=STREAM, event_type="work:do")(self._do)

    async def _do(self, command: Command, _progress: Progress) -> dict[str, Any]:
        self.attempts.append(command.attempt)
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return {"attempt": command.attempt}


@pytest.fixture
async def work() -> Work:
    """A new handler."""
    return Work()


def _send(bus: Bus, **options: Any) -> "asyncio.Task[dict[str, Any]]":
    reply = bus.request_and_reply(STREAM, "work:do", {}, **({"request_id": "r"} | options))
    return asyncio.create_task(reply)


async def _wait_for_commands(bus: Bus, count: int) -> None:
    async def are_sent() -> bool:
        return len(await bus.last_entries(STREAM, count)) == count

    await eventually(are_sent, within_s=10, why=f"{count} commands are in the stream")


@pytest.mark.invariant(5)
async def test_a_handler_longer_than_many_leases_runs_once(bus: Bus, work: Work) -> None:
    """Renewal keeps the claim, although another listener sweeps."""
    lease_s = 0.6
    async with (
        listening(bus, [work.handler], lease_s=lease_s),
        listening(bus, [work.handler], lease_s=lease_s),
    ):
        asked = _send(bus)
        await work.begun.wait()
        await asyncio.sleep(5 * lease_s)  # the handler works for five leases
        status = await request_status(bus, "r")
        assert status is not None
        assert status.lease_s is not None
        assert status.lease_s > 0
        work.go.set()
        assert (await asked)["payload"] == {"attempt": 1}
    assert work.attempts == [1]


@pytest.mark.invariant(5)
async def test_the_command_of_a_dead_listener_is_taken_over(bus: Bus, work: Work) -> None:
    """Another listener completes it, and deletes the consumer of the dead one."""

    async def is_deleted() -> bool:
        consumers = await bus.command("XINFO", "CONSUMERS", bus.key(STREAM), GROUP)
        return all(consumer["name"] != b"dead" for consumer in consumers)

    asked = _send(bus)
    await _wait_for_commands(bus, 1)
    await deliver(bus, STREAM, consumer="dead")
    work.go.set()
    async with listening(bus, [work.handler], lease_s=0.2):
        assert (await asyncio.wait_for(asked, 10))["status"] == "completed"
        await eventually(is_deleted, within_s=10, why="the dead consumer is deleted")


@pytest.mark.invariant(5)
async def test_commands_of_a_dead_listener_wait_only_for_free_slots(bus: Bus, work: Work) -> None:
    """A sweep that filled all slots is followed by the next one immediately."""
    asked = [_send(bus, request_id=f"r{number}") for number in range(60)]
    await _wait_for_commands(bus, len(asked))
    await deliver(bus, STREAM)
    work.go.set()
    async with listening(bus, [work.handler], lease_s=2, concurrency=1):
        replies = await asyncio.wait_for(asyncio.gather(*asked), 15)
    assert len(replies) == len(asked)


@pytest.mark.invariant(4)
async def test_a_stopped_listener_releases_its_claims(bus: Bus, work: Work) -> None:
    """The next listener does not wait until the lease lapses."""
    asked = _send(bus)
    async with listening(bus, [work.handler], lease_s=30, drain_s=0.05):
        await work.begun.wait()
    assert work.stopped == 1
    work.go.set()
    async with listening(bus, [work.handler], lease_s=0.2):
        reply = await asyncio.wait_for(asked, 10)
    assert reply["payload"] == {"attempt": 2}


@pytest.mark.invariant(3)
@pytest.mark.invariant(5)
async def test_a_lost_lease_cancels_the_handler_which_writes_nothing(bus: Bus, work: Work) -> None:
    """When the record has the token of another claim, the handler ends without a stage."""
    asked = _send(bus, timeout=60)
    async with listening(bus, [work.handler], lease_s=0.2):
        await work.begun.wait()
        await alter_record(bus, "r", token="another")
        await eventually(lambda: work.stopped, within_s=10, why="the handler was cancelled")
    assert await bus.outcome("r") is None
    asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asked


@pytest.mark.blocking
async def test_a_renewal_after_the_end_of_its_own_request_is_not_a_lost_lease(
    bus: Bus,
    work: Work,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the answer to `finish` is missing, a renewal does not cancel the handler."""
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
            Bus(proxy.url, namespace=namespace) as proxied,
            listening(proxied, [work.handler], lease_s=0.2),
        ):
            await _send(bus)
            sent = len(proxy.commands) + 20
            await eventually(
                lambda: len(proxy.commands) >= sent, within_s=20, why="the keeper sent renewals"
            )
    assert finished
    assert "lease lost" not in caplog.text


async def test_a_cancel_stops_a_running_handler(bus: Bus, work: Work) -> None:
    """`cancel` returns immediately; the handler is cancelled long before its next renewal."""
    async with listening(bus, [work.handler], lease_s=60):
        asked = _send(bus)
        await work.begun.wait()
        assert await bus.cancel("r") == "cancelling"
        with pytest.raises(RequestCancelled) as caught:
            await asyncio.wait_for(asked, 5)
        assert await bus.cancel("r") == "cancelled"
    assert work.stopped == 1
    assert caught.value.reply["event_type"] == "work:do"


async def test_a_cancel_of_a_pending_request_ends_it(bus: Bus, work: Work) -> None:
    """The request never runs, and its requester gets RequestCancelled."""
    asked = _send(bus)
    await eventually(
        lambda: request_status(bus, "r"), within_s=10, why="the server has the request"
    )
    assert await bus.cancel("r") == "cancelled"
    with pytest.raises(RequestCancelled):
        await asked
    work.go.set()
    async with listening(bus, [work.handler]):
        await bus.request_and_reply(STREAM, "work:do", {})
        assert (await stream_status(bus, STREAM)).pending == 0
    assert len(work.attempts) == 1


async def test_a_cancel_before_its_command_is_kept(bus: Bus, work: Work) -> None:
    """A command that comes after its cancel never runs, also one added with XADD."""
    assert await bus.cancel("r") == "cancelled"
    work.go.set()
    async with listening(bus, [work.handler]):
        with pytest.raises(RequestCancelled):
            await _send(bus, correlation_id="c")
        assert await bus.cancel("plain") == "cancelled"
        fields = {"event_type": "work:do", "payload": "{}", "request_id": "plain"}
        await add_entry(bus, STREAM, fields | {"reply_stream": "mine"})
        with pytest.raises(RequestCancelled):
            await bus.read_replies("mine", "plain", "plain", 5)
    assert work.attempts == []


async def test_a_cancel_after_the_end_returns_the_status(bus: Bus, work: Work) -> None:
    """A late cancel changes nothing."""
    work.go.set()
    async with listening(bus, [work.handler]):
        reply = await _send(bus)
    assert await bus.cancel("r") == "completed"
    assert await bus.outcome("r") == reply


async def test_a_plain_handler_stops_at_its_next_progress(bus: Bus) -> None:
    """`progress` raises HandlerStopped, because a thread cannot be cancelled."""
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
        asked = _send(bus)
        await asyncio.to_thread(begun.wait, 10)
        await bus.cancel("r")
        with pytest.raises(RequestCancelled):
            await asyncio.wait_for(asked, 10)
    assert stopped.is_set()


@pytest.mark.invariant(11)
async def test_a_running_request_ends_at_its_deadline(bus: Bus, work: Work) -> None:
    """Its handler is cancelled, and its requester gets DeadlineExceeded."""
    async with listening(bus, [work.handler]):
        await bus.emit_command(
            STREAM,
            event_type="work:do",
            payload={},
            request_id="r",
            correlation_id="c",
            reply_stream="mine",
            deadline_s=1.5,
        )
        with pytest.raises(DeadlineExceeded, match="while it ran"):
            await bus.read_replies("mine", "c", "r", 10)
    assert work.stopped == 1


async def test_fast_progress_is_coalesced_and_the_last_is_kept(bus: Bus) -> None:
    """Of a thousand reports within one interval only the first and the last are written."""

    @multi_stage_reply(stream=STREAM, event_type="work:do")
    async def fast(_command: Command, progress: Progress) -> None:
        for number in range(1000):
            await progress(number / 1000, {"n": number})

    stages: list[dict[str, Any]] = []
    async with listening(bus, [fast], progress_interval_s=60):
        await _send(bus, on_progress=stages.append)
    numbers = [stage["payload"]["n"] for stage in stages if stage["status"] == "progress"]
    assert numbers == [0, 999]
    assert stages[-1]["status"] == "completed"


async def test_a_timeout_without_a_listener_is_named(bus: Bus) -> None:
    """The timeout is NoHandlers, with the event type and the stream."""
    with pytest.raises(NoHandlers, match="no live listener handles work:do on work:commands"):
        await _send(bus, timeout=1.0)
    with pytest.raises(NoHandlers):
        await bus.read_replies("mine", "c", "r", 0.1)


async def test_a_timeout_while_a_handler_runs_names_its_claim(bus: Bus, work: Work) -> None:
    """The error has the last stage, the consumer, the attempt and the lease."""
    async with listening(bus, [work.handler]):
        asked = _send(bus, timeout=2.0)
        with pytest.raises(ReplyTimeout, match=r"start; .*held by .*attempt 1, its lease current"):
            await asked
        work.go.set()


async def test_a_timeout_for_an_unknown_request_is_named(bus: Bus) -> None:
    """The error says that there is no record of the request."""
    with pytest.raises(ReplyTimeout, match="no record"):
        await bus.read_replies("mine", "c", "never", 0.1)


@pytest.mark.invariant(5)
async def test_a_listener_sweeps_only_after_a_lease_of_contact(bus: Bus, work: Work) -> None:
    """An entry may be idle because the server was away: its consumer gets a lease to renew it."""
    lease_s = 2.0
    entry = await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
    await deliver(bus, STREAM, consumer="dead")
    await call(bus, "XCLAIM", STREAM, GROUP, "dead", 0, entry, "IDLE", 60_000)
    work.go.set()
    clock = asyncio.get_running_loop().time
    began = clock()
    async with listening(bus, [work.handler], lease_s=lease_s):
        await work.begun.wait()
        assert clock() - began > 0.9 * lease_s
        await _send(bus)
