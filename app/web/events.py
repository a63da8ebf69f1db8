"""Everything that happens to a mission, as one stream of events that can be taken up anywhere.

Three streams tell it: the stages of its steps, the moves of its journal, and its frames. The id
of an event is how far each of them was read, so that a page that lost its server goes on
behind the last event that it saw: none is missed and none comes twice.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sse_starlette import ServerSentEvent

from app.config import get_settings
from app.redis_utils import get_bus
from app.saga import mission_runner
from sagastream import InvalidMessage, SagastreamError
from sagastream.connection import entries
from sagastream.journal import ENDED
from sagastream.message import decode_fields

KINDS = ("stage", "move", "frame")
_BLOCK_MS = 500
_MOST = 100
_CURSOR = re.compile(r"(\d{1,20}-\d{1,20})(?:,(\d{1,20}-\d{1,20})){2}")
_BEGINNING = "0-0,0-0,0-0"


def cursor_of(event_id: str | None) -> list[str]:
    """How far each stream was read when an event was sent; the beginning if there is none.

    Raises:
        InvalidMessage: That is no id of an event.
    """
    if not _CURSOR.fullmatch(event_id or _BEGINNING):
        raise InvalidMessage("Last-Event-ID", "is not the id of an event of a mission")
    return (event_id or _BEGINNING).split(",")


async def events(saga_id: str, after: list[str]) -> AsyncIterator[ServerSentEvent]:
    """What happens to a mission, in order, until it has ended.

    Args:
        saga_id: The mission.
        after: How far its streams have been seen.

    Yields:
        `stage`, `move` and `frame` with the fields of their entries, and at last `end`.
    """
    read = dict(zip(_streams(saga_id), after, strict=True))
    over, answer = False, None
    while True:
        try:
            # What the journal says before a read that finds nothing holds for all that was read.
            # While there is something to read, it is not asked: whoever looks costs a mission little.
            if not answer:
                over = (await mission_runner().journal(saga_id)).status in ENDED
            answer = (
                await get_bus()
                .endpoint()
                .connection.block(
                    *("XREAD", "COUNT", _MOST, "BLOCK", 1 if over else _BLOCK_MS),
                    *("STREAMS", *read, *read.values()),
                )
            )
        except (SagastreamError, OSError):
            await asyncio.sleep(_BLOCK_MS / 1000)
            continue
        for event in _in_order(answer, read):
            yield event
        if over and not answer:
            yield ServerSentEvent(event="end", data="{}", id=",".join(read.values()))
            return


def _streams(saga_id: str) -> list[str]:
    key = get_bus().key
    recording = get_settings().recording_stream(saga_id)
    return [key(f"saga:{saga_id}:replies"), key(f"saga:{saga_id}:journal"), key(recording)]


def _in_order(answer: Any, read: dict[str, str]) -> Iterator[ServerSentEvent]:
    """The entries of several streams by their time; `read` is moved on as they come."""
    kinds = dict(zip(read, KINDS, strict=True))
    found = [
        (tuple(int(part) for part in entry_id.split(b"-")), key.decode(), entry_id.decode(), raw)
        for key, entry_id, raw in entries(answer)
    ]
    # Of a stream that has more to read, its rest is older than what others have behind that.
    full = [key for key, count in Counter(key for _, key, _, _ in found).items() if count == _MOST]
    ends = [max(time for time, key, _, _ in found if key == whose) for whose in full]
    ready = [entry for entry in found if all(entry[0] <= end for end in ends)]
    for _, key, entry_id, raw in sorted(ready, key=lambda entry: entry[:2]):
        read[key] = entry_id
        fields: dict[str, Any] = dict(decode_fields(raw))
        if "payload" in fields:
            fields["payload"] = json.loads(fields["payload"])
        yield ServerSentEvent(
            event=kinds[key],
            data=json.dumps(fields | {"entry_id": entry_id}),
            id=",".join(read.values()),
        )
