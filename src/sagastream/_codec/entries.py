"""Stream entries: their fields, how these are encoded, and which entries are refused.

Encoding and decoding are equally strict: what is encoded can be decoded, and everything else in
a stream is refused with an `InvalidMessage` that names the field.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sagastream._codec.payload import MAX_PAYLOAD_BYTES, decode_payload
from sagastream._codec.validation import MAX_NAME_LENGTH, check_name
from sagastream.errors import InvalidMessage
from sagastream.message import STAGES, Command

SCHEMA_VERSION = "1"

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
        "context",
        "v",
    },
)
_NAMES = {name.encode(): name for name in _COMMAND_FIELDS | {"status", "epoch"}}
_MAX_FIELDS = 100
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """An entry of any stream.

    Attributes:
        stream: The stream's name, without the namespace.
        entry_id: Its id in that stream.
        fields: Its fields as text; bytes that are not UTF-8 are replaced.
    """

    stream: str
    entry_id: str
    fields: dict[str, str]

    def reply(self, *, max_bytes: int = MAX_PAYLOAD_BYTES) -> dict[str, Any]:
        """Read it as a reply: its fields with `payload` decoded, and `entry_id`.

        Raises:
            InvalidMessage: A field is invalid; names the first one.
        """
        raw = {name.encode(): value.encode() for name, value in self.fields.items()}
        return decode_reply(raw, max_bytes=max_bytes) | {"entry_id": self.entry_id}


def decode_fields(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """Decode an entry's fields and values as UTF-8, without a `context` that is not.

    Raises:
        InvalidMessage: Another field or value is not UTF-8.
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
        if name == "context":
            continue  # it is not part of the message: a malformed one is ignored
        try:
            fields[name] = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidMessage(name, "is not UTF-8") from error
    return fields


def text_fields(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """An entry's fields as text; bytes that are not UTF-8 are replaced."""
    return {
        name.decode(errors="replace"): value.decode(errors="replace") for name, value in raw.items()
    }


def decode_command(
    raw: Mapping[bytes, bytes],
    *,
    stream: str,
    entry_id: str,
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> Command:
    """Read a command from an entry.

    `event_type` and `payload` are required. Without a `request_id` the identity is derived from
    stream and entry id; without a `correlation_id` it is the request id.

    Raises:
        InvalidMessage: A field is invalid; names the first one.
    """
    if len(raw) > _MAX_FIELDS:
        raise InvalidMessage("entry", f"has {len(raw)} fields, more than {_MAX_FIELDS}")
    fields = decode_fields(raw)
    if not _COMMAND_FIELDS.issuperset(fields):
        name = next(name for name in fields if name not in _COMMAND_FIELDS)
        raise InvalidMessage(name[:40], "is not a field of a command")
    _check_version(fields)
    for name in ("event_type", "payload"):
        if name not in fields:
            raise InvalidMessage(name, "is missing")
    request_id = fields.get("request_id") or _derived_id(stream, entry_id)
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


def is_newer_entry(raw: Mapping[bytes, bytes]) -> bool:
    """Whether a newer release wrote an entry."""
    version = raw.get(b"v", b"")
    return version.isdigit() and int(version[:9]) > int(SCHEMA_VERSION)


def unread_command(stream: str, entry_id: str) -> Command:
    """A command whose entry cannot be read here; only its place in the stream is known."""
    request_id = _derived_id(stream, entry_id)
    return Command({}, request_id, request_id, "", "", stream=stream, entry_id=entry_id)


def decode_reply(
    raw: Mapping[bytes, bytes],
    *,
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> dict[str, Any]:
    """Read a reply from an entry: every field as text, `payload` decoded.

    Raises:
        InvalidMessage: A field is invalid; names the first one.
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


def _derived_id(stream: str, entry_id: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{stream}#{entry_id}"))


def _check_version(fields: Mapping[str, str]) -> None:
    version = fields.get("v", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise InvalidMessage(
            "v",
            f"schema version {version[:20]!r} is not known here (known: {SCHEMA_VERSION})",
        )
