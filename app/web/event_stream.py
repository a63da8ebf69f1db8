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
from dataclasses import dataclass
from typing import Any

from sse_starlette import ServerSentEvent

from app.config import get_settings
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus
from sagastream import InvalidMessage, SagastreamError
from sagastream._codec.entries import decode_fields
from sagastream._redis.connection import entries

KINDS = ("stage", "move", "frame")
_BLOCK_MS = 500
_MOST = 100
_CURSOR = re.compile(r"(\d{1,20}-\d{1,20})(?:,(\d{1,20}-\d{1,20})){2}")
_BEGINNING = "0-0,0-0,0-0"

# A mission, and how far each of its streams was read.
_Place = tuple[str, tuple[str, ...]]


def cursor_of(event_id: str | None) -> list[str]:
    """How far each stream was read when an event was sent; the beginning if there is none.

    Raises:
        InvalidMessage: That is no id of an event.
    """
    if not _CURSOR.fullmatch(event_id or _BEGINNING):
        raise InvalidMessage("Last-Event-ID", "is not the id of an event of a mission")
    return (event_id or _BEGINNING).split(",")


class Events:
    """What happens to missions, for any number of readers.

    Readers that are equally far share what is read and made of it: many who look at one mission
    cost the server and this process little more than one.
    """

    def __init__(self) -> None:
        self._reads: dict[_Place, asyncio.Task[_Batch]] = {}

    async def of(self, saga_id: str, after: list[str]) -> AsyncIterator[bytes]:
        """What happens to a mission, in order, until it has ended.

        Args:
            saga_id: The mission.
            after: How far its streams have been seen.

        Yields:
            Server-sent events: `stage`, `move` and `frame` with the fields of their entries, and
            at last `end`.
        """
        read, is_over = tuple(after), False
        while not is_over:
            try:
                batch = await self._shared(saga_id, read)
            except SagastreamError:
                await asyncio.sleep(_BLOCK_MS / 1000)
                continue
            for event in batch.events:
                yield event
            read, is_over = batch.read, batch.is_over

    async def _shared(self, saga_id: str, read: tuple[str, ...]) -> "_Batch":
        place = (saga_id, read)
        if place not in self._reads:
            self._reads[place] = asyncio.create_task(_next(saga_id, read))
            self._reads[place].add_done_callback(lambda done: self._end(place, done))
        return await asyncio.shield(self._reads[place])

    def _end(self, place: "_Place", done: "asyncio.Task[_Batch]") -> None:
        del self._reads[place]
        if not done.cancelled():
            done.exception()  # whoever still waits is told of it; nobody may be left


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events, how far the streams were read with them, and whether they were the last ones."""

    events: list[bytes]
    read: tuple[str, ...]
    is_over: bool


async def _next(saga_id: str, after: tuple[str, ...]) -> _Batch:
    read = dict(zip(_streams(saga_id), after, strict=True))
    call = ("XREAD", "COUNT", _MOST)
    streams = ("STREAMS", *read, *read.values())
    connection = get_bus().session().connection
    answer = await connection.call(*call, *streams)
    is_over = False
    if not answer:
        # What the journal says before a read that finds nothing holds for all that was read.
        is_over = (await mission_runner().journal(saga_id)).is_over
        wait = () if is_over else ("BLOCK", _BLOCK_MS)
        read_again = connection.call if is_over else connection.block
        answer = await read_again(*call, *wait, *streams)
    events = [event.encode() for event in _in_order(answer, read)]
    if is_over and not answer:
        end = ServerSentEvent(event="end", data="{}", id=",".join(after))
        return _Batch([end.encode()], after, is_over=True)
    return _Batch(events, tuple(read.values()), is_over=False)


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
