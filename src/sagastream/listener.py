"""`CommandListener`: read commands, run their handlers, write every stage.

It reads no more commands than it has free slots. When it is stopped it drains: no new read
begins, and commands that were read are finished.
"""

import asyncio
import contextlib
import logging
import signal
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sagastream._codec.validation import check_name
from sagastream._redis.retrying import backoff_delays, end_tasks, is_group_gone
from sagastream._worker.announcer import Announcer
from sagastream._worker.claim import ClaimOptions
from sagastream._worker.consumer import StreamConsumer
from sagastream._worker.dispatcher import Dispatcher
from sagastream._worker.lease import LeaseKeeper
from sagastream.bus import Bus
from sagastream.errors import SagastreamError, ServerError
from sagastream.handlers import Handler, registry

logger = logging.getLogger(__name__)


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

    Raises:
        RegistrationError: The handlers cannot be served together.
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
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self._bus = bus
        self._handlers = registry(handlers)
        self._concurrency = concurrency
        self._drain_s = drain_s
        self._options = ClaimOptions(
            group=check_name("group", group),
            consumer=f"{group}-{uuid.uuid4()}",
            lease_s=lease_s,
            max_deliveries=max_deliveries,
            progress_interval_s=progress_interval_s,
        )
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._slot_freed = asyncio.Event()

    def stop(self) -> None:
        """Begin no new read, finish the commands that were read; then `run` returns. Idempotent."""
        self._stopping.set()
        self._slot_freed.set()

    async def run(self) -> None:
        """Listen until `stop`, or SIGTERM or SIGINT when this is the main thread.

        Raises:
            ServerUnavailable: The server cannot be reached at the start. Once running,
                the listener waits for a server that is unavailable.
        """
        options, session = self._options, self._bus.session()
        streams = sorted({stream for stream, _ in self._handlers})
        keeper = LeaseKeeper(
            self._bus.url,
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
        threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="handler")
        announcer = Announcer(session, self._handlers, options.consumer)
        dispatcher = Dispatcher(
            session,
            self._handlers,
            options,
            keeper=keeper,
            threads=threads,
            on_forward=consumer.pause,
        )
        await self._bus.ping()
        await consumer.make_groups()
        await announcer.announce()
        keeper.start()
        announcing = asyncio.create_task(announcer.keep_announcing())
        reading = asyncio.create_task(self._read(consumer, dispatcher))
        stopping = asyncio.create_task(self._stopping.wait())
        with self._signals():
            logger.info("listening", extra={"streams": streams, "concurrency": self._concurrency})
            try:
                await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()
                await announcer.withdraw()
                await self._drain()
            finally:
                await end_tasks(announcing, reading, stopping)
                keeper.stop()
                threads.shutdown(wait=False, cancel_futures=True)
                await announcer.withdraw()
        logger.info("stopped", extra={"unfinished": len(self._running)})

    async def _read(self, consumer: StreamConsumer, dispatcher: Dispatcher) -> None:
        delays = iter(backoff_delays())
        while not self._stopping.is_set():
            free = self._concurrency - len(self._running)
            if free <= 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
                continue
            try:
                for delivery in await consumer.read(free):
                    task = asyncio.create_task(dispatcher.dispatch(delivery))
                    self._running.add(task)
                    task.add_done_callback(self._finished)
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

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slot_freed.set()
        if not task.cancelled() and task.exception():
            # There was no ack: the command stays pending.
            logger.error("a command could not be handled", exc_info=task.exception())

    async def _drain(self) -> None:
        if self._running:
            logger.info("draining", extra={"running": len(self._running)})
            await asyncio.wait(set(self._running), timeout=self._drain_s)
        await end_tasks(*self._running)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        installed = []
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may handle signals; elsewhere the host calls stop().
            with contextlib.suppress(RuntimeError, ValueError):
                loop.add_signal_handler(number, self.stop)
                installed.append(number)
        try:
            yield
        finally:
            for number in installed:
                loop.remove_signal_handler(number)
