"""The processes that the fault tests kill: a listener, and a requester."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from sagastream import Bus, Command, CommandListener, Progress, SagastreamError, multi_stage_reply

STREAM = "work:commands"
LEASE_S = 0.6

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["sagastream", "tests.faults.roles"])


def spawn(role: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run a role in a process of its own."""
    process = _CONTEXT.Process(target=role, args=arguments, daemon=True)
    process.start()
    return process


def listener(url: str) -> None:
    """A listener with one handler that writes down that it ran, and how."""

    async def listen() -> None:
        # Less patient than the outages are long, so that giving up is tried as well.
        async with Bus(url, patience_s=0.5) as bus:

            async def note(what: str) -> None:
                await bus.endpoint().connection.call("RPUSH", "notes", what, patience_s=30.0)

            @multi_stage_reply(stream=STREAM, event_type="work:do")
            async def work(command: Command, progress: Progress) -> dict[str, Any]:
                await note(f"begun {command.epoch}")
                await progress(0.5, {"epoch": command.epoch})
                if block_s := command.payload.get("block_s"):
                    time.sleep(block_s)  # noqa: ASYNC251 - a handler that blocks its loop
                if command.payload.get("wait"):
                    await asyncio.Event().wait()
                if command.payload.get("die"):
                    raise SystemExit(1)
                await note(f"done {command.epoch}")
                echo: dict[str, Any] = command.payload.get("echo", {})
                return {"epoch": command.epoch} | echo

            await CommandListener(bus, [work], concurrency=4, lease_s=LEASE_S).run()

    asyncio.run(listen())


@contextmanager
def listening(url: str) -> Iterator[BaseProcess]:
    """A listener in a process of its own, killed at the end."""
    process = spawn(listener, url)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def requester(url: str, request_id: str) -> None:
    """Ask once, and write the reply down."""

    async def ask() -> None:
        async with Bus(url) as bus:
            try:
                reply = await bus.request_and_reply(
                    STREAM, "work:do", {}, 20, request_id=request_id, correlation_id="c"
                )
            except SagastreamError as error:
                await bus.endpoint().connection.call("RPUSH", "notes", f"error {error!r}")
            else:
                await bus.endpoint().connection.call("RPUSH", "notes", f"got {reply['status']}")

    asyncio.run(ask())
