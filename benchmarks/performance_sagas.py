"""A saga of four empty steps: through `SagaRunner` in one process, and through Celery.

The steps' handlers are in a process of their own, as is the Celery worker, which works as the
application's: a task carries a saga's id and calls `advance`, whose `dispatch` sends the next.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from performance_peers import ROOT
from performance_server import Valkey, start, stop

from sagastream import Bus, CommandListener, Handler
from sagastream.saga import Saga, SagaRunner, Step

STREAM = "steps:commands"
SAGA = Saga(
    "empty", tuple(Step(f"s{n}", STREAM, f"s{n}:do", lambda data, _: data) for n in range(4))
)
_READY_S = 60.0


def saga_ms(seconds: float) -> dict[str, float]:
    """Milliseconds of the median saga each way."""
    with Valkey() as server, _beside(server.url, __file__):
        alone = asyncio.run(_alone(server.url, seconds))
    worker = [*("-m", "celery", "--app", "performance_celery", "worker", "--pool", "threads")]
    worker += ["--concurrency", "8", "--loglevel", "ERROR"]
    worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with Valkey() as server, _beside(server.url, __file__), _beside(server.url, *worker):
        asked = [sys.executable, str(ROOT / "benchmarks" / "performance_celery.py"), str(seconds)]
        told = subprocess.run(
            asked, env=_environment(server.url), stdout=subprocess.PIPE, check=True
        )
    return {"runner_p50_ms": alone, "celery_p50_ms": float(told.stdout)}


async def time_sagas(runner: SagaRunner, seconds: float) -> float:
    """Milliseconds of the median saga, one after the other."""
    async with asyncio.timeout(_READY_S):
        for _ in range(5):
            await runner.run(await runner.start({"number": 0}))
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        outcome = await runner.run(await runner.start({"number": len(took)}))
        took.append(1000 * (time.perf_counter() - began))
        if outcome.status != "completed":
            raise ValueError(f"a saga of nothing ended {outcome.status}")
    return median(took)


async def _alone(url: str, seconds: float) -> float:
    async with Bus(url) as bus:
        return await time_sagas(SagaRunner(bus, SAGA), seconds)


def _environment(url: str) -> dict[str, str]:
    path = f"{ROOT / 'src'}:{ROOT}:{ROOT / 'benchmarks'}"
    return dict(os.environ) | {"PYTHONPATH": path, "REDIS_URL": url}


@contextmanager
def _beside(url: str, *command: str) -> Iterator[None]:
    """A process of ours for as long as the context lasts."""
    process = start([sys.executable, *command], env=_environment(url))
    try:
        yield
    finally:
        stop(process)


async def _serve_steps(url: str) -> None:
    async def nothing(_command: Any, _progress: Any) -> dict[str, Any]:
        return {}

    async with Bus(url) as bus:
        handlers = [Handler(STREAM, step.event_type, nothing) for step in SAGA.steps]
        await CommandListener(bus, handlers).run()


if __name__ == "__main__":
    asyncio.run(_serve_steps(os.environ["REDIS_URL"]))
