"""Reject an entry that cannot be begun: it becomes a dead letter."""

import contextlib
import json
import logging
from collections.abc import Mapping

from sagastream._client.commands import failure_payload, stage_fields
from sagastream._client.session import Session
from sagastream._codec.entries import decode_fields
from sagastream._codec.validation import check_name
from sagastream._telemetry import metrics, spans
from sagastream._telemetry.operations import operation_on
from sagastream._worker.consumer import Delivery
from sagastream.errors import InvalidMessage

logger = logging.getLogger(__name__)

# This many fields of an entry are fields of its dead letter.
_LETTER_FIELDS = 100


async def reject(session: Session, group: str, delivery: Delivery, error: Exception) -> None:
    """Turn an entry into a dead letter, with a failed reply where one can be written.

    Args:
        session: The server.
        group: The consumer group.
        delivery: The entry.
        error: Why it cannot be begun.

    Raises:
        ServerUnavailable: The server did not answer.
        ServerError: The dead letters' stream is a key of another type.
    """
    stream, entry_id, raw = delivery.stream, delivery.entry_id, delivery.raw
    error_type, options = type(error).__name__, session.options
    logger.warning("%s %s is a dead letter: %s: %s", stream, entry_id, error_type, error)
    ids = _readable_ids(raw)
    reply: dict[str, str] = {}
    if ids["request_id"]:
        reply = stage_fields(ids, "failed", failure_payload(error_type, str(error)))
    letter = [*_letter(raw), "dead_reason", f"{error_type}: {error}", "dead_entry_id", entry_id]
    record = options.record_key(ids["request_id"])
    message = ids | {"entry_id": entry_id, "group": group}
    with spans.settling("reject", session.server, stream, message):
        await session.streams.reject(
            options.key(stream),
            options.key(f"{stream}:dead"),
            record,
            options.key(ids["reply_stream"]) if ids["reply_stream"] else record,
            group=group,
            entry_id=entry_id,
            letter=letter,
            reply=reply,
        )
    operation = operation_on("reject", "settle", session.server, stream, group)
    metrics.dead_lettered(operation.series, error_type)


def _letter(raw: Mapping[bytes, bytes]) -> list[bytes | str]:
    """The fields of an entry for its dead letter; those past a limit are one field, as JSON."""
    pairs = list(raw.items())
    fields: list[bytes | str] = [part for pair in pairs[:_LETTER_FIELDS] for part in pair]
    if len(pairs) > _LETTER_FIELDS:
        more = {_text(name): _text(value) for name, value in pairs[_LETTER_FIELDS:]}
        fields += ["dead_more_fields", json.dumps(more)]
    return fields


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _readable_ids(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """The ids of a malformed command that can be read, '' for the others."""
    ids = {"request_id": "", "correlation_id": "", "saga_id": "", "reply_stream": ""}
    for name in ids:
        with contextlib.suppress(InvalidMessage, KeyError):
            value = decode_fields({b"": raw[name.encode()]})[""]
            ids[name] = check_name(name, value)
    return ids
