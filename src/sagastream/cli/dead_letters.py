"""`sagastream dead`: list, show and retry dead letters."""

import uuid

from sagastream._codec.entries import decode_command
from sagastream.bus import Bus
from sagastream.errors import SagastreamError
from sagastream.status import DeadLetter, dead_letters

_LETTER_FIELDS = (b"dead_reason", b"dead_entry_id")


class NoSuchLetter(SagastreamError):
    """There is no dead letter with that id."""


async def find(bus: Bus, stream: str, letter_id: str = "") -> list[DeadLetter]:
    """The dead letters of a command stream, the oldest first, or the one with that id.

    Raises:
        NoSuchLetter: There is none with that id.
        InvalidMessage: The id is not the id of an entry.
    """
    letters = await dead_letters(bus, stream, letter_id=letter_id)
    if letter_id and not letters:
        raise NoSuchLetter(f"{stream}:dead has no letter {letter_id}; see: dead list {stream}")
    return letters


async def retry(bus: Bus, stream: str, letter_id: str) -> str:
    """Emit the command of a dead letter again; two calls emit it once.

    The old request stays ended: this is a new request, with an id derived from the letter's. The
    letter is deleted when the command is in the stream.

    Returns:
        The new request's id.

    Raises:
        NoSuchLetter: There is none with that id.
        InvalidMessage: The letter is not a command, so that it cannot be retried.
    """
    (letter,) = await find(bus, stream, letter_id)
    letter_id, key = letter.letter_id, bus.key(f"{stream}:dead")
    found = await bus.command("XRANGE", key, letter_id, letter_id)
    if not found:
        raise NoSuchLetter(f"another process has just retried the letter {letter_id}")
    ((_, fields),) = found
    raw = {name: value for name, value in fields.items() if name not in _LETTER_FIELDS}
    command = decode_command(raw, stream=stream, entry_id=letter_id, max_bytes=bus.max_payload)
    request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{command.request_id}#{letter_id}"))
    await bus.emit_command(
        stream,
        event_type=command.event_type,
        payload=command.payload,
        correlation_id=command.correlation_id,
        saga_id=command.saga_id,
        request_id=request_id,
        reply_stream=command.reply_stream,
    )
    await bus.command("XDEL", key, letter_id)
    return request_id
