"""The end of a request: how it is stored, and what it means to whoever asked."""

import json
from typing import Any

from sagastream.errors import DeadlineExceeded, HandlerLost, RequestCancelled, RequestFailed
from sagastream.message import decode_payload

_FAILURES: dict[Any, type[RequestFailed]] = {
    "HandlerLost": HandlerLost,
    "DeadlineExceeded": DeadlineExceeded,
}


def completed_or_raise(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a completed reply; raise what the others stand for."""
    if reply["status"] == "failed":
        raise _FAILURES.get(reply["payload"].get("error_type"), RequestFailed)(reply)
    if reply["status"] == "cancelled":
        raise RequestCancelled(reply)
    return reply


def decode_stored(stored: str) -> dict[str, Any] | None:
    """The terminal reply of a record, None while there is none."""
    if not stored:
        return None
    flat = json.loads(stored)
    reply: dict[str, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
    reply["payload"] = decode_payload(reply["payload"], max_bytes=len(stored))
    return reply
