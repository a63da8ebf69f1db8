"""The delivery state of a mission: its open requests with their consumers, and its dead letters."""

import time
from typing import Any

from app.config import get_settings
from app.redis_utils import get_bus
from sagastream import InvalidMessage, ServerError
from sagastream.errors import UnknownLayout
from sagastream.saga import Journal
from sagastream.status import DeadLetter, dead_letters, request_status

_MAX_LETTERS = 1000
"""Dead letters to search per stream, newest first."""


async def deliveries_of(journal: Journal) -> dict[str, list[dict[str, Any]]]:
    """Read the open requests and the dead letters of a mission.

    Returns:
        `open`: step, direction, request_id, stream, status, age_s, and the consumer and attempts of
        the claim, with the seconds until its lease expires (negative if it has expired; None
        without a claim). `dead`: stream, id, event_type, reason.
    """
    requests = [
        await _open_request(entry.request_id)
        | {
            "step": entry.step,
            "direction": entry.direction,
            "request_id": entry.request_id,
            "age_s": time.time() - entry.started,
        }
        for entry in journal.entries
        if entry.status == "intended"
    ]
    dead = [
        {
            "stream": stream,
            "id": letter.letter_id,
            "event_type": letter.fields.get("event_type", "?"),
            "reason": letter.reason,
        }
        for stream in get_settings().step_streams
        for letter in await _letters(stream)
        if letter.fields.get("saga_id") == journal.saga_id
    ]
    return {"open": requests, "dead": dead}


async def waits_of(journal: Journal) -> str | None:
    """What the current request of a mission waits for, such as `limit exploration:perform area=office`.

    None if it does not wait, or if that cannot be read.
    """
    newest = journal.entries[-1] if journal.entries else None
    if newest is None or newest.status != "intended":
        return None
    try:
        status = await request_status(get_bus(), newest.request_id)
    except (InvalidMessage, ServerError, UnknownLayout):
        return None
    return (status.waits_for or None) if status else None


async def _open_request(request_id: str) -> dict[str, Any]:
    try:
        status = await request_status(get_bus(), request_id)
    except (InvalidMessage, ServerError, UnknownLayout) as error:
        return _unknown(f"unreadable: {error}")
    if status is None:
        return _unknown("not sent yet")
    return {
        "stream": status.stream,
        "status": status.status,
        "consumer": status.consumer,
        "attempts": status.attempts,
        "lease_s": status.lease_s,
    }


def _unknown(status: str) -> dict[str, Any]:
    return {"stream": "", "status": status, "consumer": "", "attempts": "", "lease_s": None}


async def _letters(stream: str) -> list[DeadLetter]:
    """Read the dead letters of a stream; none if its key is something else."""
    try:
        return await dead_letters(get_bus(), stream, newest=_MAX_LETTERS)
    except ServerError:
        return []
