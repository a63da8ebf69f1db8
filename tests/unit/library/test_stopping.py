"""How a listener stops: drained, cancelled, in a hurry, with and without its server."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    CommandListener,
    HandlerStopped,
    PlainProgress,
    Progress,
    ServerUnavailable,
    multi_stage_reply,
)
from sagastream._redis.retrying import uninterrupted
from sagastream._worker.consumer import Delivery, StreamConsumer
from sagastream._worker.slots import Slot, Slots
from sagastream.listener import Running
from sagastream.status import request_status, stream_status
from sagastream.testing import EmbeddedServer
from tests.listeners import listening
from tests.plain_client import GROUP, connect
from tests.polling import eventually

STREAM = "work:commands"


class AsyncWork:
    """An async handler that waits for `go`, and counts how many run at once.

    Attributes:
        epochs: The epoch of each run.
        most: The largest number of runs at the same time.
    """

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.attempts: list[int] = []
        self.running = self.most = 0
        self.handler = multi_stage_reply(stream=STREAM, event_type="work:do")(self._do)

    async def _do(self, command: Command, _progress: Progress) -> dict[str, Any]:
        self.attempts.append(command.attempt)
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        return {"attempt": command.attempt}


class PlainWork:
    """A plain handler whose first run blocks its thread until `go`.

    Attributes:
        epochs: The epoch of each run.
        most: The largest number of runs at the same time.
        is_stopped: Whether a `progress` told it to stop.
    """

    def __init__(self, *, reports: bool = False) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.attempts: list[int] = []
        self.running = self.most = 0
        self.is_stopped = False
        self._reports = reports
        self.handler = multi_stage_reply(stream=STREAM, event_type="work:plain")(self._do)

    def _do(self, command: Command, progress: PlainProgress) -> dict[str, Any]:
        self.attempts.append(command.attempt)
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            if len(self.attempts) == 1:
                self.go.wait(30)
                if self._reports:
                    progress(0.5)
        except HandlerStopped:
            self.is_stopped = True
            raise
        finally:
            self.running -= 1
        return {"attempt": command.attempt}


@pytest.fixture
async def work() -> AsyncWork:
    """An async handler."""
    return AsyncWork()


@pytest.fixture
def plain() -> Iterator[PlainWork]:
    """A plain handler, whose thread ends after the test."""
    made = PlainWork()
    yield made
    made.go.set()


def _others() -> set["asyncio.Task[Any]"]:
    """The tasks of the loop, apart from the test and the connections of its buses."""
    ours = {"sagastream-inbox", "sagastream-connect"}
    current = asyncio.current_task()
    return {
        task for task in asyncio.all_tasks() if task is not current and task.get_name() not in ours
    }


@pytest.mark.invariant(5)
async def test_a_cancelled_listener_leaves_no_handler_behind(bus: Bus, work: AsyncWork) -> None:
    """Its handlers end before it does, and the next listener gets their commands at once."""
    async with Bus(bus.url, namespace=bus.namespace) as own:
        listener = CommandListener(own, [work.handler], lease_s=30)
        running = asyncio.create_task(listener.run())
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await asyncio.wait_for(work.begun.wait(), 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert work.running == 0
        assert not _others()
    work.go.set()
    async with listening(bus, [work.handler]):
        await eventually(lambda: bus.outcome("r"), within_s=5, why="the next listener has it")
    assert work.attempts == [1, 2]
    assert work.most == 1


@pytest.mark.invariant(5)
async def test_a_listener_whose_reader_fails_cancels_its_handlers(
    bus: Bus, work: AsyncWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the reader raised is raised by `run`, after the handlers have ended."""
    async with Bus(bus.url, namespace=bus.namespace) as own:
        running = asyncio.create_task(CommandListener(own, [work.handler], lease_s=30).run())
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await asyncio.wait_for(work.begun.wait(), 5)

        async def fail(*_args: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(StreamConsumer, "read", fail)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(running, 10)
        assert work.running == 0
        assert not _others()
    monkeypatch.undo()
    work.go.set()
    async with listening(bus, [work.handler]):
        await eventually(lambda: bus.outcome("r"), within_s=5, why="the next listener has it")


@pytest.mark.invariant(5)
@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_thread_keeps_its_lease_after_its_listener(
    bus: Bus, plain: PlainWork, how: str
) -> None:
    """The request is not run again while the thread runs, and is at once when it has ended."""
    async with Bus(bus.url, namespace=bus.namespace) as own:
        listener = CommandListener(own, [plain.handler], lease_s=1.0, drain_s=0.1)
        running = asyncio.create_task(listener.run())
        await bus.emit_command(STREAM, event_type="work:plain", payload={}, request_id="r")
        await eventually(plain.begun.is_set, within_s=5, why="the handler runs")
        listener.stop() if how == "stop" else running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(running, 5)
        assert not _others()
        async with listening(bus, [plain.handler], lease_s=1.0):
            await asyncio.sleep(3.0)  # three leases, in which it would be taken over
            assert plain.attempts == [1]
            plain.go.set()
            await eventually(lambda: bus.outcome("r"), within_s=5, why="it runs again")
    assert plain.attempts == [1, 2]
    assert plain.most == 1


@pytest.mark.invariant(9)
async def test_an_undo_waits_for_the_thread_that_outlives_its_listener(
    bus: Bus, plain: PlainWork
) -> None:
    """A superseded request is not confirmed as ended while its thread still acts."""
    undone = asyncio.Event()

    @multi_stage_reply(stream=STREAM, event_type="work:undo")
    async def undo(_command: Command, _progress: Progress) -> None:
        assert plain.running == 0
        undone.set()

    async with Bus(bus.url, namespace=bus.namespace) as own:
        listener = CommandListener(own, [plain.handler], lease_s=1.0, drain_s=0.0)
        running = asyncio.create_task(listener.run())
        await bus.emit_command(STREAM, event_type="work:plain", payload={}, request_id="r")
        await eventually(plain.begun.is_set, within_s=5, why="the handler runs")
        undoing = asyncio.create_task(
            bus.request_and_reply(STREAM, "work:undo", {}, 10, supersedes=["r"])
        )
        status = await eventually(lambda: bus.outcome("r"), within_s=5, why="it is superseded")
        assert status["status"] == "cancelled"
        listener.stop()
        await asyncio.wait_for(running, 5)
        async with listening(bus, [undo], lease_s=1.0):
            await asyncio.sleep(2.0)  # two leases, after which it would begin
            assert not undone.is_set()
            plain.go.set()
            await undoing


@pytest.mark.invariant(10)
async def test_a_payment_in_a_thread_is_made_once(bus: Bus) -> None:
    """A listener stops while a plain handler pays; another one, which is there, does not pay too."""
    payments: list[str] = []
    begun, go = threading.Event(), threading.Event()

    async def find(command: Command) -> dict[str, Any] | None:
        return {"found": True} if command.request_id in payments else None

    @multi_stage_reply(stream=STREAM, event_type="work:pay", effect="at_most_once", reconcile=find)
    def pay(command: Command, _progress: PlainProgress) -> dict[str, Any]:
        begun.set()
        go.wait(30)
        payments.append(command.request_id)
        return {"paid": True}

    async with Bus(bus.url, namespace=bus.namespace) as own:
        listener = CommandListener(own, [pay], lease_s=1.0, drain_s=0.0)
        running = asyncio.create_task(listener.run())
        paying = asyncio.create_task(bus.request_and_reply(STREAM, "work:pay", {}, 20))
        await eventually(begun.is_set, within_s=5, why="the handler pays")
        async with listening(bus, [pay], lease_s=1.0):
            listener.stop()
            await asyncio.wait_for(running, 5)
            await asyncio.sleep(3.0)  # three leases, in which it would be taken over
            go.set()
            assert (await paying)["payload"] == {"found": True}
    assert len(payments) == 1


async def test_a_thread_that_outlives_its_listener_is_told_to_stop(bus: Bus) -> None:
    """Its next `progress` raises `HandlerStopped`, though the event loop goes on."""
    plain = PlainWork(reports=True)
    async with listening(bus, [plain.handler], lease_s=0.5, drain_s=0.0):
        await bus.emit_command(STREAM, event_type="work:plain", payload={}, request_id="r")
        await eventually(plain.begun.is_set, within_s=5, why="the handler runs")
    plain.go.set()
    await eventually(lambda: plain.is_stopped, within_s=5, why="it was told to stop")
    async with listening(bus, [plain.handler], lease_s=0.5):
        await eventually(lambda: bus.outcome("r"), within_s=5, why="the next listener has it")


@pytest.mark.invariant(4)
async def test_commands_read_while_stopping_are_finished(bus: Bus) -> None:
    """The reader is asked to end, not cancelled: what it has got is handled within `drain_s`."""
    done: list[str] = []

    @multi_stage_reply(stream=STREAM, event_type="work:slow")
    async def slow(command: Command, _progress: Progress) -> None:
        await asyncio.sleep(0.3)
        done.append(command.request_id)

    handed_out: list[str] = []
    for attempt in range(5):
        async with listening(bus, [slow], drain_s=30, concurrency=64) as listener:
            await eventually(
                lambda: stream_status(bus, STREAM), within_s=5, why="the stream is there"
            )
            ids = [f"{attempt}-{number}" for number in range(20)]
            for number, request_id in enumerate(ids):
                if number == 10:
                    listener.stop()
                await bus.emit_command(
                    STREAM, event_type="work:slow", payload={}, request_id=request_id
                )
            handed_out += ids
        # Whatever was read has ended: nothing is pending, and nothing was begun twice.
        assert (await stream_status(bus, STREAM)).pending == 0
    async with listening(bus, [slow]):
        await eventually(lambda: len(done) == len(handed_out), within_s=10, why="all are done")
    assert sorted(done) == sorted(handed_out)


@pytest.mark.invariant(4)
async def test_a_read_under_way_is_finished(
    bus: Bus, work: AsyncWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop does not cancel it: the command that it has got is handled."""
    read = StreamConsumer._read_new
    arrived = asyncio.Event()

    async def read_slowly(self: StreamConsumer, limit: int) -> list[Any]:
        found = await read(self, limit)
        if found:
            arrived.set()
            await asyncio.sleep(0.1)  # the stop comes in this time
        return found

    monkeypatch.setattr(StreamConsumer, "_read_new", read_slowly)
    work.go.set()
    async with listening(bus, [work.handler]) as listener:
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await asyncio.wait_for(arrived.wait(), 5)
        listener.stop()
    outcome = await bus.outcome("r")
    assert outcome is not None
    assert outcome["status"] == "completed"


async def test_a_delivery_that_nobody_handles_is_given_back_at_once(
    bus: Bus, work: AsyncWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is lost with a cancelled read does not wait for a lease to lapse."""
    read = StreamConsumer._read_new
    arrived = asyncio.Event()

    async def lose(self: StreamConsumer, limit: int) -> list[Any]:
        if await read(self, limit):
            arrived.set()
            await asyncio.Event().wait()  # the answer came, and the reader is cancelled with it
        return []

    monkeypatch.setattr(StreamConsumer, "_read_new", lose)
    async with Bus(bus.url, namespace=bus.namespace) as own:
        running = asyncio.create_task(CommandListener(own, [work.handler], lease_s=60).run())
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await asyncio.wait_for(arrived.wait(), 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    monkeypatch.undo()
    work.go.set()
    async with listening(bus, [work.handler], lease_s=5):
        await eventually(lambda: bus.outcome("r"), within_s=5, why="the next listener has it")


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_stopping_without_the_server_takes_no_longer(
    own_server: EmbeddedServer, work: AsyncWork, how: str
) -> None:
    """A listener whose server is away stops within a few seconds, a running handler included."""
    async with Bus(own_server.url) as bus:
        listener = CommandListener(bus, [work.handler], drain_s=0.2)
        running = asyncio.create_task(listener.run())
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await asyncio.wait_for(work.begun.wait(), 5)
        if how == "killed":
            await asyncio.to_thread(own_server.kill)
        else:
            os.kill(own_server.pid, signal.SIGSTOP)
        began = time.monotonic()
        listener.stop()
        await asyncio.wait_for(running, 10)
        assert time.monotonic() - began < 8.0
        assert not _others()
        if how == "frozen":
            os.kill(own_server.pid, signal.SIGCONT)


async def test_signals_belong_to_the_host(bus: Bus, work: AsyncWork) -> None:
    """`run` leaves the handlers of SIGTERM and SIGINT alone."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    try:
        async with listening(bus, [work.handler]):
            await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
            await asyncio.wait_for(work.begun.wait(), 5)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(heard.wait(), 5)
            work.go.set()
            await eventually(lambda: bus.outcome("r"), within_s=5, why="it still listens")
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_a_program_of_its_own_stops_at_a_signal(bus: Bus, work: AsyncWork) -> None:
    """The first one drains, the second cancels what still runs."""
    async with Bus(bus.url, namespace=bus.namespace) as own:
        listener = CommandListener(own, [work.handler], drain_s=60, lease_s=5)
        running = asyncio.create_task(listener.run(handle_signals=True))
        await bus.emit_command(STREAM, event_type="work:do", payload={}, request_id="r")
        await asyncio.wait_for(work.begun.wait(), 5)
        os.kill(os.getpid(), signal.SIGTERM)
        done, _ = await asyncio.wait({running}, timeout=0.3)
        assert not done
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(running, 5)
    assert work.running == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    work.go.set()
    async with listening(bus, [work.handler]):
        await eventually(lambda: bus.outcome("r"), within_s=5, why="the next listener has it")


async def test_a_listener_serves_in_the_background(bus: Bus, work: AsyncWork) -> None:
    """In its context it listens; afterwards it has drained."""
    work.go.set()
    async with CommandListener(bus, [work.handler]):
        status = await stream_status(bus, STREAM)
        assert status.event_types == ("work:do",)
        await bus.request_and_reply(STREAM, "work:do", {}, 5)
    assert (await stream_status(bus, STREAM)).event_types == ()
    assert not _others()


async def test_a_listener_in_the_background_needs_its_server() -> None:
    """The context does not begin without it."""
    async with Bus("redis://127.0.0.1:1", call_timeout_s=0.2) as bus:
        listener = CommandListener(bus, [AsyncWork().handler])
        with pytest.raises(ServerUnavailable):
            await listener.__aenter__()
        assert not _others()


async def test_a_listener_runs_once_at_a_time(bus: Bus, work: AsyncWork) -> None:
    """A second `run` says so."""
    async with listening(bus, [work.handler]) as listener:
        await eventually(lambda: listener._is_running, within_s=5, why="the listener runs")
        with pytest.raises(RuntimeError, match="runs already"):
            await listener.run()


@pytest.mark.invariant(5)
async def test_the_end_of_a_claim_is_not_interrupted() -> None:
    """However often the task is cancelled meanwhile; it is cancelled afterwards."""
    begun, go = asyncio.Event(), asyncio.Event()
    steps: list[str] = []

    async def end() -> None:
        begun.set()
        await go.wait()
        steps.append("given back")

    task = asyncio.create_task(uninterrupted(end()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["given back"]


@pytest.mark.invariant(5)
async def test_an_entry_has_one_task() -> None:
    """A delivery of an entry that is being handled is ignored; afterwards it is not."""
    handled: list[str] = []
    go = asyncio.Event()

    class Waiting:
        async def dispatch(self, delivery: Delivery, _slot: Slot) -> None:
            handled.append(delivery.entry_id)
            await go.wait()

    async with asyncio.TaskGroup() as group:
        running = Running(group, Waiting(), Slots(4))  # type: ignore[arg-type]
        for _ in range(3):
            running.begin(Delivery(STREAM, "1-1", {}))
        await asyncio.sleep(0)
        assert handled == ["1-1"]
        go.set()
        await running.ended()
        running.begin(Delivery(STREAM, "1-1", {}))
    assert handled == ["1-1", "1-1"]


def _deliveries_of_newest(bus: Bus) -> int:
    """How many times the newest pending entry was delivered."""
    with connect(bus.url) as client:
        pending = client.xpending_range(bus.key(STREAM), GROUP, "-", "+", 10)
    return int(max(pending, key=lambda each: each["message_id"])["times_delivered"])


@pytest.mark.invariant(9)
async def test_an_undo_that_waits_takes_no_slot(bus: Bus) -> None:
    """However often it is redelivered, other commands are handled meanwhile."""
    stubborn_go = threading.Event()
    begun = threading.Event()

    @multi_stage_reply(stream=STREAM, event_type="work:stubborn")
    def stubborn(_command: Command, _progress: PlainProgress) -> None:
        begun.set()
        stubborn_go.wait(30)

    @multi_stage_reply(stream=STREAM, event_type="work:undo")
    async def undo(_command: Command, _progress: Progress) -> None:
        assert stubborn_go.is_set()

    @multi_stage_reply(stream=STREAM, event_type="work:other")
    async def other(_command: Command, _progress: Progress) -> None: ...

    handlers = [stubborn, undo, other]
    async with listening(bus, handlers, concurrency=2, lease_s=0.8, max_deliveries=50):
        await bus.emit_command(STREAM, event_type="work:stubborn", payload={}, request_id="r")
        await eventually(begun.is_set, within_s=5, why="the handler runs")
        undoing = asyncio.create_task(
            bus.request_and_reply(STREAM, "work:undo", {}, 30, supersedes=["r"])
        )
        for _ in range(4):
            await bus.request_and_reply(STREAM, "work:other", {}, 5)
            await asyncio.sleep(0.8)  # a lease, after which the undo would be delivered again
        assert not undoing.done()
        assert await asyncio.to_thread(_deliveries_of_newest, bus) == 1, "its entry is kept"
        stubborn_go.set()
        await undoing


@pytest.mark.blocking
async def test_a_thread_does_not_hold_up_the_end_of_its_process(
    own_server: EmbeddedServer,
) -> None:
    """A plain handler that never ends: the process ends after `drain_s`."""
    program = textwrap.dedent(f"""
        import asyncio, threading
        from sagastream import Bus, CommandListener, multi_stage_reply

        @multi_stage_reply(stream="{STREAM}", event_type="work:plain")
        def block(command, progress):
            print("begun", flush=True)
            threading.Event().wait()

        async def main():
            async with Bus("{own_server.url}") as bus:
                listener = CommandListener(bus, [block], drain_s=0.2, lease_s=1)
                await listener.run(handle_signals=True)

        asyncio.run(main())
        """)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with Bus(own_server.url) as bus:
            await bus.emit_command(STREAM, event_type="work:plain", payload={}, request_id="r")
            assert process.stdout is not None
            assert await process.stdout.readline() == b"begun\n"
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
            status = await request_status(bus, "r")
            assert status is not None
            assert status.status == "running"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def test_an_event_loop_that_has_ended_is_forgotten(server: EmbeddedServer, namespace: str) -> None:
    """`asyncio.run` closes the sockets of its loop, and nothing keeps the loop."""
    bus = Bus(server.url, namespace=namespace)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def use() -> None:
        await bus.ping()
        await bus.outcome("none")
        loops.append(weakref.ref(asyncio.get_running_loop()))

    for _ in range(3):
        asyncio.run(use())
    gc.collect()
    assert [ref() for ref in loops] == [None] * 3


async def test_a_burst_of_readers_leaves_few_sockets(bus: Bus) -> None:
    """Sockets for blocking reads are closed when no reader needs them."""
    reading = [
        asyncio.create_task(bus.read_replies("work:replies", "c", f"r{number}", 0.5))
        for number in range(50)
    ]
    await asyncio.gather(*reading, return_exceptions=True)
    blocking = bus.session().connection._node.reads
    assert len(blocking._idle) <= 4
    assert not blocking._reading
    assert threading.active_count() < 50
