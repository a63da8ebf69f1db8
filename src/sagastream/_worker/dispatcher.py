"""Dispatch one delivered command: claim it, run its handler, write how it ended.

A command without a handler in this listener is forwarded to a listener that has one, or fails. A
malformed command becomes a dead letter.
"""

import asyncio
import logging
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sagastream._client.session import Session
from sagastream._codec.entries import decode_command, is_newer_entry, unread_command
from sagastream._functions.answers import Claimed, Limited, Wait
from sagastream._functions.stream_answers import ForwardAnswer
from sagastream._handlers.injection import Injector
from sagastream._redis.retrying import says_away
from sagastream._worker.announcer import announcements_key
from sagastream._worker.claim import Claim
from sagastream._worker.consumer import Delivery
from sagastream._worker.execution import Attempt, HandlerRaised, run_handler
from sagastream._worker.failures import describe, is_expected, log_failure, short_traceback
from sagastream._worker.lease import ClaimOptions, LeaseKeeper
from sagastream._worker.rejection import reject
from sagastream._worker.slots import Slot
from sagastream._worker.threads import HandlerThreads
from sagastream.admission import Limit
from sagastream.errors import (
    HandlerStopped,
    InvalidMessage,
    LeaseLost,
    SagastreamError,
    ServerRefused,
    ServerUnavailable,
    ServerUnsuitable,
    UnknownLayout,
    WriteConflict,
)
from sagastream.handlers import Handler
from sagastream.message import Command
from sagastream.retries import RetryPolicy

logger = logging.getLogger(__name__)

# How many times an atomic handler runs at most, if other writers change its values in every run.
_MAX_RUNS = 100
_LONGEST_RETRY_S = 0.2
_RETRY_BEGIN_S = 0.1
_RETRY_FORWARD_S = 0.5
# How long after its emit a command of a saga waits for a listener that handles it, in seconds.
_LISTENER_WAIT_S = 10.0
# An entry of a newer release is given back this many times more often than another one that
# cannot be begun, so that it finds a listener of that release.
_NEWER_RELEASE_FACTOR = 4
_UNLIMITED = sys.maxsize


class Dispatcher:
    """Dispatches the commands of one listener.

    Args:
        session: The server.
        handlers: The handlers by (stream, event type).
        options: What all claims of the listener have in common.
        keeper: Renews the leases.
        threads: Runs plain handlers.
        injector: What the listener puts around its handlers.
        on_forward: Called when a command is forwarded.

    Attributes:
        handed_over: Stream and entry id of what threads still handle when the listener stops.
    """

    def __init__(
        self,
        session: Session,
        handlers: Mapping[tuple[str, str], Handler],
        options: ClaimOptions,
        *,
        keeper: LeaseKeeper,
        threads: HandlerThreads,
        injector: Injector,
        on_forward: Callable[[], None],
        on_postponed: Callable[[float], None],
    ) -> None:
        self._session = session
        self._handlers = handlers
        self._options = options
        self._own_options = {
            key: replace(options, retention=handler.retention)
            for key, handler in handlers.items()
            if handler.retention
        }
        self._keeper = keeper
        self._threads = threads
        self._attempts = {
            key: Attempt(handler, threads, injector)
            for key, handler in handlers.items()
            if injector.middleware or handler.signature.dependencies
        }
        self._on_forward = on_forward
        self._on_postponed = on_postponed
        self.handed_over: set[tuple[str, str]] = set()

    async def dispatch(self, delivery: Delivery, slot: Slot) -> None:
        """Handle one delivery to its end. It raises nothing but a cancellation."""
        try:
            await slot.take()
            command = await self._decode(delivery)
            if command:
                await self._handle(delivery, command, slot)
        except InvalidMessage as error:
            await self._reject(delivery, error)
        except SagastreamError as error:
            kind = type(error).__name__
            logger.warning("%s was given back: %s: %s", _name_of(delivery), kind, error)
        except Exception:
            logger.exception("%s was given back: it could not be handled", _name_of(delivery))
        finally:
            slot.leave()

    async def _reject(self, delivery: Delivery, error: Exception) -> None:
        try:
            await reject(self._session, self._options.group, delivery, error)
        except Exception as failure:
            # What is no error of the server is a fault of this code: it has a traceback.
            is_fault = not isinstance(failure, SagastreamError)
            name = _name_of(delivery)
            logger.warning(
                *("%s stays pending: no dead letter can be written: %s", name, failure),
                exc_info=is_fault,
            )

    async def _decode(self, delivery: Delivery) -> Command | None:
        """Read the command; None if it was given back for a newer release."""
        try:
            return decode_command(
                delivery.raw,
                stream=delivery.stream,
                entry_id=delivery.entry_id,
                max_bytes=self._session.options.max_payload,
            )
        except InvalidMessage:
            if not self._is_for_a_newer_release(delivery):
                raise
        async with self._claim_of(
            delivery, unread_command(delivery.stream, delivery.entry_id)
        ) as claim:
            claim.pause()
        return None

    def _claim_of(self, delivery: Delivery, command: Command) -> Claim:
        options = self._own_options.get((delivery.stream, command.event_type), self._options)
        return Claim(self._session, command, delivery, options, self._keeper)

    async def _handle(self, delivery: Delivery, command: Command, slot: Slot) -> None:
        handler = self._handlers.get((delivery.stream, command.event_type))
        async with self._claim_of(delivery, command) as claim:
            try:
                handled = () if handler else await self._forward(claim, delivery, slot)
                limits = handler.limits if handler else ()
                if handled is None or not await self._begin(claim, slot, limits):
                    claim.leave()
                    return
            except asyncio.CancelledError:
                if claim.ending is None:
                    raise
                self._uncancel()  # another listener has taken the delivery that waited
                return
            except InvalidMessage:
                claim.leave()
                raise
            except Exception as error:
                claim.pause()
                if delivery.deliveries < self._limit(error):
                    raise
                claim.leave()
                await self._reject(delivery, error)
                return
            claim.telemetry.enter(is_handled=handler is not None)
            if handler is None:
                await claim.fail(
                    "UnknownEventType",
                    f"no live listener handles {command.event_type} on {command.stream} "
                    f"(handled there: {', '.join(handled) or 'nothing'})",
                )
            elif claim.effect not in {"", handler.effect}:
                await claim.fail(
                    "EffectMismatch",
                    f"{command.event_type} must be {claim.effect} for this request, but its handler "
                    f"{handler.qualified_name} declares {handler.effect}",
                )
            elif claim.is_expired:
                await claim.fail("DeadlineExceeded", "the deadline had passed before it began")
            else:
                await self._run(handler, claim)

    # -- before the handler ---------------------------------------------------------------

    async def _begin(self, claim: Claim, slot: Slot, limits: Sequence[Limit]) -> bool:
        """Claim the request; False if another claim has it, it has ended, or it waits for others."""
        while True:
            answer = await claim.begin(limits)
            if not isinstance(answer, Wait):
                break
            # The handler of a superseded request is being stopped.
            await self._wait(claim, slot, min(answer.left_ms / 1000, _RETRY_BEGIN_S))
        if isinstance(answer, Claimed):
            return True
        if isinstance(answer, Limited) and answer.check_ms is not None:
            self._on_postponed(answer.check_ms / 1000)
        logger.info("not begun: %s", answer, extra=claim.ids)
        return False

    async def _forward(
        self, claim: Claim, delivery: Delivery, slot: Slot
    ) -> tuple[str, ...] | None:
        """Forward a command to a live listener that handles it.

        Returns:
            None if it was forwarded; otherwise the event types that are handled. A command of a
            saga waits for its listener for some time first, as in a rolling restart.
        """
        command = claim.command
        emitted_ms = int(delivery.raw.get(b"timestamp") or command.entry_id.partition("-")[0])
        while True:
            answer = await self._ask_to_forward(command, delivery.raw)
            if answer.is_forwarded:
                return None
            age_s = (answer.now_ms - emitted_ms) / 1000
            if not command.saga_id or age_s > _LISTENER_WAIT_S:
                return answer.event_types
            await self._wait(claim, slot, _RETRY_FORWARD_S)

    async def _ask_to_forward(self, command: Command, raw: Mapping[bytes, bytes]) -> ForwardAnswer:
        fields = dict(raw)
        fields.setdefault(b"request_id", command.request_id.encode())
        self._on_forward()
        options = self._session.options
        return await self._session.streams.forward(
            options.key(command.stream),
            announcements_key(self._session, command.stream),
            options.record_key(command.request_id),
            group=self._options.group,
            entry_id=command.entry_id,
            event_type=command.event_type,
            fields=[part for pair in fields.items() for part in pair],
        )

    @staticmethod
    async def _wait(claim: Claim, slot: Slot, delay_s: float) -> None:
        """Wait without a slot; the entry is kept from other listeners meanwhile."""
        slot.leave()
        claim.keep()
        await asyncio.sleep(delay_s)
        await slot.take()

    @property
    def _newer_release_limit(self) -> int:
        return self._options.max_deliveries * _NEWER_RELEASE_FACTOR

    def _is_for_a_newer_release(self, delivery: Delivery) -> bool:
        """Whether a newer release emitted it, and a listener of that release may still get it."""
        return is_newer_entry(delivery.raw) and delivery.deliveries < self._newer_release_limit

    def _limit(self, error: Exception) -> int:
        """How many deliveries may fail before the entry is a dead letter."""
        if isinstance(error, UnknownLayout):
            return self._newer_release_limit
        if isinstance(error, ServerUnavailable | ServerRefused | ServerUnsuitable):
            return _UNLIMITED
        return self._options.max_deliveries

    # -- the handler ----------------------------------------------------------------------

    async def _run(self, handler: Handler, claim: Claim) -> None:
        started = time.monotonic()
        try:
            try:
                claim.keep()
                try:
                    await self._run_until_written(handler, claim)
                finally:
                    claim.let_go()
                    if claim.is_handed_over:
                        self.handed_over.add((claim.command.stream, claim.entry_id))
            except asyncio.CancelledError:
                await self._end_early(claim)
            except HandlerRaised as raised:
                await self._fail(handler, claim, raised.error, started)
            except LeaseLost:
                raise
            except Exception as error:  # noqa: BLE001 - `log_failure` logs it
                log_failure(error, claim.ids, claim.command.attempt, level=logging.ERROR)
                await claim.fail(type(error).__name__, str(error))
        except LeaseLost as error:
            logger.warning("%s", error, extra=claim.ids)
            claim.telemetry.lose()

    async def _run_until_written(self, handler: Handler, claim: Claim) -> None:
        """Run a handler; run an atomic one again if a value that it read has changed."""
        attempt = self._attempts.get((handler.stream, handler.event_type))
        for run in range(_MAX_RUNS):
            outcome = await run_handler(handler, claim, self._threads, attempt)
            if await claim.complete(outcome):
                return
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(min(_LONGEST_RETRY_S, 0.005 * 2.0**run) * jitter)
        raise WriteConflict(_MAX_RUNS)

    async def _fail(
        self, handler: Handler, claim: Claim, error: BaseException, started: float
    ) -> None:
        """Write what a handler raised; if it was stopped, or the server is away, give it back."""
        is_away = says_away(error) or (
            isinstance(error, ConnectionError) and self._was_server_away(started)
        )
        if is_away or isinstance(error, HandlerStopped):
            reason = f"{type(error).__name__}: {describe(error)}"
            logger.warning("the request is given back: %s", reason, extra=claim.ids)
            claim.telemetry.fail(type(error).__name__, describe(error))
            claim.pause()
            return
        if handler.retry and await self._postpone(handler.retry, claim, error):
            return
        is_refusal = is_expected(error)
        level = logging.WARNING if is_refusal else logging.ERROR
        log_failure(error, claim.ids, claim.command.attempt, level=level)
        has_traceback = self._options.tracebacks and not is_refusal
        text = short_traceback(error) if has_traceback else ""
        await claim.fail(type(error).__name__, describe(error), text)

    async def _postpone(self, policy: RetryPolicy, claim: Claim, error: BaseException) -> bool:
        """Let another attempt follow, if the policy says so; whether one follows."""
        seed = claim.command.request_id
        delay_s = policy.delay_s(claim.failures + 1, error, seed=seed)
        kind, message = type(error).__name__, describe(error)
        if delay_s is None or not await claim.postpone(delay_s, kind, message):
            return False
        log_failure(error, claim.ids, claim.command.attempt, level=logging.WARNING)
        logger.info("the next attempt begins in %.3g s", delay_s, extra=claim.ids)
        self._on_postponed(delay_s)
        return True

    def _was_server_away(self, since: float) -> bool:
        lost_at = self._session.connection.lost_at
        return lost_at >= since or self._keeper.contact_s < time.monotonic() - since

    async def _end_early(self, claim: Claim) -> None:
        if claim.ending in {None, "stopped"} or claim.is_handed_over:
            # A shutdown writes no terminal stage: the command stays pending for the next listener.
            raise asyncio.CancelledError
        self._uncancel()
        if claim.ending == "lost":
            raise LeaseLost(claim.command.request_id, "claimed again")
        if claim.ending == "cancelled":
            await claim.cancel()
        else:
            await claim.fail("DeadlineExceeded", "the deadline passed while it ran")

    @staticmethod
    def _uncancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()


def _name_of(delivery: Delivery) -> str:
    return f"{delivery.stream} {delivery.entry_id}"
