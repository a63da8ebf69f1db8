"""The terminal outcome of a request: read it from the record, raise it for the requester."""

import asyncio
from typing import Any

from sagastream._client.session import Session
from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._codec.payload import decode_payload
from sagastream._functions.answers import Expired
from sagastream._redis.deadline import Deadline
from sagastream._redis.retrying import backoff_delays
from sagastream.errors import (
    DataLost,
    DeadlineExceeded,
    HandlerLost,
    NotReplicated,
    RequestCancelled,
    RequestFailed,
    ResultExpired,
    ServerUnavailable,
)
from sagastream.message import TERMINAL_STAGES

_FAILURES: dict[Any, type[RequestFailed]] = {
    "HandlerLost": HandlerLost,
    "DeadlineExceeded": DeadlineExceeded,
}
# The fields of a reply, in their order.
_REPLY_FIELDS = (
    "correlation_id",
    "request_id",
    "saga_id",
    "event_type",
    "status",
    "payload",
    "v",
    "traceparent",
    "tracestate",
    "parent_span_id",
    "epoch",
    "timestamp",
)


async def read_outcome(
    session: Session,
    request_id: str,
    *,
    deadline: Deadline | None = None,
    known: set[str] | None = None,
) -> dict[str, Any] | None:
    """Read the terminal reply from a request's record; None while there is none.

    Args:
        session: The server.
        request_id: The request.
        deadline: When to stop; None for the bus's `call_timeout_s`.
        known: The requests whose records the server has had; this one is added if it has it.

    Raises:
        ServerUnavailable: The server did not answer in time.
        DataLost: The server has had its record, and has none now.
        ResultExpired: The request has ended, and its result is no longer kept.
        UnknownLayout: A newer release wrote the record.
    """
    connection, record = session.connection, session.options.record_key(request_id)
    found = await session.requests.inspect(record, deadline=deadline)
    if isinstance(found, Expired):
        raise ResultExpired(request_id, found.status, found.ended_s)
    if known is not None:
        if found:
            known.add(request_id)
        elif request_id in known:
            raise DataLost(connection.address, f"it has no record of request {request_id} any more")
    if not found or found["status"] not in TERMINAL_STAGES:
        return None
    found |= {"request_id": request_id, "v": SCHEMA_VERSION}
    reply: dict[str, Any] = {name: found[name] for name in _REPLY_FIELDS}
    reply["payload"] = decode_payload(reply["payload"], max_bytes=len(reply["payload"].encode()))
    return reply


async def read_confirmed(
    session: Session, request_id: str, deadline: Deadline, *, known: set[str] | None = None
) -> dict[str, Any] | None:
    """As `read_outcome`, when replicas have it, where they have to confirm what is written.

    Raises:
        NotReplicated: Replicas have not confirmed it in time.
    """
    connection, replication = session.connection, session.options.servers.replication
    unconfirmed_until = Deadline(replication.within_s if replication else 0.0)
    for delay in backoff_delays():
        before = connection.generation
        found = await read_outcome(session, request_id, deadline=deadline, known=known)
        if not found or not replication:
            return found
        try:
            await connection.confirm(deadline=deadline)
        except NotReplicated:
            if unconfirmed_until.is_over:
                raise
        except ServerUnavailable:
            if deadline.is_over:
                raise
        else:
            if connection.generation == before:
                return found
        await asyncio.sleep(delay)
    raise AssertionError("backoff_delays never ends")


def completed_or_raise(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a completed reply; raise the error for any other.

    Raises:
        RequestFailed: The request failed.
        RequestCancelled: The request was cancelled.
    """
    if reply["status"] == "failed":
        raise _FAILURES.get(reply["payload"].get("error_type"), RequestFailed)(reply)
    if reply["status"] == "cancelled":
        raise RequestCancelled(reply)
    return reply
