"""The event streams of missions (server-sent events), which a client can resume at any event.

However many clients watch a mission, it is read once (`MissionFeed`). A client that is behind what
the feed keeps reads what it missed from the server, at its own pace, and nobody waits for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence

from app.web.mission_feed import RETRY_S, MissionFeed
from app.web.mission_history import Batch, Event, Position, end_event, later, read_batch
from sagastream import SagastreamError

# Bytes that a client gets at once, so that one that is slow holds no more.
_CHUNK_BYTES = 64 * 1024
# Reads of clients that are behind the window, at once.
_MAX_READS = 8


class MissionEvents:
    """The events of missions, for any number of clients."""

    def __init__(self) -> None:
        self._feeds: dict[str, MissionFeed] = {}
        self._reads: dict[tuple[MissionFeed, Position], asyncio.Task[Batch]] = {}
        self._reading = asyncio.Semaphore(_MAX_READS)

    async def of(self, saga_id: str, position: Position) -> AsyncGenerator[bytes]:
        """Yield the events of a mission, in order, until it has ended or is no longer kept.

        Args:
            saga_id: The mission's id.
            position: The position of the client.

        Yields:
            Encoded events, several at once if they are there: `stage`, `move` and `frame` with the
            fields of their entries, and finally `end`.
        """
        with self._watching(saga_id) as feed:
            number = None  # of the next event in the window of the feed
            while True:
                changed = feed.changed
                if number is None or number < feed.dropped:
                    number = feed.dropped if feed.covers(position) else None
                if number is None:
                    if feed.is_closed and not feed.is_over:
                        return
                    batch = await self._missed(saga_id, feed, position)
                    events, following = batch.events, batch.position
                else:
                    events, following = feed.events(number), position
                    number += len(events)
                for chunk, seen in _chunks(events, position):
                    yield chunk
                    following = later(following, seen)
                position = following
                if events:
                    continue
                if number is not None and feed.is_over:
                    yield end_event(position)
                    return
                if number is not None and feed.is_closed:
                    return
                if number is not None or feed.start is None:
                    await changed.wait()

    async def close(self) -> None:
        """End all event streams; their clients resume them at the next process."""
        tasks = [feed.reader for feed in self._feeds.values() if feed.reader]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @contextlib.contextmanager
    def _watching(self, saga_id: str) -> Iterator[MissionFeed]:
        """Share the feed of a mission; it ends with its last client."""
        feed = self._feeds.get(saga_id)
        # One whose mission has ended is not shared: the mission may have been resumed since.
        if feed is None or feed.is_closed:
            feed = self._feeds[saga_id] = MissionFeed()
            feed.reader = asyncio.create_task(feed.follow(saga_id))
        feed.watchers += 1
        try:
            yield feed
        finally:
            feed.watchers -= 1
            if not feed.watchers and feed.reader:
                feed.reader.cancel()
                if self._feeds.get(saga_id) is feed:
                    del self._feeds[saga_id]

    async def _missed(self, saga_id: str, feed: MissionFeed, position: Position) -> Batch:
        """Read the events after a position; clients at the same position share the read."""
        key = (feed, position)
        if key not in self._reads:
            self._reads[key] = asyncio.create_task(self._read(saga_id, feed, position))
            self._reads[key].add_done_callback(lambda read: self._forget(key, read))
        try:
            return await asyncio.shield(self._reads[key])
        except SagastreamError:
            await asyncio.sleep(RETRY_S)
            return Batch([], position)

    def _forget(self, key: tuple[MissionFeed, Position], read: "asyncio.Task[Batch]") -> None:
        del self._reads[key]
        if not read.cancelled():
            read.exception()  # mark as retrieved: all clients may have disconnected

    async def _read(self, saga_id: str, feed: MissionFeed, position: Position) -> Batch:
        async with self._reading:
            start = feed.start
            batch = await read_batch(saga_id, position)
        if start is None or batch.events:
            return batch
        # All that the feed had read by then was seen, or is no longer in the streams.
        return Batch([], later(position, start))


def _chunks(events: Sequence[Event], position: Position) -> Iterator[tuple[bytes, Position]]:
    """Yield the events that a client at a position has not seen, and its position after them."""
    chunk = bytearray()
    for event in events:
        if event.is_behind(position):
            position = event.after(position)
            chunk += event.encode(position)
            if len(chunk) >= _CHUNK_BYTES:
                yield bytes(chunk), position
                chunk.clear()
    if chunk:
        yield bytes(chunk), position
