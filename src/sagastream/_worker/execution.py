"""Run a handler: an async one in the event loop, a plain one in a thread."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sagastream.effects import Atomic
from sagastream.errors import HandlerStopped, InvalidMessage, LeaseLost
from sagastream.handlers import Handler, Progress
from sagastream.message import Command


class HandlerRaised(Exception):
    """What a handler raised, whatever it is, so that it does not leave its request.

    `SystemExit` and `KeyboardInterrupt` would stop the event loop, `StopIteration` would never
    leave a thread, and a `CancelledError` of the handler would look like a shutdown.

    Attributes:
        error: What it raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(type(error).__name__)
        self.error = error


def describe(error: BaseException) -> str:
    """The message of an error, with the members of a group and the cause."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - `__str__` is the handler's code
        text = "its message cannot be read"
    if isinstance(error, BaseExceptionGroup):
        members = "; ".join(f"{type(each).__name__}: {describe(each)}" for each in error.exceptions)
        text = f"{text}: {members}"
    if error.__cause__ is not None:
        cause = error.__cause__
        text = f"{text} (caused by {type(cause).__name__}: {describe(cause)})"
    return text


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
        HandlerRaised: It raised.
        InvalidMessage: It must return a dict or None, or `Atomic` if it is `atomic`, and did not.
        LeaseLost: Another claim has the request.
    """
    try:
        if handler.reconcile and command.epoch > 1:
            first_result = await handler.reconcile(command)
            if first_result is not None:
                return Atomic(first_result, ())
        if handler.is_async:
            result = await handler.function(command, progress)
        else:
            result = await _run_plain(handler, command, progress, in_thread, is_ending)
    except (LeaseLost, HandlerRaised):
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if is_ending() or (task and task.cancelling()):
            raise
        raise HandlerRaised(error) from error
    except GeneratorExit as error:
        # An event loop that has stopped closes its coroutines with it: nothing can be awaited.
        if asyncio._get_running_loop() is None:  # noqa: SLF001 - the public one raises
            raise
        raise HandlerRaised(error) from error
    except BaseException as error:
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
            raise HandlerRaised(error.__cause__) from error  # Python replaced it
        raise HandlerRaised(error) from error
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

    def run() -> tuple[Any, BaseException | None]:
        # A StopIteration cannot leave a thread: its future would never end.
        try:
            return handler.function(command, plain_progress), None
        except BaseException as error:  # noqa: BLE001 - it is raised in the event loop
            return None, error

    running = asyncio.ensure_future(in_thread(run))
    try:
        result, error = await asyncio.shield(running)
    except asyncio.CancelledError:
        if is_ending():
            await asyncio.wait([running])
            running.exception()
        raise
    if isinstance(error, LeaseLost):
        raise error
    if error is not None:
        raise HandlerRaised(error)
    return result


async def _await(progress: Progress, fraction: float, detail: Mapping[str, Any] | None) -> None:
    await progress(fraction, detail)
