"""Dispatch one delivered command: claim it, run its handler, write how it ended.

A command without a handler in this listener is forwarded to a listener that has one, or fails. A
malformed command becomes a dead letter.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any

from sagastream._client.commands import failure_payload, stage_fields
from sagastream._client.session import Session
from sagastream._codec.entries import decode_command, decode_fields
from sagastream._codec.validation import check_name
from sagastream._functions.answers import ForwardAnswer
from sagastream._redis.retrying import backoff_delays
from sagastream._telemetry import metrics, spans
from sagastream._telemetry.operations import operation_on
from sagastream._worker.announcer import announcements_key
from sagastream._worker.claim import Claim, ClaimOptions
from sagastream._worker.consumer import Delivery
from sagastream._worker.execution import HandlerRaised, describe, run_handler
from sagastream._worker.lease import LeaseKeeper
from sagastream.errors import InvalidMessage, LeaseLost, SagastreamError, WriteConflict
from sagastream.handlers import Handler
from sagastream.message import Command

logger = logging.getLogger(__name__)

# How many times an atomic handler runs at most, if other writers change its values in every run.
_MAX_RUNS = 100


class Dispatcher:
    """Dispatches the commands of one listener.

    Args:
        session: The server.
        handlers: The handlers by (stream, event type).
        options: What all claims of the listener have in common.
        keeper: Renews the leases.
        threads: Runs plain handlers.
        on_forward: Called when a command is forwarded.
    """

    def __init__(
        self,
        session: Session,
        handlers: Mapping[tuple[str, str], Handler],
        options: ClaimOptions,
        *,
        keeper: LeaseKeeper,
        threads: Executor,
        on_forward: Callable[[], None],
    ) -> None:
        self._session = session
        self._handlers = handlers
        self._options = options
        self._keeper = keeper
        self._threads = threads
        self._on_forward = on_forward

    async def dispatch(self, delivery: Delivery) -> None:
        """Handle one delivery to its end."""
        limit = self._session.options.max_payload
        try:
            command = decode_command(
                delivery.raw,
                stream=delivery.stream,
                entry_id=delivery.entry_id,
                max_bytes=limit,
            )
        except InvalidMessage as error:
            await self._reject(delivery, error)
            return
        claim = Claim(
            self._session,
            command,
            delivery.raw,
            self._options,
            redelivered=delivery.redelivered,
        )
        handler = self._handlers.get((delivery.stream, command.event_type))
        handled: tuple[str, ...] = ()
        if handler is None:
            answer = await self._forward(command, delivery.raw)
            if answer.is_forwarded:
                return
            handled = answer.event_types
        try:
            if not await claim.begin():
                return
        except InvalidMessage as error:
            await self._reject(delivery, error)
            return
        claim.enter(is_handled=handler is not None)
        try:
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
        finally:
            claim.leave()

    async def _forward(self, command: Command, raw: Mapping[bytes, bytes]) -> ForwardAnswer:
        """Forward a command to a live listener that can handle it, if there is one."""
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

    async def _run(self, handler: Handler, claim: Claim) -> None:
        try:
            claim.keep(self._keeper)
            try:
                await self._run_until_written(handler, claim)
            finally:
                claim.let_go(self._keeper)
        except asyncio.CancelledError:
            await self._end_early(claim)
        except LeaseLost as error:
            logger.warning("%s", error, extra=claim.ids)
            await claim.lose()
        except HandlerRaised as raised:
            logger.info("handler failed", exc_info=raised.error, extra=claim.ids)
            await claim.fail(type(raised.error).__name__, describe(raised.error))
        except Exception as error:
            logger.info("handler failed", exc_info=error, extra=claim.ids)
            await claim.fail(type(error).__name__, str(error))

    async def _run_until_written(self, handler: Handler, claim: Claim) -> None:
        """Run a handler; run an atomic one again if a value that it read has changed."""
        delays = backoff_delays(first=0.005, limit=0.2)
        for _, delay_s in zip(range(_MAX_RUNS), delays, strict=False):
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
        raise WriteConflict(_MAX_RUNS)

    async def _end_early(self, claim: Claim) -> None:
        if claim.ending is None:
            # A shutdown writes no terminal stage: the command stays pending for the next listener.
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

    async def _reject(self, delivery: Delivery, error: InvalidMessage) -> None:
        """Turn a malformed command into a dead letter, with a failed reply if it names a stream."""
        stream, entry_id, raw = delivery.stream, delivery.entry_id, delivery.raw
        logger.warning("%s %s: malformed command: %s", stream, entry_id, error)
        ids = _readable_ids(raw)
        reply: dict[str, str] = {}
        if ids["request_id"] and ids["reply_stream"]:
            reply = stage_fields(ids, "failed", failure_payload("InvalidMessage", str(error)))
        letter: list[bytes | str] = [part for pair in raw.items() for part in pair]
        letter += ["dead_reason", f"InvalidMessage: {error}", "dead_entry_id", entry_id]
        server, options, group = self._session.server, self._session.options, self._options.group
        with spans.settling("reject", server, stream, ids | {"entry_id": entry_id, "group": group}):
            await self._session.streams.reject(
                options.key(stream),
                options.key(f"{stream}:dead"),
                options.record_key(ids["request_id"]),
                options.key(ids["reply_stream"] or "replies:"),
                group=group,
                entry_id=entry_id,
                letter=letter,
                reply=reply,
            )
        operation = operation_on("reject", "settle", server, stream, group)
        metrics.dead_lettered(operation.series, "InvalidMessage")


def _readable_ids(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """The ids of a malformed command that can be read, '' for the others."""
    ids = {"request_id": "", "correlation_id": "", "saga_id": "", "reply_stream": ""}
    for name in ids:
        with contextlib.suppress(InvalidMessage, KeyError):
            value = decode_fields({b"": raw[name.encode()]})[""]
            ids[name] = check_name(name, value)
    return ids
