"""The event stream of a mission (server-sent events), which a client can resume at any event.

It merges three streams: the stages of the steps, the transitions of the journal (`move` events),
and the recorded frames. An event's id holds the position in each of the three, so that a client
that lost its connection resumes after the last event that it received, without gap or repeat.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sse_starlette import ServerSentEvent

from app.config import get_settings
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus, payload_of
from sagastream import InvalidMessage, SagastreamError, StreamEntry

EVENT_KINDS = ("stage", "move", "frame")
_BLOCK_S = 0.5
_BATCH = 100  # entries per stream and read
_CURSOR = re.compile(r"(\d{1,20}-\d{1,20})(?:,(\d{1,20}-\d{1,20})){2}")
_START = "0-0,0-0,0-0"

# A mission's id, and the id of the last entry read from each of its streams.
_Position = tuple[str, tuple[str, ...]]


def cursor_of(event_id: str | None) -> list[str]:
    """Return the position in each stream that an event id holds; the start for None.

    Raises:
        InvalidMessage: It is not the id of an event.
    """
    if not _CURSOR.fullmatch(event_id or _START):
        raise InvalidMessage("Last-Event-ID", "is not the id of an event of a mission")
    return (event_id or _START).split(",")


class MissionEvents:
    """The events of missions, for any number of clients.

    Clients at the same position share one read and its encoded events: many viewers of a mission
    cost the server and this process little more than one.
    """

    def __init__(self) -> None:
        self._reads: dict[_Position, asyncio.Task[_Batch]] = {}

    async def of(self, saga_id: str, after: list[str]) -> AsyncIterator[bytes]:
        """Yield the events of a mission, in order, until it has ended.

        Args:
            saga_id: The mission's id.
            after: The id of the last entry seen in each stream.

        Yields:
            Encoded events: `stage`, `move` and `frame` with the fields of their entries, and
            finally `end`.
        """
        position, is_over = tuple(after), False
        while not is_over:
            try:
                batch = await self._shared_read(saga_id, position)
            except SagastreamError:
                await asyncio.sleep(_BLOCK_S)
                continue
            for event in batch.events:
                yield event
            position, is_over = batch.position, batch.is_over

    async def _shared_read(self, saga_id: str, after: tuple[str, ...]) -> "_Batch":
        position = (saga_id, after)
        if position not in self._reads:
            self._reads[position] = asyncio.create_task(_read_batch(saga_id, after))
            self._reads[position].add_done_callback(lambda task: self._forget(position, task))
        return await asyncio.shield(self._reads[position])

    def _forget(self, position: "_Position", task: "asyncio.Task[_Batch]") -> None:
        del self._reads[position]
        if not task.cancelled():
            task.exception()  # mark as retrieved: all clients may have disconnected


@dataclass(frozen=True, slots=True)
class _Batch:
    """Encoded events, the position after them, and whether the mission has ended with them."""

    events: list[bytes]
    position: tuple[str, ...]
    is_over: bool


async def _read_batch(saga_id: str, after: tuple[str, ...]) -> _Batch:
    bus = get_bus()
    position = dict(zip(_streams(saga_id), after, strict=True))
    entries = await bus.read_entries(position, count=_BATCH)
    is_over = False
    if not entries:
        # Read the journal before the last read: if the mission has ended by then, and the last
        # read returns nothing, no event is missing.
        is_over = (await mission_runner().journal(saga_id)).is_over
        block_s = 0.0 if is_over else _BLOCK_S
        entries = await bus.read_entries(position, count=_BATCH, block_s=block_s)
    events = [event.encode() for event in _merge(entries, position)]
    if is_over and not entries:
        end = ServerSentEvent(event="end", data="{}", id=",".join(after))
        return _Batch([end.encode()], after, is_over=True)
    return _Batch(events, tuple(position.values()), is_over=False)


def _streams(saga_id: str) -> list[str]:
    """Return the streams of a mission, in the order of `EVENT_KINDS`."""
    recording = get_settings().recording_stream(saga_id)
    return [f"saga:{saga_id}:replies", f"saga:{saga_id}:journal", recording]


def _merge(entries: Sequence[StreamEntry], position: dict[str, str]) -> Iterator[ServerSentEvent]:
    """Yield the entries of several streams in the order of time; advance `position` with each."""
    kinds = dict(zip(position, EVENT_KINDS, strict=True))
    # A stream that filled its batch may have more entries. Later entries of other streams wait.
    counts = Counter(entry.stream for entry in entries)
    limits = [
        max(_time(entry) for entry in entries if entry.stream == stream)
        for stream, count in counts.items()
        if count == _BATCH
    ]
    ready = [entry for entry in entries if all(_time(entry) <= limit for limit in limits)]
    for entry in sorted(ready, key=lambda entry: (_time(entry), entry.stream)):
        position[entry.stream] = entry.entry_id
        fields: dict[str, Any] = dict(entry.fields)
        if "payload" in fields:
            fields |= _payload_of(fields["payload"])
        yield ServerSentEvent(
            event=kinds[entry.stream],
            data=json.dumps(fields | {"entry_id": entry.entry_id}),
            id=",".join(position.values()),
        )


def _payload_of(text: str) -> dict[str, Any]:
    """Return the payload of an entry as fields of its event; of a malformed one, what is wrong."""
    try:
        return {"payload": payload_of(text)}
    except InvalidMessage as error:
        return {"payload": {}, "malformed": str(error)[:200]}


def _time(entry: StreamEntry) -> tuple[int, ...]:
    """Return the milliseconds and the sequence number of an entry's id."""
    return tuple(int(part) for part in entry.entry_id.split("-"))
