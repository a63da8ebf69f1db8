"""The processes of a mission: orchestrator, Celery worker, listener, robots."""

import asyncio
import random
import warnings
from typing import Any

import cv2
from celery.platforms import SecurityWarning

from app import command_listener
from app.broker import broker_url
from app.celery_app import celery_app
from app.config import choose_settings, get_settings
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.simulate import simulate
from app.missions import mission_saga
from app.missions.mission import run_saga
from app.observability.providers import configure
from app.redis_utils import get_bus
from app.robots import process


def warm_up() -> None:
    """Import and compile what all roles need, without starting a thread."""
    cv2.setNumThreads(1)
    simulate(draw_rooms(1), 1, 0)
    import celery.bin.worker  # noqa: F401, PLC0415 - only to have it imported
    import kombu.transport.redis  # noqa: F401, PLC0415

    import app.tasks  # noqa: F401, PLC0415
    import tests.faults.mission_handlers  # noqa: F401, PLC0415


def _choose(settings: dict[str, Any], repeat: int) -> None:
    """Apply settings; each message to Celery is sent `repeat` times, some of them late."""
    choose_settings(**settings)
    celery_app.conf.broker_url = broker_url(get_settings().redis_url)
    if repeat == 1:
        return
    send, sending = mission_saga.dispatch, set()

    async def later(saga_id: str, step: str) -> None:
        await asyncio.sleep(random.uniform(0.0, 0.5))  # the fault: a late message
        await send(saga_id, step)

    async def dispatch(saga_id: str, step: str) -> None:
        for _ in range(repeat):
            sending.add(asyncio.create_task(later(saga_id, step)))

    mission_saga.dispatch = dispatch


def orchestrator(
    settings: dict[str, Any], repeat: int, saga_id: str, robots: int, seed: int
) -> None:
    """Start a mission and wait for its end."""
    _choose(settings, repeat)

    async def run() -> None:
        async with get_bus():
            handle = await run_saga(robots, "rooms", seed=seed, saga_id=saga_id)
            await handle.wait()

    asyncio.run(run())


def listener(settings: dict[str, Any], repeat: int) -> None:
    """Handle commands, and resume missions that no process drives."""
    _choose(settings, repeat)
    configure(get_settings(), "listener")
    asyncio.run(command_listener.listen())


def robots(settings: dict[str, Any], names: list[str]) -> None:
    """Run the robots with these names."""
    choose_settings(**settings)
    configure(get_settings(), "robots")
    asyncio.run(process.serve(names))


def celery(settings: dict[str, Any], repeat: int, broker: str, pool: str) -> None:
    """Run the Celery worker; the broker may have another URL than the library's server."""
    _choose(settings, repeat)
    concurrency = 4 if pool == "prefork" else get_settings().celery_concurrency
    # Celery warns of root, which is often the only user of a container.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    celery_app.conf.broker_url = broker.replace("unix://", "redis+socket://")
    celery_app.worker_main(
        [
            *("--quiet", "worker", "--pool", pool, "--concurrency", str(concurrency)),
            *("--loglevel", "ERROR"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
    )
