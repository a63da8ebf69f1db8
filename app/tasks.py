"""The four steps as Celery tasks: each moves its saga on through one step, if that is due.

A task carries the saga's id alone. Its step is done in `request_and_reply`, in one event
loop for all threads of the process, and sends the task of what is due next; losing,
repeating or reordering tasks does no harm.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from celery import current_task
from opentelemetry.trace import use_span

from app.celery_app import celery_app
from app.config import get_settings
from app.missions.mission_saga import TASKS, mission_runner
from app.observability.health import watched
from sagastream._telemetry import metrics, spans
from sagastream._telemetry.operations import server_of

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
    with _traced(saga_id, step):
        run_in_loop(mission_runner().advance(saga_id, step))


@contextmanager
def _traced(saga_id: str, step: str) -> Iterator[None]:
    """The span of the task that is being run, as a child of whoever sent it."""
    request = current_task.request if current_task else None
    about = {"saga_id": saga_id, "step": step, "entry_id": request.id if request else ""}
    carried = (request.headers if request else None) or {}
    server = server_of(get_settings().redis_url)
    again = bool(request and (request.delivery_info or {}).get("redelivered"))
    span = spans.processing(server, TASKS, carried | about, again=again)
    series = spans.processing_at(server, TASKS, about).series
    started, error_type = time.perf_counter(), ""
    metrics.consumed(series, 1)
    try:
        with (
            use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False),
            spans.belongs(saga_id=saga_id, step=step),
        ):
            try:
                yield
            except Exception as error:
                error_type = type(error).__name__
                spans.fail(span, error_type, str(error))
                raise
    finally:
        metrics.processed(series, time.perf_counter() - started, step, error_type)


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


def watch_loop() -> None:
    """Answer probes about this process's loop, for as long as the process."""

    async def watch() -> None:
        async with watched(get_settings(), ()):
            await asyncio.Event().wait()

    with _starting:
        asyncio.run_coroutine_threadsafe(watch(), _loop())
