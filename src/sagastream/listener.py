"""`CommandListener`: read commands, run their handlers, write every stage.

It reads no more commands than it has free slots. When it is stopped it drains: no new read
begins, and commands that were read are finished.
"""

import asyncio
import contextlib
import logging
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from sagastream._codec.validation import check_name
from sagastream._handlers.injection import Injector
from sagastream._redis.deadline import Deadline
from sagastream._redis.retrying import backoff_delays, end_tasks, is_group_gone, uninterrupted
from sagastream._schedules.schedule import Schedule
from sagastream._worker.announcer import Announcer
from sagastream._worker.consumer import Delivery, StreamConsumer
from sagastream._worker.dispatcher import Dispatcher
from sagastream._worker.lease import ClaimOptions, LeaseKeeper
from sagastream._worker.scheduler import Scheduler
from sagastream._worker.slots import Slot, Slots
from sagastream._worker.threads import HandlerThreads
from sagastream.bus import Bus
from sagastream.dependencies import LifespanContext, Middleware
from sagastream.errors import SagastreamError, ServerError
from sagastream.handlers import Handler, declared_schedules, registry
from sagastream.retention import Retention

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How long a listener that stops waits for the server, in seconds.
_LEAVE_S = 1.0


class CommandListener:
    """Runs handlers for the commands of their streams.

    Args:
        bus: The server.
        handlers: The handlers; two for one (stream, event type) are an error.
        concurrency: How many commands are handled at once. Give at least as many as there
            are streams: with fewer, the streams are read in turn.
        group: The consumer group; the listeners of one group share the work.
        lease_s: How long a claim lasts without renewal, in seconds. A handler that dies is
            replaced after about this time; one that lives keeps its claim however long it
            takes.
        max_deliveries: How many handlers a command may lose before it becomes a dead letter.
        progress_interval_s: Progress that comes faster is coalesced: the newest wins.
        drain_s: How long `stop` lets running handlers continue before it cancels them, in
            seconds. A cancelled handler writes no reply, and its command stays pending.
        retention: How long results are kept; None for what the bus says. Handlers can have their
            own.
        lifespan: An async context manager, or a function that makes one and may take this
            listener. It is entered before the first command is read and left after the last one
            has ended; a handler gets its value as `Annotated[…, Lifespan]`.
        overrides: Functions that replace those of `Depends`, for tests.
        middleware: Async functions that get a command and `call_next` and return the result of
            `await call_next(command)`; the first is the outermost.
        schedules: Schedules that it sets at its start, besides those of its handlers. Every
            listener of a stream fires the schedules of the stream.
        tracebacks: Whether a failed reply has the last frames of the handler's code. Requesters
            see them.

    Raises:
        RegistrationError: The handlers cannot be served together, or a dependency of one cannot
            be resolved.
    """

    def __init__(
        self,
        bus: Bus,
        handlers: Iterable[Handler],
        *,
        concurrency: int = 64,
        group: str = "sagastream",
        lease_s: float = 10.0,
        max_deliveries: int = 5,
        progress_interval_s: float = 0.05,
        drain_s: float = 30.0,
        retention: Retention | None = None,
        lifespan: LifespanContext | None = None,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        middleware: Sequence[Middleware] = (),
        schedules: Iterable[Schedule] = (),
        tracebacks: bool = True,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self._bus = bus
        self._handlers = registry(handlers)
        self._schedules = declared_schedules(self._handlers.values(), schedules)
        self._injector = Injector(lifespan, overrides or {}, middleware)
        for handler in self._handlers.values():
            self._injector.plan(handler)
        self._concurrency = concurrency
        self._drain_s = drain_s
        self._options = ClaimOptions(
            group=check_name("group", group),
            consumer=f"{group}-{uuid.uuid4()}",
            lease_s=lease_s,
            max_deliveries=max_deliveries,
            progress_interval_s=progress_interval_s,
            retention=retention or bus.retention,
            tracebacks=tracebacks,
        )
        self._is_running = False
        self._is_ready = False
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    @property
    def is_listening(self) -> bool:
        """Whether it reads commands: it has started, and is not stopping."""
        return self._is_ready and not self._stopping.is_set()

    def stop(self) -> None:
        """Begin no new read, finish the commands that were read; then `run` returns. Idempotent."""
        self._stopping.set()

    async def run(self, *, handle_signals: bool = False) -> None:
        """Listen until `stop`.

        Signals belong to the host of the listener. If it is cancelled, its handlers are cancelled
        too, and their commands given back.

        Args:
            handle_signals: Stop at SIGTERM or SIGINT; a second one cancels the handlers that
                still run. For a program that does nothing else.

        Raises:
            ServerUnavailable: The server cannot be reached at the start. Once running,
                the listener waits for a server that is unavailable.
            RuntimeError: It runs already, or signals are to be handled outside the main thread.
        """
        await self._run(asyncio.Event(), handle_signals=handle_signals)

    async def __aenter__(self) -> Self:
        """Listen in the background for as long as the context lasts.

        Raises:
            ServerUnavailable: The server cannot be reached.
        """
        ready = asyncio.Event()
        self._serving = asyncio.create_task(self._run(ready), name="sagastream-listener")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({self._serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await uninterrupted(end_tasks(self._serving))
            raise
        finally:
            await end_tasks(waiting)
        if self._serving.done():
            self._serving.result()
        self._serving.add_done_callback(_log_failure)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and wait until the handlers have ended. A cancellation cancels them."""
        assert self._serving is not None
        self.stop()
        try:
            await asyncio.shield(self._serving)
        except asyncio.CancelledError:
            await uninterrupted(end_tasks(self._serving))
            raise

    async def _run(self, ready: asyncio.Event, *, handle_signals: bool = False) -> None:
        if self._is_running:
            raise RuntimeError("the listener runs already; make another one")
        self._is_running = True
        try:
            with self._signals() if handle_signals else contextlib.nullcontext():
                await self._serve(ready)
        except BaseExceptionGroup as errors:
            error: BaseException = errors
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]  # a group of one says no more than its member
            raise error from error.__cause__
        finally:
            self._is_running = self._is_ready = False
            self._stopping.clear()
            self._hurrying.clear()

    async def _serve(self, ready: asyncio.Event) -> None:
        await self._bus.ping()
        async with self._injector.entered(self):
            await self._listen(ready)

    async def _listen(self, ready: asyncio.Event) -> None:
        """One tree of tasks: the reader ends first, then the handlers, then the lease's keeper."""
        options, session = self._options, self._bus.session()
        streams = sorted({stream for stream, _ in self._handlers})
        keeper = LeaseKeeper(
            session.options.servers,
            wakeup_list=session.options.key(f"listener:{options.consumer}"),
            group=options.group,
            consumer=options.consumer,
            lease_s=options.lease_s,
        )
        consumer = StreamConsumer(
            session,
            streams,
            group=options.group,
            consumer=options.consumer,
            lease_s=options.lease_s,
            keeper=keeper,
        )
        slots, threads = Slots(self._concurrency), HandlerThreads()
        scheduler = Scheduler(session, streams, self._schedules)
        announcer = Announcer(session, self._handlers, options.consumer, on_due=scheduler.note_due)
        dispatcher = Dispatcher(
            session,
            self._handlers,
            options,
            keeper=keeper,
            threads=threads,
            injector=self._injector,
            on_forward=consumer.pause,
            on_postponed=consumer.sweep_in,
        )
        await consumer.make_groups()
        keeper.start()
        try:
            async with asyncio.TaskGroup() as handlers:
                running = Running(handlers, dispatcher, slots)
                try:
                    await scheduler.declare()
                    await announcer.announce()
                    logger.info("listening", extra={"streams": streams})
                    self._is_ready = True
                    ready.set()
                    await self._read_until_stopped(announcer, scheduler, consumer, running)
                finally:
                    await uninterrupted(announcer.withdraw(Deadline(_LEAVE_S)))
                await self._drain(running)
        finally:
            await uninterrupted(consumer.give_back(dispatcher.handed_over, Deadline(_LEAVE_S)))
            threads.close()
            keeper.close()
            if dispatcher.handed_over:
                await uninterrupted(self._wake(keeper.wakeup_list))
        logger.info("stopped")

    async def _read_until_stopped(
        self,
        announcer: Announcer,
        scheduler: Scheduler,
        consumer: StreamConsumer,
        running: "Running",
    ) -> None:
        """Read commands until `stop`; commands that the last read has got are handled."""
        async with asyncio.TaskGroup() as group:
            announcing = group.create_task(announcer.keep_announcing())
            firing = group.create_task(scheduler.keep_firing())
            reading = group.create_task(self._read(consumer, running))
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            deadline, was_reading = Deadline(_LEAVE_S), consumer.is_reading
            await consumer.end(deadline)
            if was_reading:
                await asyncio.wait({reading}, timeout=deadline.left_s)
            await end_tasks(announcing, firing, stopping, reading)

    async def _read(self, consumer: StreamConsumer, running: "Running") -> None:
        delays = iter(backoff_delays())
        while not self._stopping.is_set():
            if not running.slots.free:
                await running.slots.wait()
                continue
            try:
                for delivery in await consumer.read(running.slots.free):
                    running.begin(delivery)
                delays = iter(backoff_delays())
            except ServerError as error:
                if not is_group_gone(error):
                    logger.exception("commands cannot be read; trying again")
                await asyncio.sleep(next(delays))
                with contextlib.suppress(SagastreamError):
                    await consumer.make_groups()
            except SagastreamError as error:
                # The server is unavailable, or takes no writes, for longer than a call waits.
                self._bus.session().connection.note_loss(error)
                await asyncio.sleep(next(delays))

    async def _drain(self, running: "Running") -> None:
        """Wait for the handlers, at most for `drain_s`, then cancel those that still run."""
        if not running.tasks:
            return
        logger.info("draining", extra={"running": len(running.tasks)})
        hurrying = asyncio.create_task(self._hurrying.wait())
        drained = asyncio.create_task(running.ended())
        try:
            await asyncio.wait(
                {drained, hurrying}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await uninterrupted(end_tasks(drained, hurrying))
        await end_tasks(*running.tasks)

    async def _wake(self, wakeup_list: str) -> None:
        """Wake the keeper's thread, so that it notices at once when a handler's thread ends."""
        connection, deadline = self._bus.session().connection, Deadline(_LEAVE_S)
        with contextlib.suppress(SagastreamError):
            await connection.call("RPUSH", wakeup_list, "1", deadline=deadline)
            await connection.call("EXPIRE", wakeup_list, 60, deadline=deadline)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._hurrying.set()
        self.stop()


class Running:
    """The deliveries that a listener handles now; the same entry never has two tasks.

    Args:
        group: The tasks belong to it.
        dispatcher: Handles a delivery.
        slots: How many it may handle at once.
    """

    def __init__(self, group: asyncio.TaskGroup, dispatcher: Dispatcher, slots: Slots) -> None:
        self.slots = slots
        self._group = group
        self._dispatcher = dispatcher
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    @property
    def tasks(self) -> set["asyncio.Task[None]"]:
        """The tasks that handle them."""
        return {task for task in self._tasks.values() if not task.done()}

    def begin(self, delivery: Delivery) -> None:
        """Handle a delivery, unless its entry is being handled."""
        entry = (delivery.stream, delivery.entry_id)
        if entry in self._tasks and not self._tasks[entry].done():
            return
        slot = Slot(self.slots)
        self._tasks[entry] = self._group.create_task(self._handle(entry, delivery, slot))

    async def _handle(self, entry: tuple[str, str], delivery: Delivery, slot: Slot) -> None:
        try:
            await self._dispatcher.dispatch(delivery, slot)
        finally:
            del self._tasks[entry]

    async def ended(self) -> None:
        """Wait until none is left."""
        while tasks := self.tasks:
            await asyncio.wait(tasks)


def _log_failure(serving: "asyncio.Task[None]") -> None:
    if not serving.cancelled() and serving.exception():
        logger.critical("the listener has ended", exc_info=serving.exception())
