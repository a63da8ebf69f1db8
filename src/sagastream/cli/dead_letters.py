"""`sagastream dead`: list, show, retry and drop dead letters."""

import argparse
import json
from typing import Any

from sagastream.bus import Bus
from sagastream.inspection import scan
from sagastream.redelivery import drop_dead_letter, find_dead_letter, retry_dead_letter
from sagastream.status import DeadLetter, dead_letters


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
    return _row(await find_dead_letter(bus, options.stream, options.id))


async def retry_letter(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Emit the command of a dead letter again."""
    letter = await find_dead_letter(bus, options.stream, options.id)
    return {"request_id": await retry_dead_letter(bus, options.stream, letter.letter_id)}


async def drop_letter(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Delete a dead letter."""
    letter = await find_dead_letter(bus, options.stream, options.id)
    await drop_dead_letter(bus, letter)
    return {"dropped": letter.letter_id}


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
