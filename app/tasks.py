"""The four steps as Celery tasks: each moves its saga on through one step, if that is due.

A task carries the saga's id alone. Its step is done in `request_and_reply`, in one event
loop for all threads of the process, and sends the task of what is due next; losing,
repeating or reordering tasks does no harm.
"""

import asyncio
import threading
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any

from app.celery_app import celery_app
from app.saga import mission_runner

_starting = threading.Lock()


@lru_cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="sagastream", daemon=True).start()
    return loop


def run_in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in this process's one event loop, and wait for it."""
    with _starting:
        loop = _loop()
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def advance(saga_id: str, step: str) -> None:
    """Move a saga on through a step, forward or back, whichever its journal says is due."""
    run_in_loop(mission_runner().advance(saga_id, step))


@celery_app.task(name="allocate_resources")
def allocate_resources(saga_id: str) -> None:
    """Reserve the robots; when compensating, release them."""
    advance(saga_id, "allocate_resources")


@celery_app.task(name="plan_route")
def plan_route(saga_id: str) -> None:
    """Deploy the robots and divide the area."""
    advance(saga_id, "plan_route")


@celery_app.task(name="perform_exploration")
def perform_exploration(saga_id: str) -> None:
    """Explore; when compensating, recall the robots."""
    advance(saga_id, "perform_exploration")


@celery_app.task(name="integrate_maps")
def integrate_maps(saga_id: str) -> None:
    """Merge the robots' maps; when compensating, discard the merged one."""
    advance(saga_id, "integrate_maps")


STEP_TASKS = {
    task.name: task
    for task in (allocate_resources, plan_route, perform_exploration, integrate_maps)
}
