"""The processes that the fault tests kill: a listener, a requester, a canceller, a saga runner."""

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from sagastream import (
    Atomic,
    Bus,
    Command,
    CommandListener,
    DataLost,
    PlainProgress,
    Progress,
    RequestCancelled,
    RequestFailed,
    Retention,
    RetryPolicy,
    ServerUnavailable,
    Write,
    multi_stage_reply,
)
from sagastream.saga import Saga, SagaRunner, Step
from tests.faults.invariants import STREAM

LEASE_S = 0.6
SLOW_LEASE_S = 5.0
WORKER_LEASE_S = 3.0
MAX_DELIVERIES = 5
WORK = Saga("work", (Step("only", STREAM, "work:do", lambda data, _: data, timeout=30.0),))
EXIT_UNAVAILABLE = 75  # EX_TEMPFAIL of sysexits.h

_CONTEXT = get_context("forkserver")
# A start polls all processes. If two threads poll one process at once, the second one gets no
# exit code.
_POLLING = threading.Lock()
_CONTEXT.set_forkserver_preload(["sagastream", "tests.faults.roles"])


@contextmanager
def _exits_if_unavailable() -> Iterator[None]:
    """Exit with its own code when the server is unavailable, or has lost our data."""
    try:
        yield
    except (ServerUnavailable, DataLost) as error:
        raise SystemExit(EXIT_UNAVAILABLE) from error


def spawn(role: Callable[..., None], *arguments: Any, **options: Any) -> BaseProcess:
    """Run a role in a new process."""
    process = _CONTEXT.Process(target=role, args=arguments, kwargs=options, daemon=True)
    with _POLLING:
        process.start()
    return process


def exit_code(process: BaseProcess) -> int | None:
    """Return the exit code of a process; None while it runs."""
    with _POLLING:
        return process.exitcode


def kill_and_wait(process: BaseProcess) -> None:
    """Kill a process and wait for its end."""
    with _POLLING:
        process.kill()
        process.join()


# Other errors of handlers are not tried again.
_RETRIES = RetryPolicy(attempts=2, first_delay_s=0.2, retry_on=(LookupError,))


async def _log(bus: Bus, line: str) -> None:
    await bus.command("RPUSH", "log", line, timeout=60.0)


async def increment(bus: Bus, key: str, field: str) -> Write:
    """Return the effect of a handler: it counts how often it takes place."""
    found = await bus.command("HGET", key, field, timeout=60.0)
    before = found.decode() if found else None
    return Write(key, str(int(before or 0) + 1), expected=before, field=field)


def _die(how: str) -> None:
    """End this process as a handler may: by its exit, a crash, or the kernel; or suspend it."""
    if how == "exit":
        os._exit(1)  # sys.exit() fails its request alone
    if how == "segfault":
        ctypes.string_at(0)
    # The out-of-memory killer of the kernel sends SIGKILL. A process that hangs in the kernel, as
    # in a page fault on a dead disk, looks to others like a suspended one.
    os.kill(os.getpid(), signal.SIGKILL if how == "oom" else signal.SIGSTOP)


def listener(
    url: str,
    *,
    lease_s: float = LEASE_S,
    max_deliveries: int = MAX_DELIVERIES,
    stalls: bool = False,
) -> None:
    """A listener whose handler counts its effect, and logs when it begins and is done."""

    async def listen() -> None:
        # Shorter than the outages, so that the listener also meets ServerUnavailable.
        async with Bus(url, call_timeout_s=1.0) as bus:

            @multi_stage_reply(stream=STREAM, event_type="work:do", effect="atomic", retry=_RETRIES)
            async def work(command: Command, progress: Progress) -> Atomic:
                await _log(bus, f"begun {command.attempt}")
                await progress(0.5, {"attempt": command.attempt})
                payload = command.payload
                if command.attempt <= payload.get("fails", 0):
                    raise LookupError("as requested")
                if block_s := payload.get("block_s"):
                    time.sleep(block_s)  # noqa: ASYNC251 - a handler that blocks its loop
                await asyncio.sleep(payload.get("wait_s", 0))  # a handler that works for a while
                first = payload.get("wait_first") and command.attempt == 1
                if stalls or first or payload.get("wait"):
                    await asyncio.Event().wait()
                if how := payload.get("die"):
                    _die(how)
                effect = await increment(bus, "effects", command.request_id)
                await _log(bus, f"done {command.attempt}")
                echo: dict[str, Any] = payload.get("echo", {})
                return Atomic({"attempt": command.attempt} | echo, (effect,))

            await CommandListener(
                bus, [work], concurrency=4, lease_s=lease_s, max_deliveries=max_deliveries
            ).run(handle_signals=True)

    with _exits_if_unavailable():
        asyncio.run(listen())


def slow_listener(url: str) -> None:
    """A listener with leases long enough for a process that starts slowly."""
    listener(url, lease_s=SLOW_LEASE_S)


def threaded_listener(url: str) -> None:
    """A listener whose plain handler never ends in its first claim."""

    async def listen() -> None:
        async with Bus(url) as bus:
            loop = asyncio.get_running_loop()

            @multi_stage_reply(stream=STREAM, event_type="work:do", effect="atomic")
            def work(command: Command, _progress: PlainProgress) -> Atomic:
                log = _log(bus, f"begun {command.attempt}")
                asyncio.run_coroutine_threadsafe(log, loop).result()
                if command.attempt == 1:
                    threading.Event().wait()
                write = increment(bus, "effects", command.request_id)
                effect = asyncio.run_coroutine_threadsafe(write, loop).result()
                return Atomic({"attempt": command.attempt}, (effect,))

            listener = CommandListener(bus, [work], lease_s=LEASE_S, drain_s=0.2)
            await listener.run(handle_signals=True)

    asyncio.run(listen())


def worker(url: str) -> None:
    """A listener for many small commands; each one counts how often it took effect."""

    async def listen() -> None:
        # Short retention: a million records would fill the memory.
        async with Bus(url, retention=Retention(result_s=5.0, remember_s=5.0)) as bus:

            @multi_stage_reply(stream=STREAM, event_type="work:count", effect="atomic")
            async def count(command: Command, _progress: Progress) -> Atomic:
                return Atomic({}, (await increment(bus, "counts", command.request_id),))

            listener = CommandListener(bus, [count], concurrency=64, lease_s=WORKER_LEASE_S)
            await listener.run(handle_signals=True)

    with _exits_if_unavailable():
        asyncio.run(listen())


def requester(url: str, payload: dict[str, Any], request_id: str = "r") -> None:
    """Send a request, and log how it ended."""

    async def send() -> None:
        async with Bus(url) as bus:
            try:
                reply = await bus.request_and_reply(
                    STREAM, "work:do", payload, 60, request_id=request_id, correlation_id="c"
                )
                status = reply["status"]
            except RequestFailed:
                status = "failed"
            except RequestCancelled:
                status = "cancelled"
            await _log(bus, f"got {status}")

    with _exits_if_unavailable():
        asyncio.run(send())


def deadline_requester(url: str, request_id: str, deadline_s: float) -> None:
    """Send a command whose handler never ends, with a deadline."""

    async def send() -> None:
        async with Bus(url) as bus:
            await bus.emit_command(
                STREAM,
                event_type="work:do",
                payload={"wait": 1},
                request_id=request_id,
                correlation_id="c",
                reply_stream=f"{request_id}:replies",
                deadline_s=deadline_s,
            )

    with _exits_if_unavailable():
        asyncio.run(send())


def canceller(url: str) -> None:
    """Cancel the request, and log the answer."""

    async def cancel() -> None:
        async with Bus(url) as bus:
            await _log(bus, f"cancel answered {await bus.cancel('r')}")

    with _exits_if_unavailable():
        asyncio.run(cancel())


def saga_runner(url: str) -> None:
    """Drive the sagas of `WORK` that no other process works on."""

    async def serve() -> None:
        async with Bus(url) as bus:
            await SagaRunner(bus, WORK, wake_after_s=1.0).serve()

    with _exits_if_unavailable():
        asyncio.run(serve())


@contextmanager
def in_process(role: Callable[..., None], url: str, **options: Any) -> Iterator[BaseProcess]:
    """Run a role in a new process; kill it at the end."""
    process = spawn(role, url, **options)
    try:
        yield process
    finally:
        kill_and_wait(process)


def listener_process(url: str, **options: Any) -> AbstractContextManager[BaseProcess]:
    """Run a listener in a new process; kill it at the end."""
    return in_process(listener, url, **options)
