"""Threads for plain handlers. They are daemons: one that does not end holds up no process."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

_Job = tuple[Future[Any], Callable[[], Any]]


class HandlerThreads:
    """Runs functions in daemon threads, each in an idle one or a new one."""

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._is_closed = False

    def run(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function in a thread; the future has its result."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a thread cannot be cancelled
        try:
            jobs = self._idle.pop()
        except IndexError:
            jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(jobs,), name="handler", daemon=True).start()
        jobs.put((future, function))
        return future

    def close(self) -> None:
        """End the idle threads; the others end with their functions."""
        self._is_closed = True
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().put(None)

    def _work(self, jobs: "SimpleQueue[_Job | None]") -> None:
        while job := jobs.get():
            future, function = job
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(error)
            else:
                future.set_result(result)
            del job, future, function
            self._idle.append(jobs)
            if self._is_closed:
                self.close()
