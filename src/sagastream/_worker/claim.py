"""A claim: one handler's right to one request, from begin to its terminal stage.

Every write carries the claim's token, and the server refuses the writes of a claim that is no
longer the current one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, set_span_in_context

from sagastream._client.commands import claim_token, failure_payload
from sagastream._client.session import Session
from sagastream._codec.entries import decode_fields
from sagastream._codec.payload import decode_payload, encode_payload
from sagastream._codec.validation import new_id
from sagastream._functions.answers import (
    AdoptAnswer,
    BeginAnswer,
    Busy,
    Claimed,
    Done,
    Unknown,
    Wait,
)
from sagastream._telemetry import metrics, spans
from sagastream._telemetry.log_context import enter_log_context, leave_log_context
from sagastream._telemetry.trace_context import Trace, trace_of
from sagastream._worker.lease import LeaseKeeper
from sagastream._worker.progress import ProgressThrottle, progress_payload
from sagastream.effects import Atomic, Write
from sagastream.errors import InvalidMessage, LeaseLost, SagastreamError
from sagastream.message import Command

logger = logging.getLogger(__name__)

_RETRY_BEGIN_S = 0.1

# Why a handler has to stop: its lease is lost, the request was cancelled, its deadline passed.
Ending = Literal["lost", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True)
class ClaimOptions:
    """What all claims of a listener have in common.

    Attributes:
        group: The consumer group.
        consumer: The listener.
        lease_s: How long a claim lasts without renewal, in seconds.
        max_deliveries: How many handlers a request may lose before it becomes a dead letter.
        progress_interval_s: Progress that comes faster is coalesced: the newest wins.
    """

    group: str
    consumer: str
    lease_s: float
    max_deliveries: int
    progress_interval_s: float


class Claim:
    """One handler's right to one request.

    Args:
        session: The server.
        command: The command, as delivered.
        raw: The fields of its entry.
        options: What all claims of the listener have in common.
        redelivered: It was delivered before, to a listener that is gone.

    Attributes:
        command: The command, with the epoch once it is claimed.
        ending: Why the handler has to stop, None if it may run.
        effect: The effect policy that the handler must declare, '' for any.
        record: The key of the request's record.
        stream: The key of the command stream.
        entry_id: The command's entry.
        token: Identifies the claim in all its writes.
    """

    def __init__(
        self,
        session: Session,
        command: Command,
        raw: Mapping[bytes, bytes],
        options: ClaimOptions,
        *,
        redelivered: bool,
    ) -> None:
        self.command = command
        self.ending: Ending | None = None
        self.effect = ""
        self.token = new_id()
        self.record = session.options.record_key(command.request_id)
        self.stream = session.options.key(command.stream)
        self.entry_id = command.entry_id
        self.ids = {
            "request_id": command.request_id,
            "correlation_id": command.correlation_id,
            "saga_id": command.saga_id,
            "event_type": command.event_type,
        }
        self._message = self.ids | {
            "traceparent": command.traceparent,
            "tracestate": command.tracestate,
            "entry_id": command.entry_id,
            "group": options.group,
        }
        server = session.server
        self.span: Span = spans.processing(
            server, command.stream, self._message, redelivered=redelivered
        )
        self._series = spans.process_operation(server, command.stream, self._message).series
        self._session = session
        self._raw = raw
        self._options = options
        self._progress: ProgressThrottle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._left_s: float | None = None
        self._is_finishing = False
        self._is_span_taken = False
        self._error_type = ""

    async def begin(self) -> bool:
        """Claim the request and write `start`; False if another claim has it, or it has ended.

        Raises:
            InvalidMessage: The request id is known with another payload.
        """
        command = self.command
        self._trace = trace_of(self.span)
        answer = await self._begin_when_free()
        if not isinstance(answer, Claimed):
            if isinstance(answer, Done):
                self._record_lost_span(answer.lost_span, is_dead=answer.is_dead)
            logger.info("not begun: %s", answer, extra=self.ids)
            return False
        # No other code has the command yet, and a copy would cost as much as the rest of this.
        object.__setattr__(command, "epoch", answer.epoch)
        object.__setattr__(command, "last_progress", self._decoded(answer.last_progress))
        self.effect = answer.effect
        self._record_lost_span(answer.lost_span)
        self.span.set_attribute("sagastream.attempt", command.epoch)
        self.span.add_event("start")
        metrics.consumed(self._series, 1)
        if command.epoch > 1:
            metrics.redelivered(self._series)
        logger.info("request started", extra=self.ids | {"attempt": command.epoch})
        if command.deadline is not None:
            self._left_s = (command.deadline - answer.now_ms) / 1000
        return True

    async def _begin_when_free(self) -> Claimed | Busy | Done:
        while True:
            answer: BeginAnswer = await self._session.requests.begin(
                self.record,
                self.stream,
                group=self._options.group,
                entry_id=self.entry_id,
                consumer=self._options.consumer,
                token=self.token,
                lease_ms=round(self._options.lease_s * 1000),
                retention_ms=self._session.options.retention_ms,
                max_deliveries=self._options.max_deliveries,
                trace=self._trace,
            )
            if isinstance(answer, Unknown):
                adopted = await self._adopt()
                if adopted.outcome == "conflict":
                    raise InvalidMessage(
                        "request_id", "is known with another payload or event type"
                    )
                if adopted.outcome == "done":
                    return Done(adopted.status, "", is_dead=False)
            elif isinstance(answer, Wait):
                # The handler of a superseded request is being stopped.
                await asyncio.sleep(min(answer.left_ms / 1000, _RETRY_BEGIN_S))
            else:
                return answer

    async def _adopt(self) -> AdoptAnswer:
        command, options = self.command, self._session.options
        ids = {"request_id": command.request_id, "correlation_id": command.correlation_id}
        return await self._session.requests.adopt(
            self.record,
            self.stream,
            decode_fields(self._raw) | ids,
            group=self._options.group,
            entry_id=command.entry_id,
            retention_ms=options.retention_ms,
            reply_streams=options.reply_keys(command.reply_stream, command.saga_id),
        )

    def _record_lost_span(self, lost_span: str, *, is_dead: bool = False) -> None:
        if lost_span:
            stream = self.command.stream
            message = "its handler was lost" + ("; it is a dead letter" if is_dead else "")
            spans.record_lost_span(self._session.server, stream, self._message, lost_span, message)
        if is_dead:
            metrics.dead_lettered(self._series, "HandlerLost")

    def _decoded(self, progress: str) -> dict[str, Any]:
        if not progress:
            return {}
        return decode_payload(progress, max_bytes=self._session.options.max_payload)

    def enter(self, *, is_handled: bool) -> None:
        """Make this the current claim, so that `emit_event` may write its stages, and trace it.

        Args:
            is_handled: Whether the listener has a handler for its event type.
        """
        self._kind = self.command.event_type if is_handled else "_OTHER"
        fields = {name: value for name, value in self.ids.items() if value}
        self._tokens = (
            claim_token.set(self.token),
            attach(set_span_in_context(self.span)),
            enter_log_context(**fields, attempt=self.command.epoch),
        )
        self._started = time.perf_counter()

    def leave(self) -> None:
        """End what `enter` began, and the claim's span."""
        token, context, log_context = self._tokens
        leave_log_context(log_context)
        detach(context)
        claim_token.reset(token)
        seconds = time.perf_counter() - self._started
        metrics.processed(self._series, seconds, self._kind, self._error_type)
        if not self._is_span_taken:
            self.span.end()

    def keep(self, keeper: LeaseKeeper) -> None:
        """Renew the lease, and cancel the current task when the handler has to end early.

        `ending` then has the reason. If the deadline has passed, the handler is cancelled before
        it runs. `let_go` undoes this.
        """
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        keeper.keep(self)
        if self._left_s is not None:
            self._alarm = self._loop.call_later(max(0.0, self._left_s), self._end, "deadline")

    def let_go(self, keeper: LeaseKeeper) -> None:
        """Stop renewing the lease, and do not cancel the task any more."""
        if self._alarm:
            self._alarm.cancel()
        self._task = None  # a renewal that is under way must not cancel what comes now
        keeper.drop(self.token)

    def on_lost(self) -> None:
        """The lease is lost; the keeper calls this from its thread."""
        self._end_from_thread("lost")

    def on_cancel(self) -> None:
        """The request was cancelled; the keeper calls this from its thread."""
        self._end_from_thread("cancelled")

    def _end_from_thread(self, ending: Ending) -> None:
        # The loop may be closed already; then there is no handler to cancel.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, ending)

    def _end(self, ending: Ending) -> None:
        if ending == "lost" and self._is_finishing:
            return  # this claim may have ended the request itself: the answer to `finish` decides
        if self.ending is None and self._task is not None and not self._task.done():
            self.ending = ending
            self._task.cancel()

    @property
    def is_expired(self) -> bool:
        """Whether the deadline had passed when it was claimed."""
        return self._left_s is not None and self._left_s <= 0

    async def progress(self, fraction: float, detail: Mapping[str, Any] | None = None) -> None:
        """Write a progress stage.

        Raises:
            InvalidMessage: An argument is invalid.
            LeaseLost: Another claim has the request.
        """
        payload = encode_payload(
            progress_payload(fraction, detail),
            field="detail",
            max_bytes=self._session.options.max_payload,
        )
        if self.ending == "lost":
            raise LeaseLost(self.command.request_id, "claimed again")
        if self._progress is None:
            interval_s = self._options.progress_interval_s
            self._progress = ProgressThrottle(self._write_progress, interval_s)
        await self._progress.put(fraction, payload)

    async def _write_progress(
        self, fraction: float, payload: str, sequence: int, trace: Trace
    ) -> None:
        answer = await self._session.requests.progress(
            self.record, self.stream, payload, token=self.token, seq=sequence, trace=trace
        )
        if answer.is_stale:
            raise LeaseLost(self.command.request_id, answer.status)
        self.span.add_event("progress", {"sagastream.fraction": fraction})

    async def complete(self, outcome: Atomic) -> bool:
        """Write `completed` with the result, and the handler's writes with it.

        Returns:
            False if a value is no longer the expected one; then nothing was written.

        Raises:
            InvalidMessage: The result is not a valid payload.
            LeaseLost: Another claim has the request.
        """
        limit = self._session.options.max_payload
        payload = encode_payload(outcome.result, field="result", max_bytes=limit)
        return await self._finish("completed", payload, outcome.writes)

    async def fail(self, error_type: str, message: str) -> None:
        """Write `failed`; a lost lease is only logged, because the next claim replies."""
        self._note_failure(error_type, message)
        await self._finish_or_release("failed", failure_payload(error_type, message))

    async def cancel(self) -> None:
        """Write `cancelled`; a lost lease is only logged."""
        await self._finish_or_release("cancelled", "{}")

    async def release(self) -> None:
        """Give the request back without an outcome, for the next listener to claim at once.

        For a superseded request this confirms that its handler has ended.
        """
        if self._progress:
            self._progress.drop()
        with self._settling("release"):
            answer = await self._session.requests.release(
                self.record,
                self.stream,
                group=self._options.group,
                entry_id=self.entry_id,
                consumer=self._options.consumer,
                token=self.token,
            )
        self._is_span_taken = answer.outcome == "span_taken"

    async def lose(self) -> None:
        """Record that another claim has the request, and confirm that this handler has ended."""
        metrics.lease_lost(self._series)
        self._note_failure("LeaseLost", "another claim has the request")
        with contextlib.suppress(SagastreamError):
            await self.release()

    def _note_failure(self, error_type: str, message: str) -> None:
        self._error_type = error_type
        spans.fail(self.span, error_type, message)

    async def _finish_or_release(self, status: str, payload: str) -> None:
        try:
            await self._finish(status, payload)
        except LeaseLost as error:
            logger.warning("%s", error, extra=self.ids)
            await self.release()

    async def _finish(self, status: str, payload: str, writes: Sequence[Write] = ()) -> bool:
        if self._progress:
            await self._progress.close()
        self._is_finishing = True
        with self._settling("ack"):
            answer = await self._session.requests.finish(
                self.record,
                self.stream,
                status,
                payload,
                group=self._options.group,
                entry_id=self.entry_id,
                token=self.token,
                retention_ms=self._session.options.retention_ms,
                trace=self._trace,
                writes=[write.flat(self._session.options.key(write.key)) for write in writes],
            )
            if answer.outcome == "stale":
                raise LeaseLost(self.command.request_id, answer.detail)
        if answer.outcome == "mismatch":
            self._is_finishing = False
            self.span.add_event("retry", {"error.type": "WriteConflict"})
            return False
        self.span.set_attribute("sagastream.status", status)
        logger.info("request %s", status, extra=self.ids)
        return True

    def _settling(self, operation: str) -> contextlib.AbstractContextManager[Span]:
        return spans.settling(operation, self._session.server, self.command.stream, self._message)
