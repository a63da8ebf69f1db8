"""The end of a request: how it is stored, and what it means to whoever asked."""

from collections.abc import Sequence
from typing import Any

from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._codec.payload import decode_payload
from sagastream.errors import DeadlineExceeded, HandlerLost, RequestCancelled, RequestFailed
from sagastream.message import TERMINAL_STAGES

_FAILURES: dict[Any, type[RequestFailed]] = {
    "HandlerLost": HandlerLost,
    "DeadlineExceeded": DeadlineExceeded,
}

# The fields of a reply, in their order. A record has those of the terminal one from the end on.
REPLY_FIELDS = (
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


def completed_or_raise(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a completed reply; raise what the others stand for."""
    if reply["status"] == "failed":
        raise _FAILURES.get(reply["payload"].get("error_type"), RequestFailed)(reply)
    if reply["status"] == "cancelled":
        raise RequestCancelled(reply)
    return reply


def decode_record(stored: Sequence[bytes | None]) -> dict[str, Any] | None:
    """The terminal reply in a record, from the values of `REPLY_FIELDS`; None while there is none."""
    reply: dict[str, Any] = {
        name: value.decode() if value else ""
        for name, value in zip(REPLY_FIELDS, stored, strict=True)
    }
    if reply["status"] not in TERMINAL_STAGES:
        return None
    reply["v"] = SCHEMA_VERSION
    reply["payload"] = decode_payload(reply["payload"], max_bytes=len(reply["payload"].encode()))
    return reply
