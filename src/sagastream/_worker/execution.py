"""Run a handler: an async one in the event loop, a plain one in a thread."""

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from sagastream._codec.typed_payloads import is_model
from sagastream._handlers.injection import Injector, through
from sagastream._redis.retrying import end_tasks, uninterrupted
from sagastream._worker.claim import Claim
from sagastream._worker.threads import HandlerThreads
from sagastream.effects import Atomic
from sagastream.errors import HandlerStopped, InvalidMessage, InvalidPayload, LeaseLost
from sagastream.handlers import Handler
from sagastream.message import Command

# How often a thread that waits for its progress looks whether the event loop still runs.
_LOOK_S = 1.0


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


async def run_handler(
    handler: Handler, claim: Claim, threads: HandlerThreads, attempt: "Attempt | None"
) -> Atomic:
    """Run a handler and return its result.

    A plain handler cannot be stopped from outside: when it has to end, its next `progress`
    raises `HandlerStopped`, and this waits until its thread has ended. If the listener stops
    first, the claim is handed over to the lease's keeper.

    Args:
        handler: The handler.
        claim: The claim.
        threads: Runs plain handlers.
        attempt: Runs it with its dependencies and middleware; None if it has neither.

    Returns:
        Its result and its writes; only an `atomic` handler has writes.

    Raises:
        HandlerRaised: It raised, or its payload does not fit.
        InvalidMessage: Its result is not of the declared type, not a payload, or not `Atomic`
            though it is `atomic`.
        LeaseLost: Another claim has the request.
    """
    command = claim.command
    try:
        if handler.reconcile and command.attempt > 1:
            first_result = await handler.reconcile(command)
            if first_result is not None:
                return Atomic(first_result, ())
        if attempt is not None:
            result = await attempt(claim)
        elif handler.is_async:
            result = handler.call(command, claim.progress)
        else:
            result = await _run_in_thread(handler.call, command, claim, threads)
        if inspect.isawaitable(result):
            result = await result
    except (LeaseLost, HandlerRaised):
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if claim.ending is not None or (task and task.cancelling()):
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
    return _checked(handler, result)


class Attempt:
    """Runs one handler of a listener with its dependencies, inside its middleware.

    Args:
        handler: The handler.
        threads: Runs plain handlers.
        injector: What the listener puts around its handlers.

    Raises:
        RegistrationError: A dependency cannot be resolved.
    """

    def __init__(self, handler: Handler, threads: HandlerThreads, injector: Injector) -> None:
        self._handler = handler
        self._threads = threads
        self._injector = injector
        self._plan = injector.plan(handler) if handler.signature.dependencies else None

    async def __call__(self, claim: Claim) -> Any:
        """Make an attempt; returns what the handler returned."""
        run = partial(self._run, claim=claim)
        return await through(self._injector.middleware, claim.command, run)

    async def _run(self, command: Command, *, claim: Claim) -> Any:
        if self._plan is None:
            return await self._call(self._handler.call, command, claim)
        async with self._plan.entered(command, self._injector.lifespan_value) as call:
            return await self._call(call, command, claim)

    async def _call(self, call: Callable[..., Any], command: Command, claim: Claim) -> Any:
        if self._handler.is_async:
            result = call(command, claim.progress)
        else:
            try:
                result = await _run_in_thread(call, command, claim, self._threads)
            except HandlerRaised as raised:
                # Middleware and dependencies see what the handler raised.
                raise raised.error from raised
        return await result if inspect.isawaitable(result) else result


def _checked(handler: Handler, result: Any) -> Atomic:
    if handler.effect == "atomic":
        if not isinstance(result, Atomic):
            raise InvalidMessage("result", f"must be Atomic, not {type(result).__name__}")
        return result
    convert = handler.signature.result
    if convert is not None:
        try:
            result = convert.encode(result, "result")
        except InvalidPayload as error:
            raise InvalidMessage(error.field, error.reason) from error
    if type(result) is dict:
        return Atomic(result, ())
    if result is None:
        return Atomic({}, ())
    if not isinstance(result, Mapping) and not is_model(type(result)):
        raise InvalidMessage("result", f"must be a mapping or None, not {type(result).__name__}")
    return Atomic(result, ())


async def _run_in_thread(
    call: Callable[..., Any], command: Command, claim: Claim, threads: HandlerThreads
) -> Any:
    calls = _ProgressCalls(claim)

    def run() -> tuple[Any, BaseException | None]:
        # A StopIteration cannot be set on a future: nobody would ever hear of it.
        try:
            return call(command, calls.progress), None
        except BaseException as error:  # noqa: BLE001 - it is raised in the event loop
            return None, error

    thread = threads.run(partial(copy_context().run, run))
    running = asyncio.wrap_future(thread)
    try:
        result, error = await _until_ended(running, claim)
    except asyncio.CancelledError:
        if not thread.done():
            claim.hand_over(thread)
        raise
    finally:
        await uninterrupted(calls.close())
    if isinstance(error, LeaseLost):
        raise error
    if error is not None:
        raise HandlerRaised(error)
    return result


async def _until_ended(
    running: "asyncio.Future[tuple[Any, BaseException | None]]", claim: Claim
) -> tuple[Any, BaseException | None]:
    """Wait for a thread, also when its handler has to stop, unless the listener stops."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if claim.ending is None:
            claim.ending = "stopped"
        if claim.ending != "stopped":
            await asyncio.wait({running})
        raise


class _ProgressCalls:
    """The calls of `progress` from the thread of a plain handler.

    Args:
        claim: The claim.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def progress(
        self, fraction: float, detail: Mapping[str, Any] | None = None
    ) -> Awaitable[None] | None:
        """Write a progress stage from the thread, as `PlainProgress` describes.

        A coroutine that the handler returned awaits it in the event loop.
        """
        if threading.get_ident() == self._loop_thread:
            return self._claim.progress(fraction, detail)
        written: concurrent.futures.Future[None] = concurrent.futures.Future()
        context = copy_context()
        if self._claim.ending is not None:
            raise HandlerStopped
        try:
            self._loop.call_soon_threadsafe(self._start, written, fraction, detail, context)
        except RuntimeError:
            raise HandlerStopped from None  # the event loop is closed
        while True:
            try:
                written.result(timeout=_LOOK_S)
            except TimeoutError:
                if not written.done() and (self._is_closed or self._loop.is_closed()):
                    raise HandlerStopped from None
                if written.done():
                    raise
            else:
                return None

    async def close(self) -> None:
        """End the calls that are under way; their threads get `HandlerStopped`."""
        self._is_closed = True
        await end_tasks(*self._tasks)

    def _start(
        self,
        written: "concurrent.futures.Future[None]",
        fraction: float,
        detail: Mapping[str, Any] | None,
        context: Context,
    ) -> None:
        if self._is_closed:
            written.set_exception(HandlerStopped())
            return
        task = self._loop.create_task(self._claim.progress(fraction, detail), context=context)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, written))

    def _ended(
        self, written: "concurrent.futures.Future[None]", task: "asyncio.Task[None]"
    ) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            written.set_exception(HandlerStopped())
        elif error := task.exception():
            written.set_exception(error)
        else:
            written.set_result(None)
