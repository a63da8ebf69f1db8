"""Run a handler: an async one in the event loop, a plain one in a thread."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sagastream.effects import Atomic
from sagastream.errors import HandlerStopped, InvalidMessage
from sagastream.handlers import Handler, Progress
from sagastream.message import Command


async def run_handler(
    handler: Handler,
    command: Command,
    progress: Progress,
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    is_ending: Callable[[], bool],
) -> Atomic:
    """Run a handler and return its result.

    A plain handler cannot be stopped from outside: when it has to end, its next `progress`
    raises `HandlerStopped`, and this waits until its thread has ended.

    Args:
        handler: The handler.
        command: The command.
        progress: Writes a progress stage.
        in_thread: Runs a function in a thread.
        is_ending: Whether the handler has to end early.

    Returns:
        Its result and its writes; only an `atomic` handler has writes.

    Raises:
        InvalidMessage: It must return a dict or None, or `Atomic` if it is `atomic`, and did not.
    """
    if handler.reconcile and command.epoch > 1:
        first_result = await handler.reconcile(command)
        if first_result is not None:
            return Atomic(first_result, ())
    if handler.is_async:
        result = await handler.function(command, progress)
    else:
        result = await _run_plain(handler, command, progress, in_thread, is_ending)
    if handler.effect == "atomic":
        if not isinstance(result, Atomic):
            raise InvalidMessage("result", f"must be Atomic, not {type(result).__name__}")
        return result
    if not isinstance(result, dict | None):
        raise InvalidMessage("result", f"must be a dict or None, not {type(result).__name__}")
    return Atomic(result or {}, ())


async def _run_plain(
    handler: Handler,
    command: Command,
    progress: Progress,
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    is_ending: Callable[[], bool],
) -> Any:
    loop = asyncio.get_running_loop()

    def plain_progress(fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        if is_ending():
            raise HandlerStopped
        asyncio.run_coroutine_threadsafe(_await(progress, fraction, detail), loop).result()

    running = asyncio.ensure_future(in_thread(lambda: handler.function(command, plain_progress)))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if is_ending():
            await asyncio.wait([running])
            running.exception()
        raise


async def _await(progress: Progress, fraction: float, detail: Mapping[str, Any] | None) -> None:
    await progress(fraction, detail)
