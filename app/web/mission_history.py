"""The events of a mission, read from its streams: positions, batches, and their encoding.

It merges three streams: the stages of the steps, the transitions of the journal (`move` events),
and the recorded frames. A position holds the id of the last entry of each of the three, so that a
client that lost its connection resumes after the last event that it received, without gap or
repeat.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sse_starlette import ServerSentEvent

from app.config import get_settings
from app.redis_utils import get_bus, payload_of, read_streams
from sagastream import InvalidMessage, ServerError, StreamEntry

EVENT_KINDS = ("stage", "move", "frame")
_BATCH = 100  # entries per stream and read
_BATCH_BYTES = 256 * 1024  # of encoded events that one batch holds
_TICK_S = 0.002  # in which the server's clock moves on by more than a millisecond
_POSITION = re.compile(r"(\d{1,20}-\d{1,20})(?:,(\d{1,20}-\d{1,20})){2}")
_LARGEST = 2**64 - 1  # of each half of an entry's id

# An entry's id: its milliseconds and its sequence number.
EntryId = tuple[int, int]
# The id of the last entry of each stream, in the order of `EVENT_KINDS`.
Position = tuple[EntryId, ...]
START: Position = ((0, 0),) * len(EVENT_KINDS)


@dataclass(frozen=True, slots=True)
class Event:
    """An event without its id, which is the position of the client after it.

    Attributes:
        stream: The index of its stream in `EVENT_KINDS`.
        entry_id: The id of its entry in that stream.
        body: Its kind and its data, encoded.
    """

    stream: int
    entry_id: EntryId
    body: bytes

    def is_behind(self, position: Position) -> bool:
        """Whether a client at this position has not seen it."""
        return self.entry_id > position[self.stream]

    def after(self, position: Position) -> Position:
        """The position of a client that has seen it, too."""
        return (*position[: self.stream], self.entry_id, *position[self.stream + 1 :])

    def encode(self, position: Position) -> bytes:
        """The event with its id."""
        return f"id: {_text(position)}\r\n".encode() + self.body


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in order of time, and the position after them."""

    events: list[Event]
    position: Position


def position_of(event_id: str | None) -> Position:
    """Return the position that an event id holds; the start for None.

    Raises:
        InvalidMessage: It is not the id of an event.
    """
    if event_id is None:
        return START
    position: Position = ()
    if _POSITION.fullmatch(event_id):
        position = tuple(_entry_id(part) for part in event_id.split(","))
    if not position or max(max(ids) for ids in position) > _LARGEST:
        raise InvalidMessage("Last-Event-ID", "is not the id of an event of a mission")
    return position


def later(one: Position, other: Position) -> Position:
    """Return the position of a client that has seen all that either of two has seen."""
    return tuple(max(pair) for pair in zip(one, other, strict=True))


def end_event(position: Position) -> bytes:
    """The event that says that the mission has ended, encoded."""
    return ServerSentEvent(event="end", data="{}", id=_text(position)).encode()


async def last_position(saga_id: str) -> Position:
    """Return the position behind the newest entries.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    position = []
    for stream in _streams(saga_id):
        try:
            newest = await get_bus().last_entries(stream, 1)
        except ServerError:  # the key is no stream: it has no entries
            newest = []
        position.append(_entry_id(newest[0].entry_id) if newest else (0, 0))
    return tuple(position)


async def json_lines(saga_id: str) -> AsyncIterator[bytes]:
    """Yield the stages of a mission and the transitions of its journal, as JSON lines, in order.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    position = START
    while (batch := await read_batch(saga_id, position)).events:
        for event in batch.events:
            if EVENT_KINDS[event.stream] != "frame":
                yield event.body.partition(b"data: ")[2].strip() + b"\n"
        position = batch.position


async def read_frames_between(saga_id: str, after: str, until: str) -> list[dict[str, Any]]:
    """Read the entries of a recording that follow one, up to another; as many as one batch holds.

    Args:
        saga_id: The mission's id.
        after: The id of an entry.
        until: The id of the last one to return.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    stream = get_settings().recording_stream(saga_id)
    found: list[dict[str, Any]] = []
    size = 0
    for entry in await read_streams(
        {stream: _id_text(_checked_id(after))}, count=_BATCH, block_s=0.0
    ):
        size += len(entry.fields.get("payload", ""))
        if _entry_id(entry.entry_id) > _checked_id(until) or (found and size > _BATCH_BYTES):
            break
        found.append(_event_fields(_entry_id(entry.entry_id), entry.fields))
    return found


async def read_one(saga_id: str, kind: str, entry_id: str) -> dict[str, Any] | None:
    """Read one entry of a mission's streams; None if it is not there.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    milliseconds, sequence = wanted = _checked_id(entry_id)
    if not milliseconds and not sequence:
        return None
    before = (milliseconds, sequence - 1) if sequence else (milliseconds - 1, _LARGEST)
    stream = _streams(saga_id)[EVENT_KINDS.index(kind)]
    entries = await get_bus().read_entries({stream: _id_text(before)}, count=1)
    if not entries or _entry_id(entries[0].entry_id) != wanted:
        return None
    return _event_fields(wanted, entries[0].fields)


async def read_batch(saga_id: str, after: Position, *, block_s: float = 0.0) -> Batch:
    """Read the events that follow a position.

    Args:
        saga_id: The mission's id.
        after: The position.
        block_s: Wait this long for the first event if there is none.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    streams = _streams(saga_id)
    position_by_stream = dict(zip(streams, map(_id_text, after), strict=True))
    entries = await read_streams(position_by_stream, count=_BATCH, block_s=block_s)
    if entries:
        # Another stream may get an entry in the same millisecond, and clients that read it later
        # would see another order. No entry of that time comes after this.
        newest = max(map(_milliseconds, entries))
        await asyncio.sleep(_TICK_S)
        entries = [
            entry
            for entry in await read_streams(position_by_stream, count=_BATCH, block_s=0.0)
            if _milliseconds(entry) <= newest
        ]
    events: list[Event] = []
    size, position = 0, after
    for event in _merge(entries, {stream: index for index, stream in enumerate(streams)}):
        size += len(event.body)
        if events and size > _BATCH_BYTES:
            break
        events.append(event)
        position = event.after(position)
    return Batch(events, position)


def _streams(saga_id: str) -> list[str]:
    """Return the streams of a mission, in the order of `EVENT_KINDS`."""
    recording = get_settings().recording_stream(saga_id)
    return [f"saga:{saga_id}:replies", f"saga:{saga_id}:journal", recording]


def _merge(entries: Sequence[StreamEntry], indices: dict[str, int]) -> Iterator[Event]:
    """Yield the entries of several streams in the order of time."""
    # A stream that filled its batch may have more entries. Later entries of other streams wait.
    counts = Counter(entry.stream for entry in entries)
    limits = [
        max(_entry_id(entry.entry_id) for entry in entries if entry.stream == stream)
        for stream, count in counts.items()
        if count == _BATCH
    ]
    for entry_id, index, fields in sorted(_keyed(entries, indices), key=lambda each: each[:2]):
        if all(entry_id <= limit for limit in limits):
            yield Event(index, entry_id, _body(EVENT_KINDS[index], entry_id, fields))


def _keyed(
    entries: Iterable[StreamEntry], indices: dict[str, int]
) -> Iterator[tuple[EntryId, int, dict[str, str]]]:
    for entry in entries:
        yield _entry_id(entry.entry_id), indices[entry.stream], entry.fields


def _body(kind: str, entry_id: EntryId, entry: dict[str, str]) -> bytes:
    data = json.dumps(_event_fields(entry_id, entry))
    return ServerSentEvent(event=kind, data=data).encode()


def _event_fields(entry_id: EntryId, entry: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(entry)
    if "payload" in fields:
        fields |= _payload_of(fields["payload"])
    return fields | {"entry_id": _id_text(entry_id)}


def _payload_of(text: str) -> dict[str, Any]:
    """Return the payload of an entry as fields of its event; of a malformed one, what is wrong."""
    try:
        return {"payload": payload_of(text)}
    except InvalidMessage as error:
        return {"payload": {}, "malformed": str(error)[:200]}


def _entry_id(text: str) -> EntryId:
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence)


def _checked_id(text: str) -> EntryId:
    entry_id = _entry_id(text)
    if max(entry_id) > _LARGEST:
        raise InvalidMessage("entry id", f"each half must be at most {_LARGEST}")
    return entry_id


def _milliseconds(entry: StreamEntry) -> int:
    return _entry_id(entry.entry_id)[0]


def _id_text(entry_id: EntryId) -> str:
    return "{}-{}".format(*entry_id)


def _text(position: Position) -> str:
    return ",".join(map(_id_text, position))
