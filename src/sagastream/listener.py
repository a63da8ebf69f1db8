"""`CommandListener`: read commands, run their handlers, write every stage.

It takes in never more than it has free slots, and routes by event type. Stopping drains: no
new read begins, what was read is finished. The reading itself stands in `intake.py`.
"""

import asyncio
import contextlib
import logging
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from sagastream._client.emit import stage_fields
from sagastream._codec.entries import decode_command, decode_fields
from sagastream._codec.validation import check_name
from sagastream._functions.batcher import Answer
from sagastream._redis.backoff import backoff_delays, end_tasks
from sagastream._redis.connection import is_group_gone
from sagastream._telemetry import metrics, spans
from sagastream._telemetry.operations import place
from sagastream._worker.claim import Claim, failure
from sagastream._worker.consumer import StreamConsumer
from sagastream._worker.lease import LeaseKeeper
from sagastream.bus import Bus
from sagastream.errors import InvalidMessage, LeaseLost, SagastreamError, ServerError, WriteConflict
from sagastream.handlers import Handler, registry, run_handler
from sagastream.message import Command

logger = logging.getLogger(__name__)

ANNOUNCE_TTL_S = 10.0
_MOST_RUNS = 100


class CommandListener:
    """Runs handlers for the commands of their streams.

    Args:
        bus: Where the streams are.
        handlers: What is handled; two for one (stream, event type) are an error.
        concurrency: How many commands are handled at once. Give at least as many as there
            are streams: with fewer, the streams are read in turn.
        group: The consumer group; listeners of one group share the work.
        lease_s: How long a claim lasts without renewal. A handler that dies is replaced
            after about so long; one that lives keeps its claim however long it takes.
        max_deliveries: How many handlers a command may lose before it becomes a dead letter.
        progress_interval_s: Progress that comes faster is coalesced: the newest wins.
        drain_s: How long `stop` lets running handlers go on before it cancels them; a
            cancelled one writes no reply, its command stays pending.

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
        self._streams = sorted({stream for stream, _ in self._handlers})
        self._group = check_name("group", group)
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._max_deliveries = max_deliveries
        self._progress_interval_s = progress_interval_s
        self._drain_s = drain_s
        self._owner = f"{group}-{uuid.uuid4()}"
        self._keeper = LeaseKeeper(
            bus.url,
            wakeup_list=bus.key(f"listener:{self._owner}"),
            group=group,
            owner=self._owner,
            lease_s=lease_s,
        )
        self._intake = StreamConsumer(
            bus,
            self._streams,
            group=group,
            owner=self._owner,
            lease_s=lease_s,
            keeper=self._keeper,
        )
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._freed = asyncio.Event()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="handler")

    def stop(self) -> None:
        """Begin no new read, finish what was read; then `run` returns. Safe to call twice."""
        self._stopping.set()
        self._freed.set()

    async def run(self) -> None:
        """Listen until `stop`, or SIGTERM or SIGINT when this is the main thread.

        Raises:
            ServerUnavailable: The server cannot be reached at the start. Once running,
                the listener waits for a server that went away.
        """
        await self._bus.ping()
        await self._intake.make_groups()
        await self._announce(ANNOUNCE_TTL_S)
        self._keeper.start()
        announcing = asyncio.create_task(self._keep_announcing())
        reading = asyncio.create_task(self._read())
        stopping = asyncio.create_task(self._stopping.wait())
        with self._signals():
            logger.info(
                "listening",
                extra={"streams": self._streams, "concurrency": self._concurrency},
            )
            try:
                await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()
                await self._drain()
            finally:
                await end_tasks(announcing, reading, stopping)
                self._keeper.stop()
                self._threads.shutdown(wait=False, cancel_futures=True)
                with contextlib.suppress(SagastreamError):
                    await self._announce(0)
        logger.info("stopped", extra={"unfinished": len(self._running)})

    # -- reading ----------------------------------------------------------------

    async def _read(self) -> None:
        delays = iter(backoff_delays())
        while not self._stopping.is_set():
            free = self._concurrency - len(self._running)
            if free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                deliveries, again = await self._intake.next(free)
                for stream, entry_id, raw in deliveries:
                    task = asyncio.create_task(self._handle(stream, entry_id, raw, again=again))
                    self._running.add(task)
                    task.add_done_callback(self._finished)
                delays = iter(backoff_delays())
            except ServerError as error:
                if not is_group_gone(error):
                    logger.exception("commands cannot be read; trying again")
                await asyncio.sleep(next(delays))
                with contextlib.suppress(SagastreamError):
                    await self._intake.make_groups()
            except SagastreamError as error:
                # The server is away, or takes no writes, for longer than a call waits.
                self._bus.session().connection.note_loss(error)
                await asyncio.sleep(next(delays))

    # -- handling ---------------------------------------------------------------

    async def _handle(
        self, stream: str, entry_id: str, raw: Mapping[bytes, bytes], *, again: bool
    ) -> None:
        try:
            command = decode_command(
                raw, stream=stream, entry_id=entry_id, max_bytes=self._bus.max_payload
            )
        except InvalidMessage as error:
            await self._reject(stream, entry_id, raw, error)
            return
        claim = Claim(
            self._bus,
            command,
            raw,
            group=self._group,
            owner=self._owner,
            lease_s=self._lease_s,
            max_deliveries=self._max_deliveries,
            progress_interval_s=self._progress_interval_s,
            again=again,
        )
        handler = self._handlers.get((stream, command.event_type))
        known: tuple[str, ...] = ()
        if handler is None:
            answer = await self._forward(command, raw)
            if answer.word == "passed":
                return
            known = answer.rest
        try:
            if not await claim.begin():
                return
        except InvalidMessage as error:
            await self._reject(stream, entry_id, raw, error)
            return
        claim.enter(handled=handler is not None)
        try:
            if handler is None:
                await claim.fail(
                    "UnknownEventType",
                    f"no live listener handles {command.event_type} on {stream} "
                    f"(handled there: {', '.join(known) or 'nothing'})",
                )
            elif claim.effect not in {"", handler.effect}:
                await claim.fail(
                    "EffectMismatch",
                    f"{command.event_type} must be {claim.effect}, and {handler.place} "
                    f"declares {handler.effect}",
                )
            elif claim.expired:
                await claim.fail("DeadlineExceeded", "the deadline had passed before it began")
            else:
                await self._run(handler, claim)
        finally:
            claim.leave()

    async def _forward(self, command: Command, raw: Mapping[bytes, bytes]) -> Answer:
        """Leave a command to a listener that can handle it, if there is one."""
        fields = dict(raw)
        fields.setdefault(b"request_id", command.request_id.encode())
        self._intake.pause()
        return await self._bus.session().functions.forward(
            self._bus.key(command.stream),
            self._announcements(command.stream),
            self._bus.key(f"request:{command.request_id}"),
            group=self._group,
            entry_id=command.entry_id,
            event_type=command.event_type,
            fields=[part for pair in fields.items() for part in pair],
        )

    async def _run(self, handler: Handler, claim: Claim) -> None:
        try:
            claim.keep(self._keeper)
            try:
                await self._until_written(handler, claim)
            finally:
                claim.let_go(self._keeper)
        except asyncio.CancelledError:
            await self._ended_early(claim)
        except LeaseLost as error:
            logger.warning("%s", error, extra=claim.ids)
            await claim.lose()
        except Exception as error:
            logger.info("handler failed", exc_info=error, extra=claim.ids)
            await claim.fail(type(error).__name__, str(error))

    async def _until_written(self, handler: Handler, claim: Claim) -> None:
        """Run a handler; again if what an atomic one read has changed meanwhile."""
        delays = backoff_delays(first=0.005, limit=0.2)
        for _, delay_s in zip(range(_MOST_RUNS), delays, strict=False):
            outcome = await run_handler(
                handler,
                claim.command,
                claim.progress,
                self._in_thread,
                lambda: claim.ending is not None,
            )
            if await claim.complete(outcome):
                return
            await asyncio.sleep(delay_s)
        raise WriteConflict(_MOST_RUNS)

    async def _ended_early(self, claim: Claim) -> None:
        if claim.ending is None:
            # A shutdown writes no terminal stage: the command stays pending for the next.
            with contextlib.suppress(SagastreamError):
                await claim.release()
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        if claim.ending == "lost":
            logger.warning("lease lost; the handler was stopped", extra=claim.ids)
            await claim.lose()
        elif claim.ending == "cancelled":
            await claim.cancel()
        else:
            await claim.fail("DeadlineExceeded", "the deadline passed while it ran")

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, context.run, function
        )

    async def _reject(
        self,
        stream: str,
        entry_id: str,
        raw: Mapping[bytes, bytes],
        error: InvalidMessage,
    ) -> None:
        """Put an entry that is no command among the dead letters; tell who asked, if it says."""
        logger.warning("%s %s is no command: %s", stream, entry_id, error)
        reply: dict[str, str] = {}
        ids = {"request_id": "", "correlation_id": "", "saga_id": "", "reply_stream": ""}
        for name in ids:
            with contextlib.suppress(InvalidMessage, KeyError):
                value = decode_fields({b"": raw[name.encode()]})[""]
                ids[name] = check_name(name, value)
        if ids["request_id"] and ids["reply_stream"]:
            reply = stage_fields(ids, "failed", failure("InvalidMessage", str(error)))
        letter: list[bytes | str] = [part for pair in raw.items() for part in pair]
        letter += ["dead_reason", f"InvalidMessage: {error}", "dead_entry_id", entry_id]
        session = self._bus.session()
        about = ids | {"entry_id": entry_id, "group": self._group}
        with spans.settling("reject", session.server, stream, about):
            await session.functions.reject(
                self._bus.key(stream),
                self._bus.key(f"{stream}:dead"),
                self._bus.key(f"request:{ids['request_id']}"),
                self._bus.key(ids["reply_stream"] or "replies:"),
                group=self._group,
                entry_id=entry_id,
                letter=letter,
                reply=reply,
            )
        at = place("reject", "settle", session.server, stream, self._group)
        metrics.died(at.series, "InvalidMessage")

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._freed.set()
        if not task.cancelled() and task.exception():
            # Not acked: the command stays pending.
            logger.error("a command could not be handled", exc_info=task.exception())

    # -- being there ------------------------------------------------------------

    def _announcements(self, stream: str) -> str:
        return self._bus.key(f"listeners:{stream}")

    async def _announce(self, ttl_s: float) -> None:
        await self._bus.session().functions.announce(
            [
                (self._announcements(stream), f"{event_type}\n{self._owner}")
                for stream, event_type in sorted(self._handlers)
            ],
            ttl_ms=round(ttl_s * 1000),
        )

    async def _keep_announcing(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_TTL_S / 3)
            try:
                await self._announce(ANNOUNCE_TTL_S)
            except SagastreamError as error:
                logger.debug("not announced: %s", error)

    async def _drain(self) -> None:
        with contextlib.suppress(SagastreamError):
            await self._announce(0)
        if self._running:
            logger.info("draining", extra={"running": len(self._running)})
            await asyncio.wait(set(self._running), timeout=self._drain_s)
        await end_tasks(*self._running)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        taken = []
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may take signals; elsewhere the embedder calls stop().
            with contextlib.suppress(RuntimeError, ValueError):
                loop.add_signal_handler(number, self.stop)
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)
