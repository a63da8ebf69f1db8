"""The newest events of one mission, which one task reads for all clients that watch it.

The task makes one blocking read at a time. It keeps what it has read in a window of limited size,
so that a client that is slow keeps nothing alive.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from app.missions.mission_saga import mission_runner
from app.web.mission_history import START, Batch, Event, Position, last_position, later, read_batch
from sagastream import SagastreamError
from sagastream.errors import SagaError

_BLOCK_S = 1.0
RETRY_S = 0.5
_WINDOW_EVENTS = 1000
_WINDOW_BYTES = 1024 * 1024


@dataclass(slots=True, eq=False)
class MissionFeed:
    """The newest events of one mission, for all who watch it.

    Attributes:
        start: The position before the first event of the window; None until it is known.
        position: The position behind the last one.
        window: The newest events.
        dropped: How many events have left the window.
        size: The bytes of the window.
        is_over: Whether the mission has ended, and the window ends with its last event.
        is_closed: Whether the window gets no more events.
        changed: Set, and replaced, when one of the above has changed.
        watchers: How many clients watch.
        reader: The task that reads.
    """

    start: Position | None = None
    position: Position = START
    window: deque[Event] = field(default_factory=deque)
    dropped: int = 0
    size: int = 0
    is_over: bool = False
    is_closed: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    reader: asyncio.Task[None] | None = None

    def covers(self, position: Position) -> bool:
        """Whether no event after a position has left the window."""
        return self.start is not None and position == later(position, self.start)

    def events(self, number: int) -> list[Event]:
        """The events of the window, from the one with this number on."""
        window = self.window
        return [window[index] for index in range(number - self.dropped, len(window))]

    async def follow(self, saga_id: str) -> None:
        """Read until the mission has ended, or is no longer kept."""
        try:
            while not self.is_over:
                try:
                    await self._read(saga_id)
                except SagaError:
                    return
                except SagastreamError:
                    await asyncio.sleep(RETRY_S)
        finally:
            self.is_closed = True
            self._wake()

    async def _read(self, saga_id: str) -> None:
        if self.start is None:
            self.start = self.position = await last_position(saga_id)
            self._wake()
        batch, is_over = await read_batch(saga_id, self.position), False
        if not batch.events:
            # Read the journal before the last read: if the mission has ended by then, and the last
            # read returns nothing, no event is missing.
            is_over = (await mission_runner().journal(saga_id)).is_over
            block_s = 0.0 if is_over else _BLOCK_S
            batch = await read_batch(saga_id, self.position, block_s=block_s)
        self._add(batch, self.start)
        self.is_over = is_over and not batch.events
        if batch.events:
            self._wake()

    def _add(self, batch: Batch, start: Position) -> None:
        """Append events; drop the oldest ones that exceed the limits of the window."""
        self.window.extend(batch.events)
        self.position = batch.position
        self.size += sum(len(event.body) for event in batch.events)
        while len(self.window) > _WINDOW_EVENTS or self.size > _WINDOW_BYTES:
            oldest = self.window.popleft()
            start = oldest.after(start)
            self.size -= len(oldest.body)
            self.dropped += 1
        self.start = start

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
