"""The blocking bus: its threads, interrupts, forks, contexts and ends."""

import asyncio
import gc
import inspect
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import flask
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from werkzeug.serving import make_server

import sagastream
from sagastream import (
    Command,
    CommandListener,
    InvalidMessage,
    PlainProgress,
    Progress,
    ReplyTimeout,
    RequestFailed,
    multi_stage_reply,
    sync,
)
from sagastream.errors import ServerUnavailable
from sagastream.inspection import NoSuchId
from sagastream.schedules import Schedule, find_schedules, pause_schedule, set_schedule
from sagastream.testing import EmbeddedServer, running
from tests.plain_client import connect
from tests.polling import eventually_sync

STREAM = "work:commands"
METHODS = (
    *("emit_command", "emit_event", "request_and_reply", "read_replies", "cancel"),
    *("outcome", "follow", "ping", "close", "__init__"),
)
ROUNDS = 100
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


@multi_stage_reply(stream=STREAM, event_type="work:echo")
async def echo(command: Command, progress: Progress) -> dict[str, Any]:
    """Report progress, then reply with the payload and the trace."""
    await progress(0.5)
    return command.payload | {"traceparent": command.traceparent}


@multi_stage_reply(stream=STREAM, event_type="work:fail")
async def fail(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise LookupError("no such thing")


@multi_stage_reply(stream=STREAM, event_type="work:wait")
async def wait(_command: Command, _progress: Progress) -> None:
    """Never end."""
    await asyncio.Event().wait()


def _own_stages(bus: sync.Bus) -> Any:
    @multi_stage_reply(stream=STREAM, event_type="work:own")
    def own(command: Command, _progress: PlainProgress) -> dict[str, Any]:
        """Write a stage of the request that it handles."""
        bus.emit_event(
            "stages",
            event_type=command.event_type,
            status="progress",
            payload={},
            correlation_id=command.correlation_id,
            request_id=command.request_id,
        )
        return {}

    return own


@pytest.fixture
def bus(server: EmbeddedServer, namespace: str) -> Iterator[sync.Bus]:
    """A blocking bus in the test's namespace."""
    with sync.Bus(server.url, namespace=namespace) as made:
        yield made


@pytest.fixture
def listener(server: EmbeddedServer, namespace: str, bus: sync.Bus) -> Iterator[None]:
    """A listener in another thread, with its own bus."""
    stop = threading.Event()

    async def serve() -> None:
        handlers = [echo, fail, wait, _own_stages(bus)]
        async with (
            sagastream.Bus(server.url, namespace=namespace) as own,
            running(CommandListener(own, handlers, drain_s=0.1)),
        ):
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    yield
    stop.set()
    thread.join()


def _loops() -> list[threading.Thread]:
    # An interrupted `start` leaves threads in the list that have never run.
    threads = [thread for thread in threading.enumerate() if thread.is_alive()]
    return [thread for thread in threads if thread.name == "sagastream-loop"]


def _sockets() -> set[str]:
    """The sockets that are open in this process."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            target = str(path.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _tasks(bus: sync.Bus) -> list[str]:
    """What calls have left running in the loop of a bus; what all calls share is not counted."""

    async def tasks() -> list[str]:
        own = {asyncio.current_task()}
        others = [task for task in asyncio.all_tasks() - own if not task.done()]
        names = [f"{task.get_name()} {task.get_coro()}" for task in others]
        shared = ("sagastream-inbox", "sagastream-connect", "_serve")
        return [name for name in names if not any(word in name for word in shared)]

    return bus._runner.run(tasks)


class _Interrupted(BaseException):
    """What the signal handler of a test raises, as KeyboardInterrupt."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """A function that interrupts the main thread with `_Interrupted`."""

    def raise_interrupted(*_: object) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGUSR1, raise_interrupted)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def _run(code: str, url: str, *args: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that uses `bus`, a bus with the settings of a test; warnings are shown."""
    start = "import os, sys, threading, time\nfrom sagastream import sync\nbus = sync.Bus(sys.argv[1])\n"
    # Forking a process that has threads is what this is about.
    options = ("-W", "default", "-W", "ignore:This process:DeprecationWarning")
    return subprocess.run(
        [sys.executable, *options, "-c", start + textwrap.dedent(code), url, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", METHODS)
def test_it_has_the_arguments_of_the_async_bus(name: str) -> None:
    """The same names, defaults and types, in the same order."""
    blocking = inspect.signature(getattr(sync.Bus, name))
    awaited = inspect.signature(getattr(sagastream.Bus, name))
    assert blocking.parameters == awaited.parameters
    if name != "follow":
        assert blocking.return_annotation == awaited.return_annotation


def test_every_call_blocks_and_returns_what_the_async_bus_does(
    bus: sync.Bus, listener: None
) -> None:
    """A request from emit to its stages, outcome and cancel."""
    bus.ping()
    entry_id = bus.emit_command(
        STREAM, event_type="work:echo", payload={"n": 1}, request_id="r", reply_stream="mine"
    )
    assert "-" in entry_id
    reply = bus.read_replies("mine", _reply_of(bus, "r")["correlation_id"], "r", 20)
    assert reply["payload"]["n"] == 1
    assert bus.request_and_reply(STREAM, "work:echo", {"n": 1}, 20, request_id="r") == reply
    assert [stage["status"] for stage in bus.follow("r")] == ["start", "completed"]
    (last,) = bus.follow("r", list(bus.follow("r"))[-2]["entry_id"])
    assert last["status"] == "completed"
    assert bus.cancel("r") == "completed"
    assert bus.outcome("other") is None
    note = bus.emit_event(
        "notes", event_type="work:note", status="seen", payload={}, correlation_id="c"
    )
    assert "-" in note


def _reply_of(bus: sync.Bus, request_id: str) -> dict[str, Any]:
    """The outcome of a request, once there is one."""
    return eventually_sync(
        lambda: bus.outcome(request_id) or {}, within_s=20, why=f"request {request_id} has ended"
    )


def test_any_function_of_a_bus_is_called(bus: sync.Bus, server: EmbeddedServer) -> None:
    """With its arguments, its result and its errors; threads set schedules so."""
    schedule = Schedule(name="hourly", every_s=3600, stream=STREAM, event_type="work:echo")
    assert bus.run(set_schedule, schedule)
    assert [each.name for each in bus.run(find_schedules, stream=STREAM)] == ["hourly"]
    assert bus.run(find_schedules, stream="other:commands") == []
    with pytest.raises(NoSuchId, match="nightly"):
        bus.run(pause_schedule, "nightly")
    with pytest.raises(TypeError, match="must be async"):
        bus.run(repr)  # type: ignore[arg-type]


def test_errors_are_those_of_the_async_bus(bus: sync.Bus, listener: None) -> None:
    """With their attributes, and with the line of the call in the traceback."""
    with pytest.raises(RequestFailed, match="no such thing") as failed:
        bus.request_and_reply(STREAM, "work:fail", {}, 20)
    assert failed.value.error_type == "LookupError"
    assert any(entry.path == Path(__file__) for entry in failed.traceback)
    with pytest.raises(ReplyTimeout):
        bus.request_and_reply(STREAM, "work:wait", {}, 0.2)
    with pytest.raises(InvalidMessage, match="stream"):
        bus.emit_command("two words", event_type="work:echo", payload={})
    with pytest.raises(InvalidMessage, match="request_id"):
        next(bus.follow("two words"))


def test_nothing_starts_before_the_first_call(server: EmbeddedServer) -> None:
    """A module may make a bus when it is imported."""
    before, threads = _sockets(), threading.active_count()
    with sync.Bus(server.url) as bus:
        assert (_sockets() - before, threading.active_count()) == (set(), threads)
    assert threading.active_count() == threads
    assert repr(bus).startswith("<sync.Bus unix:")


@pytest.mark.parametrize(
    ("place", "error"), [(threading.Thread, RuntimeError), (asyncio.Runner, OSError)]
)
def test_a_thread_that_cannot_start_is_an_error(
    bus: sync.Bus, monkeypatch: pytest.MonkeyPatch, place: type, error: type[Exception]
) -> None:
    """Without threads or file descriptors the call raises, and a later one starts the thread."""

    def refuse(*_: object) -> None:
        raise error("no more")

    with monkeypatch.context() as patched:
        patched.setattr(place, "start" if place is threading.Thread else "get_loop", refuse)
        with pytest.raises(error, match="no more"):
            bus.ping()
    bus.ping()


@pytest.mark.parametrize("is_lock_lost", [False, True])
def test_an_interrupt_while_the_thread_starts_ends_it(
    bus: sync.Bus,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[], None],
    is_lock_lost: bool,
) -> None:
    """Even if it has no loop yet. The call raises the interrupt, also where Python loses it."""
    start, get_loop, interrupted = (
        threading.Thread.start,
        asyncio.Runner.get_loop,
        threading.Event(),
    )

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        try:
            interrupt()
        finally:
            if is_lock_lost:
                raise RuntimeError("release unlocked lock")

    def get_late_loop(runner: asyncio.Runner) -> asyncio.AbstractEventLoop:
        interrupted.wait()
        return get_loop(runner)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    monkeypatch.setattr(asyncio.Runner, "get_loop", get_late_loop)
    with pytest.raises(_Interrupted):
        bus.ping()
    interrupted.set()
    eventually_sync(lambda: not _loops(), within_s=10, why="the thread has ended")
    monkeypatch.undo()
    bus.ping()


def test_threads_share_one_loop(bus: sync.Bus, listener: None) -> None:
    """Many threads, one loop: their requests wait in it together."""
    barrier = threading.Barrier(16)

    def ask(number: int) -> int:
        barrier.wait()
        reply = bus.request_and_reply(STREAM, "work:echo", {"n": number}, 20)
        return int(reply["payload"]["n"])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == list(range(16))
    assert len(_loops()) == 1


def test_progress_is_called_in_the_callers_thread(bus: sync.Bus, listener: None) -> None:
    """In order, and it may block and call the bus: the loop does not wait for it."""
    seen: list[tuple[str, int]] = []

    def on_progress(stage: dict[str, Any]) -> None:
        bus.ping()
        seen.append((stage["status"], threading.get_ident()))

    bus.request_and_reply(STREAM, "work:echo", {}, 20, on_progress)
    own = threading.get_ident()
    assert seen == [("start", own), ("progress", own), ("completed", own)]


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, SystemExit, StopIteration])
def test_what_progress_raises_is_raised_by_the_call(
    bus: sync.Bus, listener: None, error: type[BaseException]
) -> None:
    """Whatever it is. The wait is cancelled, and the bus goes on."""

    def on_progress(_stage: dict[str, Any]) -> None:
        raise error

    with pytest.raises(error):
        bus.request_and_reply(STREAM, "work:wait", {}, 20, on_progress)
    assert _tasks(bus) == []


def test_an_error_after_the_interrupt_is_not_logged(
    bus: sync.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """No thread asks for it any more: asyncio would report it as never retrieved."""

    def interrupt() -> None:
        raise _Interrupted

    callbacks = SimpleQueue[Callable[[], object] | None]()

    async def fail_when_cancelled() -> None:
        try:
            callbacks.put(interrupt)
            await asyncio.Event().wait()
        finally:
            raise LookupError

    with pytest.raises(_Interrupted):
        bus._runner.run(fail_when_cancelled, callbacks)
    bus.close()
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_an_async_progress_is_refused(bus: sync.Bus, listener: None) -> None:
    """There is no loop for it in the caller's thread."""

    async def on_progress(_stage: dict[str, Any]) -> None: ...

    with pytest.raises(TypeError, match="must be a plain function"):
        bus.request_and_reply(STREAM, "work:echo", {}, 20, on_progress)


def test_an_interrupt_cancels_the_wait(
    bus: sync.Bus, listener: None, interrupt: Callable[[], None]
) -> None:
    """Any exception in the waiting thread: nothing is left in the loop, and the bus goes on."""

    def interrupt_waiting() -> None:
        _wait_for_stages(bus, "r")
        interrupt()

    sender = threading.Thread(target=interrupt_waiting)
    sender.start()
    with pytest.raises(_Interrupted):
        bus.request_and_reply(STREAM, "work:wait", {}, 20, request_id="r")
    sender.join()
    assert _tasks(bus) == []
    bus.ping()


def test_a_second_interrupt_does_not_wait(bus: sync.Bus, interrupt: Callable[[], None]) -> None:
    """The call waits until its coroutine has ended; who interrupts twice does not."""
    callbacks, release = SimpleQueue[Callable[[], object] | None](), threading.Event()

    async def end_late() -> None:
        callbacks.put(interrupt)
        try:
            await asyncio.Event().wait()
        finally:
            threading.Thread(target=interrupt).start()
            await asyncio.to_thread(release.wait)

    with pytest.raises(_Interrupted) as caught:
        bus._runner.run(end_late, callbacks)
    assert isinstance(caught.value.__context__, _Interrupted)
    release.set()


def test_an_interrupt_ends_following(
    bus: sync.Bus, listener: None, interrupt: Callable[[], None]
) -> None:
    """A blocking read is ended too, and the next one reads from the same place."""
    bus.emit_command(STREAM, event_type="work:wait", payload={}, request_id="r")
    stages = bus.follow("r")
    assert next(stages)["status"] == "start"
    timer = threading.Timer(0.1, interrupt)
    timer.start()
    with pytest.raises(_Interrupted):
        next(stages)
    assert _tasks(bus) == []
    bus.cancel("r")
    assert [stage["status"] for stage in bus.follow("r")] == ["start", "cancelled"]


def test_an_interrupt_at_any_moment_leaves_a_working_bus(
    bus: sync.Bus, listener: None, interrupt: Callable[[], None]
) -> None:
    """Also while the thread starts, while a call is made, and while its result is returned."""
    dice, delays = random.Random(), SimpleQueue[float]()

    def interrupt_later() -> None:
        for delay_s in iter(delays.get, 0.0):
            time.sleep(delay_s)
            interrupt()

    def ask(request_id: str) -> None:
        delays.put(dice.uniform(0.0001, 0.004))
        while True:
            bus.request_and_reply(STREAM, "work:echo", {}, 20, request_id=request_id)

    sender = threading.Thread(target=interrupt_later)
    sender.start()
    for number in range(ROUNDS):
        with pytest.raises(_Interrupted):
            ask(f"r{number}")
        eventually_sync(lambda: _tasks(bus) == [], within_s=10, why="nothing runs in the loop")
        if number % 3 == 0:
            bus.close()
    delays.put(0.0)
    sender.join()
    assert len(_loops()) <= 1


def _wait_for_stages(bus: sync.Bus, request_id: str) -> None:
    next(bus.follow(request_id))


def test_ctrl_c_in_a_script(server: EmbeddedServer) -> None:
    """The program ends with the interrupt, at once and with its own traceback only."""
    code = """
        threading.Timer(0.5, os.kill, (os.getpid(), 2)).start()
        bus.request_and_reply("nobody:commands", "a:b", {}, 30)
    """
    started = time.monotonic()
    done = _run(code, server.url)
    assert time.monotonic() - started < 15
    assert done.stderr.strip().endswith("KeyboardInterrupt"), done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert done.returncode == -signal.SIGINT


def test_a_call_has_the_callers_context(bus: sync.Bus, listener: None) -> None:
    """One trace from the caller's span to the handler."""
    own = SpanContext(TRACE_ID, 0x1, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(own)):
        reply = bus.request_and_reply(STREAM, "work:echo", {}, 20)
    assert reply["payload"]["traceparent"].split("-")[1] == f"{TRACE_ID:032x}"


def test_a_plain_handler_may_use_it_for_its_own_stages(bus: sync.Bus, listener: None) -> None:
    """The claim is in the context: `emit_event` takes the stage for the handler's."""
    assert bus.request_and_reply(STREAM, "work:own", {}, 20)["status"] == "completed"


def test_threads_of_a_web_server_share_it(bus: sync.Bus, listener: None) -> None:
    """A Flask application with a thread for each HTTP request."""
    app = flask.Flask("shop")

    @app.post("/echo/<int:number>")
    def ask(number: int) -> dict[str, Any]:
        """Answer with the payload of the reply."""
        reply = bus.request_and_reply(STREAM, "work:echo", {"n": number}, 20)
        return dict(reply["payload"])

    web = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=web.serve_forever)
    serving.start()
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{web.port}") as client,
        ThreadPoolExecutor() as pool,
    ):
        answers = pool.map(lambda number: client.post(f"/echo/{number}").json()["n"], range(20))
        assert list(answers) == list(range(20))
    assert len(_loops()) == 1
    web.shutdown()
    serving.join()
    web.server_close()


def test_a_call_keeps_nothing_of_its_context(
    server: EmbeddedServer, namespace: str, listener: None
) -> None:
    """What a web framework keeps in context variables is free when the timeouts have passed."""

    class Held: ...

    variable: ContextVar[Held] = ContextVar("held")
    held = Held()
    freed = weakref.ref(held)
    token = variable.set(held)
    with sync.Bus(server.url, namespace=namespace, call_timeout_s=5) as bus:
        bus.request_and_reply(STREAM, "work:echo", {}, 5, request_id="r")
        assert list(bus.follow("r"))
        variable.reset(token)
        del held, token
        eventually_sync(
            lambda: (gc.collect(), freed() is None)[1], within_s=20, why="the context is free"
        )


async def test_an_event_loop_is_not_blocked(server: EmbeddedServer, namespace: str) -> None:
    """The error names the bus to use instead; in another thread the call is right."""
    bus = sync.Bus(server.url, namespace=namespace)
    with pytest.raises(RuntimeError, match=r"use sagastream\.Bus with `await`"):
        bus.ping()
    assert _loops() == []
    await asyncio.to_thread(bus.ping)
    with pytest.raises(RuntimeError, match=r"use sagastream\.Bus with `await`"):
        bus.close()
    await asyncio.to_thread(bus.close)


def test_close_ends_all_and_a_later_call_opens_again(server: EmbeddedServer) -> None:
    """The sockets are closed and the thread has ended when it returns; it is idempotent."""
    before = _sockets()
    with sync.Bus(server.url) as bus:
        bus.ping()
        assert _sockets() - before
        bus.close()
        bus.close()
        assert (_sockets() - before, _loops()) == (set(), [])
        bus.ping()
        assert len(_loops()) == 1
    assert (_sockets() - before, _loops()) == (set(), [])


def test_threads_that_close_together_all_wait(server: EmbeddedServer) -> None:
    """Each returns when the thread has ended."""
    bus = sync.Bus(server.url)
    bus.ping()

    def close(_number: int) -> list[threading.Thread]:
        bus.close()
        return _loops()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(close, range(8))) == [[]] * 8


def test_close_ends_the_waits_of_other_threads(bus: sync.Bus, listener: None) -> None:
    """They say why."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bus.request_and_reply, STREAM, "work:wait", {}, 20, request_id="r")
        _wait_for_stages(bus, "r")
        bus.close()
        with pytest.raises(ServerUnavailable, match="the bus was closed"):
            waiting.result(10)


def test_a_forgotten_bus_ends_its_thread(server: EmbeddedServer) -> None:
    """The garbage collector closes what nothing refers to."""
    before = _sockets()
    bus = sync.Bus(server.url)
    bus.ping()
    del bus
    gc.collect()
    eventually_sync(lambda: not _loops(), within_s=10, why="the thread has ended")
    assert _sockets() - before == set()


def test_a_forked_child_has_its_own_loop(own_server: EmbeddedServer) -> None:
    """Parent and child go on, even if another thread was in the middle of a call."""
    code = """
        bus.emit_command("a:commands", event_type="a:b", payload={}, request_id="r")
        threading.Thread(target=lambda: list(bus.follow("r")), daemon=True).start()
        while threading.active_count() < 3:
            time.sleep(0.01)
        bus._runner._state().lock.acquire()
        child = os.fork()
        if child == 0:
            bus.emit_command("a:commands", event_type="a:b", payload={}, request_id="child")
            bus.close()
            bus.ping()
            sys.exit(7)
        bus._runner._state().lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        bus.emit_command("a:commands", event_type="a:b", payload={}, request_id="parent")
        print("done")
    """
    done = _run(code, own_server.url)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
    with connect(own_server.url) as client:
        ids = [fields["request_id"] for _, fields in client.xrange("a:commands")]
    assert ids == ["r", "child", "parent"]


@pytest.mark.parametrize(
    "code",
    [
        "bus.ping()",
        "bus.ping()\nbus.close()",
        "threading.Thread(target=lambda: list(bus.follow('r')), daemon=True).start()\nbus.ping()",
        "bus.ping()\nraise SystemExit(0)",
        "import atexit\natexit.register(bus.ping)\nbus.ping()",
        "os.kill(int(sys.argv[2]), 0)\nbus.ping()\nos.kill(int(sys.argv[2]), 19)",
    ],
)
def test_an_interpreter_ends_without_close(own_server: EmbeddedServer, code: str) -> None:
    """It neither hangs nor prints, whatever waits, even if the server is frozen."""
    started = time.monotonic()
    try:
        done = _run(code, own_server.url, str(own_server.pid))
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert time.monotonic() - started < 10


def test_an_exit_deletes_the_inbox(own_server: EmbeddedServer) -> None:
    """As `close` does: nothing of the program is left on the server."""
    code = """
        from sagastream import ReplyTimeout
        try:
            bus.request_and_reply("nobody:commands", "a:b", {}, 2, request_id="r")
        except ReplyTimeout:
            bus.cancel("r")
        print("asked")
    """
    done = _run(code, own_server.url)
    assert (done.stdout, done.stderr) == ("asked\n", "")
    with connect(own_server.url) as client:
        assert list(client.scan_iter("replies:*")) == []


def test_an_exit_after_the_server_has_gone_prints_no_traceback(server_binary: str | None) -> None:
    """Its name cannot be resolved any more while the interpreter ends."""
    code = """
        from sagastream import ReplyTimeout
        try:
            bus.request_and_reply("nobody:commands", "a:b", {}, 2)
        except ReplyTimeout:
            os.kill(int(sys.argv[2]), 9)
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with EmbeddedServer(binary=server_binary, port=port) as server:
        url = f"redis://localhost:{port}"
        done = _run(code, url, str(server.pid))
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
