"""`JournalWriter`: the moves of one process that come at the same time are written together.

Branches of a saga move one journal. Without this each would win the compare-and-set alone, and all
others would read the journal again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sagastream.saga.state import Journal
from sagastream.saga.store import SagaStore, VersionedJournal

Move = Callable[[Journal], Journal]


@dataclass(slots=True, eq=False)
class _Queued:
    """A move that waits to be written, whether it changed the journal, and the journal after it.

    One that raises fails alone.
    """

    move: Move
    has_moved: bool = False
    written: VersionedJournal | None = None
    failure: Exception | None = None


@dataclass(slots=True)
class _Queue:
    """The moves of one saga."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    moves: list[_Queued] = field(default_factory=list)
    users: int = 0
    latest: VersionedJournal | None = None


class JournalWriter:
    """Writes the moves of sagas.

    Args:
        store: The journals.
    """

    def __init__(self, store: SagaStore) -> None:
        self._store = store
        self._queues: dict[str, _Queue] = {}

    async def change(self, current: VersionedJournal, move: Move) -> tuple[VersionedJournal, bool]:
        """Apply a pure move, together with those that wait; see `SagaStore.change`.

        Returns:
            The journal after it, and whether this move changed it.
        """
        saga_id = current.journal.saga_id
        queue = self._queues.setdefault(saga_id, _Queue())
        queued = _Queued(move)
        queue.moves.append(queued)
        queue.users += 1
        try:
            async with queue.lock:
                if queued.written is None:
                    await self._write(queue, current, queued)
        finally:
            if queued in queue.moves:
                queue.moves.remove(queued)
            queue.users -= 1
            if not queue.users:
                del self._queues[saga_id]
        if queued.failure is not None:
            raise queued.failure
        assert queued.written is not None
        return queued.written, queued.has_moved

    async def _write(self, queue: _Queue, current: VersionedJournal, own: _Queued) -> None:
        """Write all moves that wait; if that fails, those of others wait for the next writer."""
        if queue.latest and queue.latest.version > current.version:
            current = queue.latest
        group, queue.moves = queue.moves, []

        def move(journal: Journal) -> Journal:
            for each in group:
                each.has_moved, each.failure = False, None
                try:
                    after = each.move(journal)
                except Exception as failure:  # noqa: BLE001 - it belongs to the one that moves
                    each.failure = failure
                    continue
                each.has_moved = after != journal
                journal = after
            return journal

        try:
            queue.latest, _ = await self._store.change(current, move)
        except BaseException:
            queue.moves = [each for each in group if each is not own] + queue.moves
            raise
        for each in group:
            each.written = queue.latest
