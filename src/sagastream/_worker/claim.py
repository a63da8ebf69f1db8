"""A claim: one handler's right to one request, from begin to its terminal stage.

Every write carries the claim's token, and the server refuses those of a claim that is
no longer the current one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, set_span_in_context

from sagastream._codec.entries import decode_fields
from sagastream._codec.payload import decode_payload, encode_payload
from sagastream._codec.validation import new_id
from sagastream._functions.batcher import Answer
from sagastream._telemetry import metrics, spans
from sagastream._worker.lease import LeaseKeeper
from sagastream.bus import Bus, claim_token
from sagastream.effects import Atomic, Write
from sagastream.errors import InvalidMessage, LeaseLost, SagastreamError
from sagastream.handlers import progress_payload
from sagastream.message import Command

logger = logging.getLogger(__name__)

_MESSAGE_LIMIT = 2000
_LOOK_AGAIN_S = 0.1

# Why a handler is told to stop: its lease is lost, somebody cancelled, time is up.
Ending = Literal["lost", "cancelled", "deadline"]


class Claim:
    """One handler's right to one request.

    Args:
        bus: Where the request is.
        command: The command, as delivered.
        raw: Its entry.
        group: The consumer group that it was delivered to.
        owner: The listener.
        lease_s: How long the claim lasts without renewal, in seconds.
        max_deliveries: How many handlers may be lost before the request is given up.
        progress_interval_s: Progress that comes faster is coalesced: the newest wins.
        again: It was delivered before, to a listener that is gone.

    Attributes:
        command: The command, with the epoch once it is claimed.
        ending: Why the handler has been told to stop, None if it has not.
        effect: The policy that whoever asked wants the handler to declare, '' for any.
        record: The key of the request's record.
        stream: The key of the command stream.
        entry_id: The command's entry.
        token: Of this claim alone.
    """

    def __init__(
        self,
        bus: Bus,
        command: Command,
        raw: Mapping[bytes, bytes],
        *,
        group: str,
        owner: str,
        lease_s: float,
        max_deliveries: int,
        progress_interval_s: float,
        again: bool,
    ) -> None:
        self.command = command
        self.ending: Ending | None = None
        self.effect = ""
        self._finishing = False
        self._left_s: float | None = None
        self.ids = {
            "request_id": command.request_id,
            "correlation_id": command.correlation_id,
            "saga_id": command.saga_id,
            "event_type": command.event_type,
        }
        self._about = self.ids | {
            "traceparent": command.traceparent,
            "tracestate": command.tracestate,
            "entry_id": command.entry_id,
            "group": group,
        }
        session = bus.session()
        self._server = session.server
        self.span: Span = spans.processing(self._server, command.stream, self._about, again=again)
        self._series = spans.processing_at(self._server, command.stream, self._about).series
        self._error_type = ""
        self._is_told = False
        self._bus = bus
        self._functions = session.functions
        self._raw = raw
        self._group = group
        self._owner = owner
        self._lease_ms = round(lease_s * 1000)
        self._max_deliveries = max_deliveries
        self._progress_interval_s = progress_interval_s
        self.token = new_id()
        self._seq = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._waiting: tuple[float, str, spans.Trace] | None = None
        self._told = -progress_interval_s
        self._teller: asyncio.Task[None] | None = None
        self._retention_ms = round(bus.retention_s * 1000)
        self.record = bus.key(f"request:{command.request_id}")
        self.stream = bus.key(command.stream)
        self.entry_id = command.entry_id

    def enter(self, *, handled: bool) -> None:
        """Let `emit_event` know that this claim's stages may be written here, and trace it.

        `handled` tells whether its event type is one that somebody handles. `leave` ends it.
        """
        self._counts_as = self.command.event_type if handled else "_OTHER"
        about = {name: value for name, value in self.ids.items() if value}
        self._tokens = (
            claim_token.set(self.token),
            attach(set_span_in_context(self.span)),
            spans.belonging.set({**spans.belonging.get(), **about, "attempt": self.command.epoch}),
        )
        self._started = time.perf_counter()

    def leave(self) -> None:
        """End what `enter` began."""
        token, context, belonging = self._tokens
        spans.belonging.reset(belonging)
        detach(context)
        claim_token.reset(token)
        seconds = time.perf_counter() - self._started
        metrics.processed(self._series, seconds, self._counts_as, self._error_type)
        if not self._is_told:
            self.span.end()

    async def begin(self) -> bool:
        """Take the request and write `start`; False if it is another's, or has ended.

        Raises:
            InvalidMessage: The request id is known with another payload.
        """
        command = self.command
        self._trace = spans.trace_of(self.span)
        while True:
            answer = await self._ask()
            if answer.word == "unknown":
                answer = await self._adopt()
                if answer.word == "adopted":
                    continue
            if answer.word != "wait":
                break
            # What this takes the place of is being stopped.
            await asyncio.sleep(min(int(answer.rest[0]) / 1000, _LOOK_AGAIN_S))
        if answer.word == "conflict":
            raise InvalidMessage("request_id", "is known with another payload or event type")
        if answer.word != "claimed":
            if answer.word == "done":
                self._tell_of_lost(*answer.rest[1:])
            logger.info("not begun: %s %s", answer.word, answer.rest[0], extra=self.ids)
            return False
        epoch, now, self.effect, last, lost = answer.rest
        # Nobody else has seen it yet; a copy of it would cost as much as all of the rest here.
        object.__setattr__(command, "epoch", int(epoch))
        object.__setattr__(command, "last_progress", self._decoded(last))
        self._tell_of_lost(lost)
        self.span.set_attribute("sagastream.attempt", self.command.epoch)
        self.span.add_event("start")
        metrics.consumed(self._series, 1)
        if self.command.epoch > 1:
            metrics.redelivered(self._series)
        logger.info("request started", extra=self.ids | {"attempt": self.command.epoch})
        if command.deadline is not None:
            self._left_s = (command.deadline - int(now)) / 1000
        return True

    def _tell_of_lost(self, lost: str, word: str = "") -> None:
        if lost:
            stream = self.command.stream
            why = "its handler was lost" + ("; it is given up" if word == "dead" else "")
            spans.tell_of_lost(self._server, stream, self._about, lost, why)
        if word == "dead":
            metrics.died(self._series, "HandlerLost")

    def _decoded(self, progress: str) -> dict[str, Any]:
        return decode_payload(progress, max_bytes=self._bus.max_payload) if progress else {}

    def _ask(self) -> "asyncio.Future[Answer]":
        return self._functions.begin(
            self.record,
            self.stream,
            group=self._group,
            entry_id=self.entry_id,
            owner=self._owner,
            token=self.token,
            lease_ms=self._lease_ms,
            retention_ms=self._retention_ms,
            max_deliveries=self._max_deliveries,
            trace=self._trace,
        )

    async def _adopt(self) -> Answer:
        command = self.command
        ids = {"request_id": command.request_id, "correlation_id": command.correlation_id}
        return await self._functions.adopt(
            self.record,
            self.stream,
            decode_fields(self._raw) | ids,
            group=self._group,
            entry_id=command.entry_id,
            retention_ms=self._retention_ms,
            reply_streams=self._bus.reply_streams(command.reply_stream, command.saga_id),
        )

    def keep(self, keeper: LeaseKeeper) -> None:
        """Renew the lease, and cancel the current task when it has to end early.

        `ending` then says why. A deadline that has passed already ends it before it runs.
        `let_go` ends it.
        """
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        keeper.keep(self)
        if self._left_s is not None:
            self._alarm = self._loop.call_later(max(0.0, self._left_s), self._end, "deadline")

    def let_go(self, keeper: LeaseKeeper) -> None:
        """Renew the lease no longer, and do not cancel the task any more."""
        if self._alarm:
            self._alarm.cancel()
        keeper.drop(self.token)

    def on_lost(self) -> None:
        """The keeper's word, from its thread: the lease is lost."""
        self._end_from_thread("lost")

    def on_cancel(self) -> None:
        """The keeper's word, from its thread: somebody cancelled the request."""
        self._end_from_thread("cancelled")

    def _end_from_thread(self, why: Ending) -> None:
        # The loop may be closed by now, with nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, why)

    def _end(self, why: Ending) -> None:
        if why == "lost" and self._finishing:
            return  # its own end may be what the renewal met: the answer to that tells
        if self.ending is None and self._task is not None and not self._task.done():
            self.ending = why
            self._task.cancel()

    @property
    def expired(self) -> bool:
        """Whether the deadline had passed when it was claimed."""
        return self._left_s is not None and self._left_s <= 0

    async def progress(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Raises:
            InvalidMessage: An argument is not what it must be.
            LeaseLost: The request is no longer ours.
        """
        payload = encode_payload(
            progress_payload(fraction, detail), field="detail", max_bytes=self._bus.max_payload
        )
        if self.ending == "lost":
            raise LeaseLost(self.command.request_id, "another's")
        self._waiting = (fraction, payload, spans.trace_of())
        due_s = self._told + self._progress_interval_s - asyncio.get_running_loop().time()
        if due_s <= 0:
            await self._tell()
        elif self._teller is None:
            self._teller = asyncio.create_task(self._tell_later(due_s))

    async def _tell_later(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._teller = None
        # A lost lease is noticed by whoever writes next, or by its renewal.
        with contextlib.suppress(LeaseLost):
            await self._tell()

    async def _tell(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        fraction, payload, trace = waiting
        self._told = asyncio.get_running_loop().time()
        self._seq += 1
        answer = await self._functions.progress(
            self.record, self.stream, payload, token=self.token, seq=self._seq, trace=trace
        )
        if answer.word == "stale":
            raise LeaseLost(self.command.request_id, answer.rest[0])
        self.span.add_event("progress", {"sagastream.fraction": fraction})

    async def complete(self, outcome: Atomic) -> bool:
        """Write `completed` with the result, and the handler's own writes with it.

        Returns:
            Whether that was done: False if something is no longer as the handler read it.

        Raises:
            InvalidMessage: The result is no payload.
            LeaseLost: The request is no longer ours.
        """
        payload = encode_payload(outcome.result, field="result", max_bytes=self._bus.max_payload)
        return await self._finish("completed", payload, outcome.writes)

    async def fail(self, error_type: str, message: str) -> None:
        """Write `failed`; a lost lease is only logged, as nobody is left to tell."""
        self._failed(error_type, message)
        await self._end_as("failed", failure(error_type, message))

    def _failed(self, error_type: str, message: str) -> None:
        self._error_type = error_type
        spans.fail(self.span, error_type, message)

    async def cancel(self) -> None:
        """Write `cancelled`; a lost lease is only logged."""
        await self._end_as("cancelled", "{}")

    async def _end_as(self, status: str, payload: str) -> None:
        try:
            await self._finish(status, payload)
        except LeaseLost as error:
            logger.warning("%s", error, extra=self.ids)
            await self.release()

    async def release(self) -> None:
        """Give the request back without an outcome, for the next listener to take at once.

        Of one that was superseded this confirms that its handler has stopped.
        """
        with self._settling("release"):
            answer = await self._functions.release(
                self.record,
                self.stream,
                group=self._group,
                entry_id=self.entry_id,
                owner=self._owner,
                token=self.token,
            )
        # Whoever took this over has told of our span already.
        self._is_told = answer.word == "told"

    async def lose(self) -> None:
        """Note that the request is another's, and say that this handler has stopped."""
        metrics.lost(self._series)
        self._failed("LeaseLost", "the request is no longer ours")
        with contextlib.suppress(SagastreamError):
            await self.release()

    def _settling(self, operation: str) -> contextlib.AbstractContextManager[Span]:
        return spans.settling(operation, self._server, self.command.stream, self._about)

    async def _finish(self, status: str, payload: str, writes: Sequence[Write] = ()) -> bool:
        if self._teller:
            self._teller.cancel()
        await self._tell()  # the last progress is never dropped
        self._finishing = True
        with self._settling("ack"):
            answer = await self._functions.finish(
                self.record,
                self.stream,
                status,
                payload,
                group=self._group,
                entry_id=self.entry_id,
                token=self.token,
                retention_ms=self._retention_ms,
                trace=self._trace,
                writes=[write.flat(self._bus.key(write.key)) for write in writes],
            )
            if answer.word == "stale":
                raise LeaseLost(self.command.request_id, answer.rest[0])
        if answer.word == "mismatch":
            self._finishing = False
            self.span.add_event("retry", {"error.type": "WriteConflict"})
            return False
        self.span.set_attribute("sagastream.status", status)
        logger.info("request %s", status, extra=self.ids)
        return True


def failure(error_type: str, message: str) -> str:
    """The payload of a `failed` reply."""
    safe = message[:_MESSAGE_LIMIT].encode(errors="replace").decode()
    return encode_payload({"error_type": error_type, "message": safe, "trace_id": spans.trace_id()})
