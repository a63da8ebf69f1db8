"""An event loop in a daemon thread, for threads that block until a coroutine has ended.

The thread starts with the first call. Each process has its own: a fork copies no thread.
"""

import asyncio
import atexit
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from sagastream._redis.nodes import fork_count
from sagastream._redis.retrying import end_tasks
from sagastream.errors import ServerUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
# What the waiting thread has to call, in order; None when the coroutine has ended.
Callbacks = SimpleQueue[Callable[[], object] | None]

# How long an interpreter that exits waits for the threads, in seconds.
_EXIT_WAIT_S = 1.0
# How often a waiting thread looks for signals, in seconds.
_LOOK_S = 0.5
_started: "weakref.WeakSet[_LoopThread]" = weakref.WeakSet()


class _Call(Generic[T]):
    """A coroutine that runs in the event loop for a thread that waits for it.

    Args:
        function: Returns the coroutine; called in the event loop.
        callbacks: What the waiting thread calls meanwhile.
    """

    def __init__(
        self, function: Callable[[], Coroutine[Any, Any, T]], callbacks: Callbacks
    ) -> None:
        self.thread: _LoopThread | None = None
        self.task: asyncio.Task[T] | None = None
        self._function = function
        self._callbacks = callbacks
        self._has_ended = False

    def wait(self) -> "asyncio.Task[T]":
        """Call the callbacks until the coroutine has ended; returns its task."""
        while (callback := self._next_callback()) is not None:
            callback()
        task, self.task = self.task, None
        assert task is not None
        return task

    def cancel(self) -> None:
        """Cancel the coroutine and wait until it has ended. Idempotent."""
        if self.thread is None or not self.thread.cancel(self):
            return
        while not self._has_ended:
            self._next_callback()

    def _next_callback(self) -> Callable[[], object] | None:
        # A signal that comes right before a wait does not interrupt it: look from time to time.
        while True:
            try:
                return self._callbacks.get(timeout=_LOOK_S)
            except Empty:
                continue

    async def run(self) -> T:
        """The coroutine; what its making raises is an error of the call too."""
        return await self._function()

    def note_end(self) -> None:
        """Wake the waiting thread: the coroutine has ended. Called by the event loop."""
        self._has_ended = True  # first: an interrupt may lose the None on its way
        self._callbacks.put(None)


class _LoopThread:
    """A running event loop and its thread.

    Args:
        on_end: Called in the event loop before it ends.
    """

    def __init__(self, on_end: Callable[[], Awaitable[None]]) -> None:
        self._on_end = on_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: SimpleQueue[BaseException | None] = SimpleQueue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending = asyncio.Event()
        self._is_ending = False
        self._is_exiting = False
        self._thread = threading.Thread(target=self._run, name="sagastream-loop", daemon=True)

    def start(self) -> None:
        """Start the thread, and wait for its event loop.

        Raises:
            RuntimeError: The system has no more threads.
            OSError: The system has no more file descriptors.
        """
        _started.add(self)
        try:
            self._thread.start()
            failure = self._ready.get()
        except BaseException as error:
            self.end()
            if isinstance(error, RuntimeError) and self._thread.ident and error.__context__:
                # An interrupt has made the lock of `Thread.start` fail.
                raise error.__context__ from None
            raise
        if failure:
            raise failure

    def submit(self, call: _Call[Any]) -> None:
        """Start a call. None may be submitted after `end`."""
        assert self._loop is not None
        call.thread = self
        self._loop.call_soon_threadsafe(self._start_call, call)  # in a copy of our context

    def cancel(self, call: _Call[Any]) -> bool:
        """Cancel a call; False if the event loop has ended, and the call with it."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._cancel_call, call)
        except RuntimeError:
            return False
        return True

    def end(self, *, is_exiting: bool = False) -> None:
        """Cancel the calls and end the thread soon. Idempotent.

        In a forked child it does nothing but wake the parent's event loop.

        Args:
            is_exiting: The interpreter exits: the threads that wait get no error, which they
                would print.
        """
        self._is_exiting = self._is_exiting or is_exiting
        self._is_ending = True
        if self._loop:  # otherwise the thread reads `_is_ending` when it has made the loop
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._ending.set)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, at most `timeout` seconds."""
        if self._thread.ident:
            self._thread.join(timeout)

    # -- called in the thread -----------------------------------------------------

    def _run(self) -> None:
        # No interrupt comes here, and no context of a caller, which the loop would keep.
        with asyncio.Runner() as runner:
            try:
                self._loop = runner.get_loop()
            except BaseException as error:  # noqa: BLE001 - raised by `start`
                self._ready.put(error)
                return
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._ready.put(None)
        if not self._is_ending:
            await self._ending.wait()
        await end_tasks(*self._tasks)
        try:
            await self._on_end()
        except Exception as error:  # noqa: BLE001 - the thread ends whatever happens
            logger.debug("cannot close the connections: %r", error)

    def _start_call(self, call: _Call[Any]) -> None:
        assert self._loop is not None
        call.task = self._loop.create_task(call.run())
        self._tasks.add(call.task)
        call.task.add_done_callback(partial(self._call_ended, call))

    def _cancel_call(self, call: _Call[Any]) -> None:
        if call.task is None:
            call.note_end()  # its thread was interrupted before it was started
        else:
            call.task.cancel()

    def _call_ended(self, call: _Call[Any], task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio logs an error that no thread asks for
        if not self._is_exiting:
            call.note_end()


class _ProcessState:
    """The loop thread of one process.

    Attributes:
        lock: Held while calls are submitted, so that none comes after the end of a thread.
        current: The thread for new calls; None before the first call and after `close`.
        closing: The last thread that `close` has ended.
    """

    def __init__(self) -> None:
        # Reentrant: a signal handler may call while its thread has the lock.
        self.lock = threading.RLock()
        self.current: _LoopThread | None = None
        self.closing: _LoopThread | None = None
        self.finalizer: weakref.finalize[..., Any] | None = None


class BlockingRunner:
    """Runs coroutines in the event loop of a daemon thread, and waits for them.

    Any number of threads may use it.

    Args:
        address: The server, for errors.
        on_close: Called in the event loop before it ends; closes the connections.
    """

    def __init__(self, address: str, on_close: Callable[[], Awaitable[None]]) -> None:
        self._address = address
        self._on_close = on_close
        # By the number of forks: the parent's event loop must be left alone, and its lock may
        # be held by a thread that the child does not have.
        self._states: dict[int, _ProcessState] = {}

    def run(
        self,
        function: Callable[[], Coroutine[Any, Any, T]],
        callbacks: Callbacks | None = None,
    ) -> T:
        """Run a coroutine in the caller's context, and return its result.

        If the waiting thread is interrupted, as by Ctrl-C, the coroutine is cancelled, and it
        has ended when this raises.

        Args:
            function: Returns the coroutine; called in the event loop.
            callbacks: This thread calls the functions that the coroutine puts there.

        Raises:
            RuntimeError: This thread runs an event loop.
            ServerUnavailable: Another thread has called `close`.
            Exception: What the coroutine or a callback has raised.
        """
        _refuse_in_event_loop()
        call = _Call(function, SimpleQueue() if callbacks is None else callbacks)
        try:
            state = self._state()
            with state.lock:
                self._thread(state).submit(call)
            task = call.wait()
        except BaseException:
            call.cancel()
            raise
        if task.cancelled():
            raise ServerUnavailable(self._address, "the bus was closed")
        try:
            return task.result()
        finally:
            del task  # its error refers to this frame

    def close(self) -> None:
        """Cancel the calls of all threads, close the connections and end the thread.

        Idempotent; returns when all this is done. The next call starts another thread.

        Raises:
            RuntimeError: This thread runs an event loop.
        """
        state = self._state()
        with state.lock:
            if state.current:
                _refuse_in_event_loop()
                state.current.end()
                state.current, state.closing = None, state.current
            if state.finalizer:
                state.finalizer.detach()
            closing = state.closing
        if closing:
            closing.join()

    def _state(self) -> _ProcessState:
        forks = fork_count()
        return self._states.get(forks) or self._states.setdefault(forks, _ProcessState())

    def _thread(self, state: _ProcessState) -> _LoopThread:
        """The thread for new calls, started now if there is none."""
        if state.current is None:
            thread = state.current = _LoopThread(self._on_close)
            try:
                thread.start()
            except BaseException:
                state.current = None
                raise
            # A bus that no thread refers to any more ends its loop.
            state.finalizer = weakref.finalize(self, thread.end)
            state.finalizer.atexit = False
        return state.current


def _refuse_in_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "sagastream.sync.Bus would block the event loop that runs in this thread: "
        "use sagastream.Bus with `await`, or call this in another thread"
    )


@atexit.register
def _end_started() -> None:
    """End the threads of buses that were not closed, before the interpreter is torn down."""
    threads = list(_started)
    for thread in threads:
        thread.end(is_exiting=True)
    deadline = time.monotonic() + _EXIT_WAIT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
