"""A cancellation at every await point of the listener, as kills are at every command.

The tasks of a listener are driven step by step: each time one of them waits is one point. At the
point of a try either the task of `run` is cancelled, as a host does, perhaps twice, or the very
task that waits there. Whatever the point, no handler is left without its lease, no request has two handlers at
once, no task is left when `run` returns, and the next listener completes what is left over, long
before a lease lapses.
"""

import asyncio
import collections.abc
import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextvars import ContextVar, copy_context
from typing import Any, Literal

import pytest

from sagastream import Bus, Command, CommandListener, Handler, PlainProgress, Progress
from sagastream.testing import EmbeddedServer
from tests.faults.report import Report
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(3600)]

STREAM = "work:commands"
# So long that nothing may wait for a lease to lapse.
LEASE_S = 30.0
_WAIT_S = 0.5
Target = Literal["run", "run-twice", "task"]

_COUNTED: ContextVar["Injection | None"] = ContextVar("counted", default=None)
# Tasks of the connection, which belong to the bus and are shared with other callers.
_SHARED = ("sagastream-connect", "sagastream-inbox")


class Injection:
    """Counts the await points of a listener, and cancels at one of them.

    Attributes:
        run: The task of `run`.
        point: The number of the point.
        where: The function that waited there, '' if no task got there.
    """

    def __init__(self, point: int, target: Target) -> None:
        self.run: asyncio.Task[None] | None = None
        self.point = point
        self.where = ""
        self._target = target
        self._points = itertools.count(1)

    def count(self, name: str) -> None:
        """A task waits; cancel it, or `run`, if this is the point."""
        number = next(self._points)
        again = self._target == "run-twice" and number == self.point + 2
        if number == self.point or again:
            self.where = self.where or name
            task = asyncio.current_task() if self._target == "task" else self.run
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)


class Steps(collections.abc.Coroutine[Any, Any, Any]):
    """A coroutine whose waits are counted."""

    def __init__(self, inner: Any, injection: Injection) -> None:
        self._inner = inner
        self._injection = injection

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._inner.__await__())

    def send(self, value: Any) -> Any:
        """Run to the next wait."""
        waited_for = self._inner.send(value)
        self._injection.count(self._inner.__qualname__)
        return waited_for

    def throw(self, *args: Any) -> Any:
        """Raise in the coroutine, and run to the next wait."""
        waited_for = self._inner.throw(*args)
        self._injection.count(self._inner.__qualname__)
        return waited_for

    def close(self) -> None:
        """Close it."""
        self._inner.close()


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
    injection = _COUNTED.get()
    name = str(options.get("name") or "")
    if injection is not None and name not in _SHARED:
        coroutine = Steps(coroutine, injection)
    return asyncio.Task(coroutine, loop=loop, **options)


class Work:
    """The handlers, and how many of them run for each request."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.overlaps: list[str] = []
        self.slow_begun = asyncio.Event()
        self._lock = threading.Lock()
        self.handlers = [
            Handler(STREAM, "work:async", self._async),
            Handler(STREAM, "work:plain", self._plain),
            Handler(STREAM, "work:slow", self._slow),
            Handler(STREAM, "work:undo", self._undo),
        ]

    @contextlib.contextmanager
    def _run(self, request_id: str) -> Generator[None]:
        with self._lock:
            self.running[request_id] += 1
            self.runs[request_id] += 1
            if self.running[request_id] > 1:
                self.overlaps.append(request_id)
        try:
            yield
        finally:
            with self._lock:
                self.running[request_id] -= 1

    async def _async(self, command: Command, progress: Progress) -> None:
        with self._run(command.request_id):
            await progress(0.3)
            await asyncio.sleep(0.01)  # the work
            await progress(0.6)

    def _plain(self, command: Command, progress: PlainProgress) -> None:
        with self._run(command.request_id):
            progress(0.3)
            time.sleep(0.05)  # the work
            progress(0.6)

    async def _slow(self, command: Command, _progress: Progress) -> None:
        with self._run(command.request_id):
            self.slow_begun.set()
            await asyncio.Event().wait()

    async def _undo(self, command: Command, _progress: Progress) -> None:
        with self._run(command.request_id):
            if self.running["slow"]:
                self.overlaps.append("undo while slow runs")


async def _emit(bus: Bus, event_type: str, request_id: str) -> None:
    await bus.emit_command(STREAM, event_type=event_type, payload={}, request_id=request_id)


async def _scenario(bus: Bus, work: Work, running: "asyncio.Task[None]") -> None:
    """Let the listener handle all kinds of work; it may be cancelled at any time."""
    await _emit(bus, "work:slow", "slow")
    begun = asyncio.create_task(work.slow_begun.wait())
    await asyncio.wait({begun, running}, return_when=asyncio.FIRST_COMPLETED, timeout=_WAIT_S)
    begun.cancel()
    undoing = asyncio.create_task(
        bus.request_and_reply(STREAM, "work:undo", {}, 30, request_id="undo", supersedes=["slow"])
    )
    await _emit(bus, "work:async", "async")
    await _emit(bus, "work:plain", "plain")
    ended = asyncio.create_task(_all_ended(bus))
    await asyncio.wait({ended, running}, return_when=asyncio.FIRST_COMPLETED, timeout=2 * _WAIT_S)
    for task in (ended, undoing):
        task.cancel()
    await asyncio.wait({ended, undoing})


async def _all_ended(bus: Bus) -> None:
    for request_id in ("slow", "undo", "async", "plain"):
        await eventually(lambda: bus.outcome(request_id), within_s=30, why=f"{request_id} ended")  # noqa: B023


async def _try(url: str, point: int, target: Target) -> str:
    """Cancel at one point; returns where that was, '' if no task got there."""
    loop = asyncio.get_running_loop()
    before = set(asyncio.all_tasks())
    work, injection = Work(), Injection(point, target)
    async with (
        Bus(url, namespace=f"n{target}{point}") as bus,
        Bus(url, namespace=bus.namespace) as own,
    ):
        await bus.ping()
        await own.ping()
        listener = CommandListener(
            own, work.handlers, concurrency=2, lease_s=LEASE_S, drain_s=0.05, progress_interval_s=0
        )
        counted = copy_context()
        counted.run(_COUNTED.set, injection)
        loop.set_task_factory(_make_task)
        try:
            injection.run = loop.create_task(listener.run(), context=counted)
            await _scenario(bus, work, injection.run)
            listener.stop()
            done, _ = await asyncio.wait({injection.run}, timeout=10)
        finally:
            loop.set_task_factory(None)
        assert done, f"run does not end, cancelled at {point} in {injection.where}"
        _check_end(injection, point, before)
        async with CommandListener(own, work.handlers, lease_s=LEASE_S):
            try:
                async with asyncio.timeout(15):
                    await _all_ended(bus)
            except TimeoutError:
                raise AssertionError(
                    f"lost, cancelled at {point} in {injection.where}: {work.runs}"
                ) from None
        assert not work.overlaps, f"cancelled at {point} in {injection.where}: {work.overlaps}"
        for request_id in ("undo", "async", "plain"):
            outcome = await bus.outcome(request_id)
            assert outcome is not None
            assert outcome["status"] == "completed", (point, injection.where, outcome)
        keys = await bus.command("KEYS", bus.key("*"))
        await bus.command("DEL", *keys)
    return injection.where


def _check_end(injection: Injection, point: int, before: set["asyncio.Task[Any]"]) -> None:
    """No task is left, and `run` ended as it should."""
    assert injection.run is not None
    left = [
        task
        for task in asyncio.all_tasks() - before
        if not task.get_name().startswith(_SHARED) and not task.done()
    ]
    assert not left, f"left, cancelled at {point} in {injection.where}: {left}"
    if not injection.run.cancelled() and (error := injection.run.exception()):
        raise AssertionError(f"cancelled at {point} in {injection.where}") from error


@pytest.mark.invariant(5)
@pytest.mark.parametrize("target", ["run", "run-twice", "task"])
async def test_a_cancellation_at_any_await_point_breaks_no_guarantee(
    store: EmbeddedServer, report: Report, is_long: bool, target: Target
) -> None:
    """Points are tried until the listener no longer gets there; the short form tries some."""
    row = report.row(f"listener cancelled at each await point ({target})")
    for point in itertools.count(1, 1 if is_long else 3):
        where = await _try(store.url, point, target)
        if not where:
            break
        row.tries += 4
        row.points[where] += 1
    assert row.tries > 40, "the points are counted"
