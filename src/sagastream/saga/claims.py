"""`SagaClaims`: heartbeats for the sagas that this process works on, so that no other one takes them."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from sagastream.errors import SagastreamError
from sagastream.saga.store import SagaStore

_HEARTBEAT_BATCH = 1000


class SagaClaims:
    """The sagas that this process works on.

    A claim is a hint, not a lock: two runners that work on one saga do no harm.

    Args:
        store: The journals.
        every_s: Seconds between two heartbeats.
    """

    def __init__(self, store: SagaStore, *, every_s: float) -> None:
        self._store = store
        self._every_s = every_s
        self._claimed: Counter[str] = Counter()
        self._heart: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def claim(self, saga_id: str) -> AsyncIterator[None]:
        """Postpone the saga's due time as long as the context lasts."""
        self._claimed[saga_id] += 1
        if self._heart is None or self._heart.done():
            self._heart = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._claimed[saga_id] -= 1
            if not self._claimed[saga_id]:
                del self._claimed[saga_id]
            if not self._claimed:
                self._heart.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            ids = list(self._claimed)
            with contextlib.suppress(SagastreamError):
                for first in range(0, len(ids), _HEARTBEAT_BATCH):
                    await self._store.heartbeat(ids[first : first + _HEARTBEAT_BATCH])
