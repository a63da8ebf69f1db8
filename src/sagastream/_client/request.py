"""A request from emit to its terminal reply, over the inbox or a named reply stream."""

import asyncio
from typing import Any

from sagastream._client.commands import CommandSpec, emit
from sagastream._client.replies import BackoffConfig, read_until_terminal
from sagastream._client.reply_queue import wait_until_terminal
from sagastream._client.session import Session
from sagastream._client.terminal_outcome import completed_or_raise, read_outcome
from sagastream._client.timeouts import explain_timeout
from sagastream._codec.validation import check_name, check_seconds
from sagastream._telemetry.spans import Receiving
from sagastream.errors import ReplyTimeout
from sagastream.message import OnProgress


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
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    inbox, request_id = session.inbox, spec["request_id"]
    await inbox.acquire_slot(deadline, wait=wait_for_slot)
    replies = inbox.subscribe(request_id)
    alarm = loop.call_at(deadline, replies.put, TimeoutError())
    try:
        _, is_new = await emit(session, stream, spec)
        ids = {"correlation_id": spec["correlation_id"], "request_id": request_id}
        with Receiving(session.server, inbox.name, ids) as receiving:
            if not is_new:
                replies.put(None)  # the request may have ended already
            try:
                reply = await wait_until_terminal(
                    replies,
                    lambda: read_outcome(session, request_id),
                    request_id=request_id,
                    timeout=timeout,
                    on_stage=receiving.stage,
                    on_progress=on_progress,
                )
            except ReplyTimeout as error:
                raise await explain_timeout(session, error) from None
        return completed_or_raise(reply)
    finally:
        alarm.cancel()
        inbox.unsubscribe(request_id, replies)
        inbox.release_slot()


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
    ids = {"correlation_id": correlation_id, "request_id": request_id}
    with Receiving(session.server, stream, ids) as receiving:
        try:
            reply = await read_until_terminal(
                session,
                stream,
                correlation_id=correlation_id,
                request_id=request_id,
                timeout=timeout,
                backoff=backoff,
                on_stage=receiving.stage,
            )
        except ReplyTimeout as error:
            raise await explain_timeout(session, error) from None
    return completed_or_raise(reply)
