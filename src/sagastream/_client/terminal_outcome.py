"""The terminal outcome of a request: read it from the record, raise it for the requester."""

from typing import Any

from sagastream._client.session import Session
from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._codec.payload import decode_payload
from sagastream.errors import DeadlineExceeded, HandlerLost, RequestCancelled, RequestFailed
from sagastream.message import TERMINAL_STAGES

_FAILURES: dict[Any, type[RequestFailed]] = {
    "HandlerLost": HandlerLost,
    "DeadlineExceeded": DeadlineExceeded,
}
# The fields of a reply, in their order. When a request has ended, its record has the same fields
# with the values of the terminal reply.
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


async def read_outcome(session: Session, request_id: str) -> dict[str, Any] | None:
    """Read the terminal reply from a request's record; None while there is none.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    record = session.options.record_key(request_id)
    stored = await session.connection.call("HMGET", record, *_REPLY_FIELDS)
    reply: dict[str, Any] = {
        name: value.decode() if value else ""
        for name, value in zip(_REPLY_FIELDS, stored, strict=True)
    }
    if reply["status"] not in TERMINAL_STAGES:
        return None
    reply["v"] = SCHEMA_VERSION
    reply["payload"] = decode_payload(reply["payload"], max_bytes=len(reply["payload"].encode()))
    return reply


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
