"""Celery tasks: each moves a mission's saga through one step, if that step is due.

A task carries only the saga's id. It runs the step with `request_and_reply`, in one event loop
that all threads of the process share, and then sends the task of the next step. Lost, repeated
and reordered tasks do no harm.

Telemetry starts where tasks run: in each child of a prefork pool, after the fork; in the worker
process itself with any other pool.
"""

import asyncio
import threading
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any

from celery import current_task
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)

from app.celery_app import TASK_QUEUE, celery_app
from app.config import get_settings
from app.logging_config import configure_logs
from app.missions.mission_saga import mission_runner
from app.observability import providers
from app.observability.health import serve_probes
from sagastream.tracing import process_span

_SERVICE = "celery-worker"
_starting = threading.Lock()


@lru_cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="sagastream", daemon=True).start()
    return loop


def run_in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in the one event loop of this process, and wait for its result."""
    with _starting:
        loop = _loop()
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def advance(saga_id: str, step: str) -> None:
    """Move a saga through a step, in the direction that its journal says is due."""
    request = current_task.request if current_task else None
    fields = {"saga_id": saga_id, "step": step, "entry_id": request.id if request else ""}
    headers = (request.headers if request else None) or {}
    redelivered = bool(request and (request.delivery_info or {}).get("redelivered"))
    url = get_settings().celery_url
    with process_span(url, TASK_QUEUE, fields, headers, kind=step, redelivered=redelivered):
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
    """Explore the area; when compensating, recall the robots."""
    advance(saga_id, "perform_exploration")


@celery_app.task(name="integrate_maps")
def integrate_maps(saga_id: str) -> None:
    """Merge the robots' maps; when compensating, discard the merged map."""
    advance(saga_id, "integrate_maps")


@setup_logging.connect
def _configure_worker_logs(**_: object) -> None:
    configure_logs(get_settings(), _SERVICE)


@celeryd_after_setup.connect
def _configure_worker(instance: Any, **_: object) -> None:
    if not issubclass(instance.pool_cls, PreforkPool):
        providers.configure(get_settings(), _SERVICE)


@worker_process_init.connect
def _configure_child(**_: object) -> None:
    providers.configure(get_settings(), _SERVICE)


@worker_process_shutdown.connect
@worker_shutdown.connect
def _flush_telemetry(**_: object) -> None:
    providers.shut_down()


@worker_ready.connect
def _start_probes(**_: object) -> None:
    """Serve health probes about this process's event loop until the process ends."""
    if not get_settings().http_port:
        return

    async def serve() -> None:
        async with serve_probes(get_settings(), ()):
            await asyncio.Event().wait()

    with _starting:
        asyncio.run_coroutine_threadsafe(serve(), _loop())
