"""A claim: one handler's right to one request, from begin to its terminal stage.

Every write carries the claim's token, and the server refuses the writes of a claim that is no
longer the current one.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self

from sagastream._client.commands import claim_token, failure_payload
from sagastream._client.session import Session
from sagastream._codec.entries import decode_fields
from sagastream._codec.payload import decode_payload, encode_payload
from sagastream._codec.validation import new_id
from sagastream._functions.answers import AdoptAnswer, BeginAnswer, Claimed, Done, Unknown
from sagastream._redis.deadline import Deadline
from sagastream._redis.retrying import uninterrupted
from sagastream._telemetry.trace_context import Trace
from sagastream._worker.claim_telemetry import ClaimTelemetry
from sagastream._worker.consumer import IDLE_MS, Delivery
from sagastream._worker.lease import ClaimOptions, LeaseKeeper
from sagastream._worker.progress import ProgressThrottle, progress_payload
from sagastream.admission import Limit, limiters_of
from sagastream.effects import Atomic, Write
from sagastream.errors import InvalidMessage, LeaseLost, SagastreamError
from sagastream.message import Command

logger = logging.getLogger(__name__)

# A delivery that is given back for a reason waits this part of a lease, twice as long each time.
_FIRST_PAUSE = 0.05
# How long the event loop waits for the answer when it gives a delivery back, in seconds.
_RELEASE_S = 1.0

# Why a handler has to stop; `stopped`: its listener has stopped.
Ending = Literal["lost", "cancelled", "deadline", "stopped"]


class Claim:
    """One handler's right to one request, for as long as the context lasts.

    At the end of the context exactly one of three things is true: the request has ended by this
    claim, the delivery was given back, or another claim has the request.

    Args:
        session: The server.
        command: The command, as delivered.
        delivery: The delivery.
        options: What all claims of the listener have in common.
        keeper: Renews the lease.

    Attributes:
        command: The command, with epoch and attempt once it is claimed.
        ending: Why the handler has to stop, None if it may run.
        effect: The effect policy that the handler must declare, '' for any.
        record: The key of the request's record.
        stream: The key of the command stream.
        entry_id: The command's entry.
        token: Identifies the claim in all its writes.
        idle_ms: For how long its entry counts as idle when it is given back.
        is_handed_over: Whether the keeper has it, as a thread outlives its listener.
        telemetry: Its span, metrics and log lines.
    """

    def __init__(
        self,
        session: Session,
        command: Command,
        delivery: Delivery,
        options: ClaimOptions,
        keeper: LeaseKeeper,
    ) -> None:
        self.command = command
        self.ending: Ending | None = None
        self.effect = ""
        self.token = new_id()
        self.record = session.options.record_key(command.request_id)
        self.stream = session.options.key(command.stream)
        self.entry_id = command.entry_id
        self.idle_ms = IDLE_MS
        self.telemetry = ClaimTelemetry(
            session, command, delivery.raw, options.group, redelivered=delivery.deliveries > 1
        )
        self._session = session
        self._delivery = delivery
        self._options = options
        self._keeper = keeper
        self._trace: Trace = self.telemetry.trace
        self._progress: ProgressThrottle | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._left_s: float | None = None
        self._expires_at = math.inf
        self.failures = 0
        self._has_begun = False
        self._is_finishing = False
        self._is_settled = False
        self.is_handed_over = False

    @property
    def ids(self) -> dict[str, str]:
        """The ids of the request, for log lines."""
        return self.telemetry.ids

    @property
    def lease_token(self) -> str:
        """The token once the claim has begun; '' while it waits for its turn."""
        return self.token if self._has_begun else ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._is_settled and not self.is_handed_over:
                self.let_go()
            else:
                await uninterrupted(self._end())
        finally:
            if self._has_begun:
                claim_token.reset(self._claim_token)
            self.telemetry.leave()

    async def begin(self, limits: Sequence[Limit] = ()) -> BeginAnswer:
        """Claim the request and write `start`.

        Returns:
            `Claimed`; `Busy` or `Done`: another claim has it, or it has ended; `Wait`: a superseded
            request's handler has to end first; or `Limited`: it waits without its entry.

        Raises:
            InvalidMessage: The request id is known with another payload.
            UnknownLayout: A newer release wrote the record.
            ServerUnavailable: The server did not answer.
            ServerError: The server cannot begin it.
        """
        answer = await self._begin(limits)
        while isinstance(answer, Unknown):
            adopted = await self._adopt()
            if adopted.outcome == "conflict":
                raise InvalidMessage("request_id", "is known with another payload or event type")
            if adopted.outcome == "done":
                return Done(adopted.status, "", is_dead=False)
            answer = await self._begin(limits)
        if isinstance(answer, Claimed):
            self._note_begin(answer)
        elif isinstance(answer, Done):
            self.telemetry.lost_span(answer.lost_span, is_dead=answer.is_dead)
        return answer

    async def _begin(self, limits: Sequence[Limit]) -> BeginAnswer:
        command = self.command
        return await self._session.requests.begin(
            self.record,
            self.stream,
            group=self._options.group,
            entry_id=self.entry_id,
            consumer=self._options.consumer,
            token=self.token,
            lease_ms=round(self._options.lease_s * 1000),
            retention=self._options.retention,
            max_deliveries=self._options.max_deliveries,
            trace=self._trace,
            limiters=limiters_of(limits, command.event_type, command.payload) if limits else (),
            deadline=Deadline(self._options.lease_s),
        )

    def _note_begin(self, answer: Claimed) -> None:
        command = self.command
        # No other code has the command yet, and a copy would cost as much as the rest of this.
        object.__setattr__(command, "epoch", answer.epoch)
        object.__setattr__(command, "attempt", answer.attempt)
        if answer.last_progress:
            limit = self._session.options.max_payload
            last_progress = decode_payload(answer.last_progress, max_bytes=limit)
            object.__setattr__(command, "last_progress", last_progress)
        self.effect = answer.effect
        if command.deadline is not None:
            self._left_s = (command.deadline - answer.now_ms) / 1000
            self._expires_at = self._loop.time() + self._left_s
        self.failures = answer.failures
        self._has_begun = True
        self._claim_token = claim_token.set(self.token)
        self.telemetry.lost_span(answer.lost_span)
        self.telemetry.begin(command.attempt, answer.context)
        if logger.isEnabledFor(logging.INFO):
            logger.info("request started", extra=self.ids | {"attempt": command.attempt})

    async def _adopt(self) -> AdoptAnswer:
        command, options = self.command, self._session.options
        ids = {"request_id": command.request_id, "correlation_id": command.correlation_id}
        return await self._session.requests.adopt(
            self.record,
            self.stream,
            decode_fields(self._delivery.raw) | ids,
            group=self._options.group,
            entry_id=command.entry_id,
            retention=self._options.retention,
            reply_streams=options.reply_keys(command.reply_stream, command.saga_id),
        )

    def keep(self) -> None:
        """Renew the lease, and cancel the current task when the handler has to end early.

        `ending` then has the reason. If the deadline has passed, the handler is cancelled before
        it runs. `let_go` undoes this. A claim that waits for its turn only keeps its entry.
        """
        self._task = asyncio.current_task()
        self._keeper.keep(self)
        if self._left_s is not None and self._alarm is None:
            self._alarm = self._loop.call_later(max(0.0, self._left_s), self._stop, "deadline")

    def let_go(self) -> None:
        """Stop renewing the lease, and do not cancel the task any more. Idempotent."""
        if self._task is None:
            return
        if self._alarm:
            self._alarm.cancel()
        self._task = None  # a renewal that is under way must not cancel what comes now
        self._keeper.drop(self.token)

    def on_lost(self) -> None:
        """The lease is lost; the keeper calls this from its thread."""
        self._stop_from_thread("lost")

    def on_cancel(self) -> None:
        """The request was cancelled; the keeper calls this from its thread."""
        self._stop_from_thread("cancelled")

    def _stop_from_thread(self, ending: Ending) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed: no handler is left
            self._loop.call_soon_threadsafe(self._stop, ending)

    def _stop(self, ending: Ending) -> None:
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
        """Write a progress stage; raises `InvalidMessage`, or as `fail` does."""
        payload = encode_payload(
            progress_payload(fraction, detail),
            field="detail",
            max_bytes=self._session.options.max_payload,
        )
        if self.ending == "lost" or self._is_settled:
            raise LeaseLost(self.command.request_id, "claimed again or ended")
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
        self.telemetry.progress(fraction)

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

    async def fail(self, error_type: str, message: str, traceback: str = "") -> None:
        """Write `failed`.

        Raises:
            LeaseLost: Another claim has the request, and replies.
        """
        self.telemetry.fail(error_type, message)
        await self._finish("failed", failure_payload(error_type, message, traceback))

    async def postpone(self, delay_s: float, error_type: str, message: str) -> bool:
        """End an attempt that failed; the next one begins after `delay_s`. Raises as `fail` does.

        Returns False if none follows: the request was cancelled, or its deadline passes before.
        """
        if self._progress:
            await self._progress.close()
        if self._loop.time() + delay_s >= self._expires_at:
            return False
        with self.telemetry.settling("release"):
            answer = await self._session.requests.postpone(
                self.record,
                self.stream,
                group=self._options.group,
                entry_id=self.entry_id,
                token=self.token,
                delay_ms=round(1000 * delay_s),
                failure=failure_payload(error_type, message),
            )
        if answer.outcome == "stale":
            raise LeaseLost(self.command.request_id, answer.status)
        if answer.outcome == "cancelled":
            return False
        self._is_settled = True
        self.telemetry.fail(error_type, message)
        return True

    async def cancel(self) -> None:
        """Write `cancelled`; raises as `fail` does."""
        await self._finish("cancelled", "{}")

    async def _finish(self, status: str, payload: str, writes: Sequence[Write] = ()) -> bool:
        if self._progress:
            await self._progress.close()
        self._is_finishing = True
        with self.telemetry.settling("ack"):
            answer = await self._session.requests.finish(
                self.record,
                self.stream,
                status,
                payload,
                group=self._options.group,
                entry_id=self.entry_id,
                token=self.token,
                retention=self._options.retention,
                trace=self._trace,
                writes=[write.flat(self._session.options.key(write.key)) for write in writes],
            )
            if answer.outcome == "stale":
                raise LeaseLost(self.command.request_id, answer.detail)
        if answer.outcome == "mismatch":
            self._is_finishing = False
            self.telemetry.span.add_event("retry", {"error.type": "WriteConflict"})
            return False
        self._is_settled = True
        self.telemetry.span.set_attribute("sagastream.status", status)
        logger.info("request %s", status, extra=self.ids)
        return True

    def leave(self) -> None:
        """There is nothing to give back: another claim has the request, or it has ended."""
        self._is_settled = True

    def hand_over(self, thread: "Future[Any]") -> None:
        """A thread still runs the handler: the keeper keeps the claim, and gives it back after it."""
        self._is_settled = self.is_handed_over = True
        self._task = None
        thread.add_done_callback(lambda _: self._keeper.give_back(self))

    def pause(self) -> None:
        """When this is given back, let some time pass before it is delivered again."""
        pause = min(1.0, _FIRST_PAUSE * 2.0 ** (self._delivery.deliveries - 1))
        self.idle_ms = round(self._options.lease_s * 1000 * (1.0 - pause))

    async def _end(self) -> None:
        if self._progress:
            await self._progress.drop()
        if self.is_handed_over:
            return
        self.let_go()
        try:
            with self.telemetry.settling("release"):
                answer = await self._session.requests.release(
                    self.record,
                    self.stream,
                    group=self._options.group,
                    entry_id=self.entry_id,
                    consumer=self._options.consumer,
                    token=self.token,
                    idle_ms=self.idle_ms,
                    deadline=Deadline(_RELEASE_S),
                )
        except SagastreamError:
            self._keeper.give_back(self)
        else:
            self.telemetry.is_span_taken = answer.outcome == "span_taken"
