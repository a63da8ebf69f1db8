"""A stream entry: its fields, their encoding, what is refused, and why.

Strict both ways: what this module encodes it also decodes, and whatever else is found
in a stream is refused with an `InvalidMessage` that names the field. It knows nothing
of servers, requests in flight or handlers.
"""

import math
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sagastream._codec.payload import MAX_PAYLOAD_BYTES, decode_payload
from sagastream.errors import InvalidMessage

SCHEMA_VERSION = "1"
MAX_NAME_LENGTH = 256

TERMINAL_STAGES = frozenset({"completed", "failed", "cancelled"})
STAGES = frozenset({"start", "progress"}) | TERMINAL_STAGES

_COMMAND_FIELDS = frozenset(
    {
        "correlation_id",
        "request_id",
        "saga_id",
        "event_type",
        "payload",
        "reply_stream",
        "deadline",
        "timestamp",
        "traceparent",
        "tracestate",
        "parent_span_id",
        "v",
    },
)
_NAMES = {name.encode(): name for name in _COMMAND_FIELDS | {"status", "epoch"}}
_NAME = re.compile(r"[^\s\x00-\x1f\x7f{}]+")
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Command:
    """A command as its handler sees it.

    Attributes:
        payload: What was asked, decoded from JSON.
        request_id: The identity of the request.
        correlation_id: One for everything that belongs together.
        saga_id: The saga that this is a step of, '' if none.
        event_type: `domain:action`.
        traceparent: W3C trace context of whoever asked, '' if it was not traced.
        parent_span_id: The span that asked, 16 hex digits or ''.
        deadline: Absolute, server time in milliseconds; None without one.
        epoch: Which claim of the request this is; 1 for the first.
        stream: The command stream, without the namespace.
        entry_id: The entry's id in that stream.
        reply_stream: Where the requester reads, '' if nowhere.
        tracestate: W3C trace state, '' if none.
        last_progress: The payload of the last progress that an earlier claim reported, {} if
            there is none: what a handler that takes over can go on from.
    """

    payload: dict[str, Any]
    request_id: str
    correlation_id: str
    saga_id: str
    event_type: str
    traceparent: str = ""
    parent_span_id: str = ""
    deadline: int | None = None
    epoch: int = 0
    stream: str = ""
    entry_id: str = ""
    reply_stream: str = ""
    tracestate: str = ""
    last_progress: dict[str, Any] = field(default_factory=dict)


def check_name(field: str, value: str, *, required: bool = True) -> str:
    """Check an id, a stream name or an event type.

    Raises:
        InvalidMessage: Not text, empty though required, too long, or with white space,
            control characters or braces (braces belong to the namespace).
    """
    if not isinstance(value, str):
        raise InvalidMessage(field, f"must be text, not {type(value).__name__}")
    if not value and not required:
        return value
    if len(value) <= MAX_NAME_LENGTH and value.isascii() and _NAME.fullmatch(value):
        return value
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidMessage(field, f"is longer than {MAX_NAME_LENGTH} characters")
    if not _NAME.fullmatch(value):
        raise InvalidMessage(
            field,
            f"{value[:40]!r} must not be empty, nor have white space, control characters or braces",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(field, "has a lone surrogate, which is no text") from error
    return value


def check_seconds(field: str, value: float) -> float:
    """Check a duration.

    Raises:
        InvalidMessage: It is no finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidMessage(field, f"must be a number of seconds above 0, not {value!r}")
    if not math.isfinite(value):
        raise InvalidMessage(field, "must be finite")
    return value


def as_milliseconds(field: str, value: float | None) -> int | None:
    """Check a duration in seconds, and give it in milliseconds; None stays None.

    Raises:
        InvalidMessage: It is no finite number above 0.
    """
    return None if value is None else max(1, round(check_seconds(field, value) * 1000))


def check_count(field: str, value: int | None) -> int | None:
    """Check a number of things; None stays None.

    Raises:
        InvalidMessage: It is no whole number above 0.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidMessage(field, f"must be a whole number above 0, not {value!r}")
    return value


# Random digits for ids: asking the system for each id costs more than all the rest of it.
_digits: list[str] = []
os.register_at_fork(after_in_child=_digits.clear)
_DIGITS = 32


def new_id() -> str:
    """A random UUID, version 4, as text; quicker than the standard library's."""
    try:
        digits = _digits.pop()
    except IndexError:
        drawn = os.urandom(16 * 128).hex()
        _digits.extend(drawn[at : at + _DIGITS] for at in range(0, len(drawn), _DIGITS))
        digits = _digits.pop()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def decode_fields(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """Decode an entry's fields and values as UTF-8.

    Raises:
        InvalidMessage: A field or value is not UTF-8.
    """
    try:
        return {_NAMES.get(name) or name.decode(): value.decode() for name, value in raw.items()}
    except UnicodeDecodeError:
        pass
    fields: dict[str, str] = {}
    for key, value in raw.items():
        try:
            name = key.decode()
        except UnicodeDecodeError as error:
            raise InvalidMessage(repr(key[:40]), "is not UTF-8") from error
        try:
            fields[name] = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidMessage(name, "is not UTF-8") from error
    return fields


def decode_command(
    raw: Mapping[bytes, bytes],
    *,
    stream: str,
    entry_id: str,
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> Command:
    """Read a command from an entry.

    `event_type` and `payload` must be there. Without a `request_id` the entry's own place
    becomes its identity, without a `correlation_id` the request is its own.

    Raises:
        InvalidMessage: Names the first field that is not what it must be.
    """
    fields = decode_fields(raw)
    if not _COMMAND_FIELDS.issuperset(fields):
        name = next(name for name in fields if name not in _COMMAND_FIELDS)
        raise InvalidMessage(name[:40], "is not a field of a command")
    _check_version(fields)
    for name in ("event_type", "payload"):
        if name not in fields:
            raise InvalidMessage(name, "is missing")
    request_id = fields.get("request_id") or str(
        uuid.uuid5(uuid.NAMESPACE_URL, f"{stream}#{entry_id}"),
    )
    deadline = fields.get("deadline", "")
    for name in ("deadline", "timestamp"):
        if fields.get(name) and not _MILLISECONDS.fullmatch(fields[name]):
            raise InvalidMessage(name, "must be milliseconds in decimal digits")
    parent_span_id = fields.get("parent_span_id", "")
    return Command(
        payload=decode_payload(fields["payload"], max_bytes=max_bytes),
        request_id=check_name("request_id", request_id),
        correlation_id=check_name("correlation_id", fields.get("correlation_id") or request_id),
        saga_id=check_name("saga_id", fields.get("saga_id", ""), required=False),
        event_type=check_name("event_type", fields["event_type"]),
        traceparent=fields.get("traceparent", "")[:MAX_NAME_LENGTH],
        tracestate=fields.get("tracestate", "")[: 2 * MAX_NAME_LENGTH],
        parent_span_id=parent_span_id if _SPAN_ID.fullmatch(parent_span_id) else "",
        deadline=int(deadline) if deadline else None,
        stream=stream,
        entry_id=entry_id,
        reply_stream=check_name("reply_stream", fields.get("reply_stream", ""), required=False),
    )


def decode_reply(
    raw: Mapping[bytes, bytes],
    *,
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> dict[str, Any]:
    """Read a reply from an entry: every field as text, `payload` decoded.

    Raises:
        InvalidMessage: Names the first field that is not what it must be.
    """
    reply: dict[str, Any] = dict(decode_fields(raw))
    _check_version(reply)
    for name in ("request_id", "status"):
        if name not in reply:
            raise InvalidMessage(name, "is missing")
    if reply["status"] not in STAGES:
        raise InvalidMessage("status", f"must be one of {', '.join(sorted(STAGES))}")
    reply["payload"] = decode_payload(reply.get("payload", "{}"), max_bytes=max_bytes)
    return reply


def _check_version(fields: Mapping[str, str]) -> None:
    version = fields.get("v", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise InvalidMessage(
            "v",
            f"schema version {version[:20]!r} is not known here (known: {SCHEMA_VERSION})",
        )
