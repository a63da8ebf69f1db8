"""Missions whose next step is intended, without its command."""

import time

from app.config import get_settings
from app.missions.mission_saga import mission_saga
from app.redis_utils import get_bus
from sagastream.saga import Journal
from sagastream.saga.journal import intend, next_action
from sagastream.saga.store import SagaStore


async def intend_next_step(saga_id: str) -> Journal:
    """Write the intent of a mission's next step; returns its journal."""
    saga = mission_saga(get_settings())
    store = SagaStore(get_bus(), saga.name, wake_after_s=60, keep_s=60, keep_moves_s=60)
    current = await store.get(saga_id)
    action = next_action(saga, current.journal)
    assert action is not None
    begun = intend(saga, current.journal, action, now=time.time(), max_attempts=5)
    await store.change(current, lambda _: begun)
    return begun
