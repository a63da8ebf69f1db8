"""A request from emit to its terminal reply, over the inbox or a named reply stream."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from sagastream._client.commands import CommandSpec, emit
from sagastream._client.replies import BackoffConfig, GroupReader
from sagastream._client.reply_queue import ReplyWait
from sagastream._client.session import Session
from sagastream._client.terminal_outcome import completed_or_raise, read_confirmed, read_outcome
from sagastream._client.timeouts import explain_timeout
from sagastream._codec.typed_payloads import UnsupportedType, converter_of
from sagastream._codec.validation import check_name, check_seconds
from sagastream._redis.deadline import Deadline
from sagastream._redis.retrying import backoff_delays
from sagastream._telemetry.spans import Receiving
from sagastream.errors import (
    InvalidMessage,
    ReplyTimeout,
    ServerRefused,
    ServerUnavailable,
)
from sagastream.message import OnProgress

Result = TypeVar("Result")

# How long a call may ask for the reason after its timeout, in seconds.
_DIAGNOSIS_S = 0.1


async def request_and_reply(
    session: Session,
    stream: str,
    spec: CommandSpec,
    *,
    timeout: float,
    on_progress: OnProgress | None,
    wait_for_slot: bool,
) -> dict[str, Any]:
    """Emit a command and wait for its completed reply in the inbox.

    Args:
        session: The server.
        stream: The command stream.
        spec: The command; its reply stream is the inbox.
        timeout: Seconds to wait at most, for a slot and the reply.
        on_progress: Called with each stage; may be async.
        wait_for_slot: Wait for a slot if too many requests are in flight.

    Raises:
        Overloaded: No slot is free.
        Exception: As `Bus.request_and_reply` describes.
    """
    check_seconds("timeout", timeout)
    deadline = Deadline(timeout)
    inbox, request_id = session.inbox, spec["request_id"]
    await inbox.acquire_slot(deadline, wait=wait_for_slot)
    replies = inbox.subscribe(request_id)
    ids = {"correlation_id": spec["correlation_id"], "request_id": request_id}
    receiving = Receiving(session.server, inbox.name, ids)

    async def emit_first() -> None:
        first = deadline.at_most(session.connection.call_timeout_s)
        _, is_new = await emit(session, stream, spec, deadline=first)
        inbox.note_emitted(request_id)
        receiving.begin()
        if not is_new:
            replies.put(None)  # the request may have ended already

    try:
        with receiving:
            wait = ReplyWait(
                replies,
                emit_first,
                lambda until: read_outcome(session, request_id, deadline=until, known={request_id}),
                on_stage=receiving.stage,
                on_progress=on_progress,
            )
            reply = await _until(deadline, wait, session, request_id)
        return completed_or_raise(await _confirmed(session, reply, request_id, deadline))
    finally:
        inbox.unsubscribe(request_id, replies)
        inbox.release_slot()


def result_converter(reply_type: type[Result] | None) -> Callable[[dict[str, Any]], Result]:
    """How a caller gets a completed reply: as it is, or its payload as a type.

    Raises:
        InvalidMessage: `reply_type` cannot be the type of a payload.
    """
    if reply_type is None:
        return lambda reply: cast("Result", reply)
    try:
        converter = converter_of(reply_type)
    except UnsupportedType as error:
        raise InvalidMessage("reply_type", str(error)) from error
    if not converter.is_object:
        raise InvalidMessage("reply_type", f"{reply_type!r} is not a JSON object, as a result is")
    return lambda reply: cast("Result", converter.decode(reply["payload"], "result"))


class _Wait(Protocol):
    """A wait for the terminal reply of a request."""

    is_emitted: bool
    last_stage: str | None

    async def until_terminal(self) -> dict[str, Any]:
        """Wait for the terminal reply, and return it."""

    async def last_look(self, deadline: Deadline) -> dict[str, Any] | None:
        """The terminal reply in the request's record, None while there is none."""


async def _until(
    deadline: Deadline, wait: _Wait, session: Session, request_id: str
) -> dict[str, Any]:
    """Wait for the terminal reply until a deadline; then ask the record, and why there is none."""
    alarm = deadline.timeout()
    try:
        async with alarm:
            return await wait.until_terminal()
    except TimeoutError:
        if not alarm.expired() and not deadline.is_over:
            raise  # it came from `on_progress`
    if not wait.is_emitted:
        raise session.connection.timed_out(deadline)
    last = Deadline(_DIAGNOSIS_S)
    reply = None
    with contextlib.suppress(ServerUnavailable, ServerRefused):
        reply = await wait.last_look(last)
    if reply:
        return reply
    timeout = ReplyTimeout(request_id, deadline.seconds, wait.last_stage)
    raise await explain_timeout(session, timeout, last)


async def _confirmed(
    session: Session, reply: dict[str, Any], request_id: str, deadline: Deadline
) -> dict[str, Any]:
    """Return a terminal reply when replicas have it; after a failover, that of the new primary."""
    if session.options.servers.replication is None:
        return reply
    for delay in backoff_delays():
        found = await read_confirmed(session, request_id, deadline, known={request_id})
        if found:
            return found
        if deadline.is_over:
            timeout = ReplyTimeout(request_id, deadline.seconds, None)
            raise await explain_timeout(session, timeout, Deadline(_DIAGNOSIS_S))
        await asyncio.sleep(delay)  # its handler ends it again, on the new primary
    raise AssertionError("backoff_delays never ends")


async def read_replies(
    session: Session,
    stream: str,
    *,
    correlation_id: str,
    request_id: str,
    timeout: float,
    backoff: BackoffConfig,
) -> dict[str, Any]:
    """Wait for a completed reply on a named reply stream, as `Bus.read_replies` describes."""
    check_name("stream", stream)
    check_seconds("timeout", timeout)
    deadline = Deadline(timeout)
    ids = {"correlation_id": correlation_id, "request_id": request_id}
    with Receiving(session.server, stream, ids) as receiving:
        receiving.begin()
        reader = GroupReader(
            session,
            stream,
            correlation_id=correlation_id,
            request_id=request_id,
            deadline=deadline,
            backoff=backoff,
            on_stage=receiving.stage,
        )
        reply = await _until(deadline, reader, session, request_id)
    return completed_or_raise(await _confirmed(session, reply, request_id, deadline))
