"""The processes that the fault tests kill: a listener, a requester, and a canceller."""

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from sagastream import (
    Atomic,
    Bus,
    Command,
    CommandListener,
    DataLost,
    Progress,
    RequestCancelled,
    RequestFailed,
    ServerUnavailable,
    Write,
    multi_stage_reply,
)
from tests.faults.invariants import STREAM

LEASE_S = 0.6
SLOW_LEASE_S = 5.0
WORKER_LEASE_S = 3.0
MAX_DELIVERIES = 5
GAVE_UP = 75

_CONTEXT = get_context("forkserver")
# A start polls all the processes that there are, and a process must not be polled twice at once:
# whoever is second reads no exit code.
_POLLING = threading.Lock()
_CONTEXT.set_forkserver_preload(["sagastream", "tests.faults.roles"])


@contextmanager
def _giving_up() -> Iterator[None]:
    """End with a status of its own when the server is away, or came back without our data."""
    try:
        yield
    except (ServerUnavailable, DataLost) as error:
        raise SystemExit(GAVE_UP) from error


def spawn(role: Callable[..., None], *arguments: Any, **options: Any) -> BaseProcess:
    """Run a role in a process of its own."""
    process = _CONTEXT.Process(target=role, args=arguments, kwargs=options, daemon=True)
    with _POLLING:
        process.start()
    return process


def exit_code(process: BaseProcess) -> int | None:
    """How a process ended, None while it lives."""
    with _POLLING:
        return process.exitcode


def end(process: BaseProcess) -> None:
    """Kill a process and wait for its end."""
    with _POLLING:
        process.kill()
        process.join()


async def _note(bus: Bus, what: str) -> None:
    await bus.command("RPUSH", "notes", what, timeout=60.0)


async def _one_more(bus: Bus, key: str, field: str) -> Write:
    """The effect of a handler: a count that goes up each time that it takes place."""
    found = await bus.command("HGET", key, field, timeout=60.0)
    before = found.decode() if found else None
    return Write(key, str(int(before or 0) + 1), expected=before, field=field)


def _die(how: str) -> None:
    """End this process as a handler may: by its own exit, a crash, the kernel, or not at all."""
    if how == "exit":
        raise SystemExit(1)
    if how == "segfault":
        ctypes.string_at(0)
    # The kernel's out-of-memory killer sends SIGKILL; a process that hangs as a whole, as in
    # a page fault on a dead disk, is to everybody else one that was stopped.
    os.kill(os.getpid(), signal.SIGKILL if how == "oom" else signal.SIGSTOP)


def listener(
    url: str,
    *,
    lease_s: float = LEASE_S,
    max_deliveries: int = MAX_DELIVERIES,
    stalls: bool = False,
) -> None:
    """A listener whose handler counts its effect, and writes down that it ran, and how."""

    async def listen() -> None:
        # Less patient than the outages are long, so that giving up is tried as well.
        async with Bus(url, call_timeout_s=0.5) as bus:

            @multi_stage_reply(stream=STREAM, event_type="work:do", effect="atomic")
            async def work(command: Command, progress: Progress) -> Atomic:
                await _note(bus, f"begun {command.epoch}")
                await progress(0.5, {"epoch": command.epoch})
                payload = command.payload
                if block_s := payload.get("block_s"):
                    time.sleep(block_s)  # noqa: ASYNC251 - a handler that blocks its loop
                await asyncio.sleep(payload.get("wait_s", 0))
                first = payload.get("wait_first") and command.epoch == 1
                if stalls or first or payload.get("wait"):
                    await asyncio.Event().wait()
                if how := payload.get("die"):
                    _die(how)
                effect = await _one_more(bus, "effects", command.request_id)
                await _note(bus, f"done {command.epoch}")
                echo: dict[str, Any] = payload.get("echo", {})
                return Atomic({"epoch": command.epoch} | echo, (effect,))

            await CommandListener(
                bus, [work], concurrency=4, lease_s=lease_s, max_deliveries=max_deliveries
            ).run()

    with _giving_up():
        asyncio.run(listen())


def slow_listener(url: str) -> None:
    """A listener with leases that a process does not lose by starting slowly."""
    listener(url, lease_s=SLOW_LEASE_S)


def worker(url: str) -> None:
    """A listener for many small commands, each of which counts its ends."""

    async def listen() -> None:
        # Records are kept for moments only, or a million of them would fill the memory.
        async with Bus(url, retention_s=5.0) as bus:

            @multi_stage_reply(stream=STREAM, event_type="work:count", effect="atomic")
            async def count(command: Command, _progress: Progress) -> Atomic:
                return Atomic({}, (await _one_more(bus, "counts", command.request_id),))

            await CommandListener(bus, [count], concurrency=64, lease_s=WORKER_LEASE_S).run()

    with _giving_up():
        asyncio.run(listen())


def requester(url: str, payload: dict[str, Any], request_id: str = "r") -> None:
    """Ask once, and write down how the request ended."""

    async def ask() -> None:
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
            await _note(bus, f"got {status}")

    with _giving_up():
        asyncio.run(ask())


def deadline_requester(url: str, request_id: str, deadline_s: float) -> None:
    """Ask for what never ends, with a deadline."""

    async def ask() -> None:
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

    with _giving_up():
        asyncio.run(ask())


def canceller(url: str) -> None:
    """Cancel the request, and write the answer down."""

    async def cancel() -> None:
        async with Bus(url) as bus:
            await _note(bus, f"cancel answered {await bus.cancel('r')}")

    with _giving_up():
        asyncio.run(cancel())


@contextmanager
def listening(url: str, **options: Any) -> Iterator[BaseProcess]:
    """A listener in a process of its own, killed at the end."""
    process = spawn(listener, url, **options)
    try:
        yield process
    finally:
        end(process)
