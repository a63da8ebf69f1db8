"""`sagastream dead`: list, show, retry and drop dead letters."""

import argparse
import json
import uuid
from typing import Any

from sagastream._codec.entries import decode_command
from sagastream.bus import Bus
from sagastream.errors import SagastreamError
from sagastream.inspection import only_one, scan
from sagastream.status import DeadLetter, dead_letters

_LETTER_FIELDS = (b"dead_reason", b"dead_entry_id")
_LETTERS_AT_ONCE = 500


class NoSuchLetter(SagastreamError):
    """There is no dead letter with that id."""


async def list_letters(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The dead letters of a stream, or of all streams, the oldest first."""
    streams = [options.stream]
    if not options.stream:
        found = {name async for name in scan(bus, "*:dead", "stream")}
        streams = sorted(name.removesuffix(":dead") for name in found)
    rows = [_row(letter) for stream in streams for letter in await dead_letters(bus, stream)]
    return rows[: options.limit] if options.limit else rows


async def show_letter(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """A dead letter with all fields."""
    return _row(await find(bus, options.stream, options.id))


async def retry_letter(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Emit the command of a dead letter again."""
    letter = await find(bus, options.stream, options.id)
    return {"request_id": await retry(bus, options.stream, letter.letter_id)}


async def drop_letter(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Delete a dead letter."""
    letter = await find(bus, options.stream, options.id)
    await bus.command("XDEL", bus.key(f"{options.stream}:dead"), letter.letter_id)
    return {"dropped": letter.letter_id}


async def find(bus: Bus, stream: str, letter_id: str) -> DeadLetter:
    """The dead letter with that id, or the only one whose id begins so.

    Raises:
        NoSuchLetter: There is none with that id.
        AmbiguousId: Several ids begin so.
        InvalidMessage: The id is not the id of an entry, or its beginning.
    """
    if letters := await dead_letters(bus, stream, letter_id=letter_id):
        return letters[0]
    ids, key, first = set[str](), bus.key(f"{stream}:dead"), "-"
    while entries := await bus.command("XRANGE", key, first, "+", "COUNT", _LETTERS_AT_ONCE):
        ids |= {entry_id.decode() for entry_id, _ in entries}
        first = f"({entries[-1][0].decode()}"
    fitting = {each for each in ids if each.startswith(letter_id)}
    if not fitting:
        raise NoSuchLetter(f"{stream}:dead has no letter {letter_id}; see: dead list {stream}")
    (letter,) = await dead_letters(
        bus, stream, letter_id=only_one("dead letter", letter_id, fitting)
    )
    return letter


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
    key = bus.key(f"{stream}:dead")
    found = await bus.command("XRANGE", key, letter_id, letter_id)
    if not found:
        raise NoSuchLetter(f"another process has just retried or dropped the letter {letter_id}")
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


def text_of_list(rows: list[dict[str, Any]]) -> str:
    """A line for each letter."""
    lines = (f"{row['id']}  {row.get('event_type', '?')}  {row['dead_reason']}" for row in rows)
    return "\n".join(line.replace("\n", "\\n") for line in lines)


def text_of(row: dict[str, Any]) -> str:
    """All fields of a letter, or what was done."""
    for name in ("request_id", "dropped"):
        if list(row) == [name]:
            return str(row[name])
    return json.dumps(row, indent=2, sort_keys=True, ensure_ascii=False)


def _row(letter: DeadLetter) -> dict[str, Any]:
    # A field of the entry may have one of these names.
    return letter.fields | {
        "id": letter.letter_id,
        "stream": letter.stream,
        "dead_reason": letter.reason,
    }
