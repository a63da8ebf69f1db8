"""A saga of four empty steps: driven by `SagaRunner` in one process, and by Celery tasks.

The handlers of the steps and the Celery worker run in separate processes. The worker is like the
application's: a task has a saga's id and a step, and calls `advance`, whose `dispatch` sends the
next task.
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
    """Return the median duration of a saga in milliseconds, for both."""
    with Valkey() as server, _process(server.url, __file__):
        alone = asyncio.run(_alone(server.url, seconds))
    worker = [*("-m", "celery", "--app", "performance_celery", "worker", "--pool", "threads")]
    worker += ["--concurrency", "8", "--loglevel", "ERROR"]
    worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with Valkey() as server, _process(server.url, __file__), _process(server.url, *worker):
        asked = [sys.executable, str(ROOT / "benchmarks" / "performance_celery.py"), str(seconds)]
        measured = subprocess.run(
            asked, env=_environment(server.url), stdout=subprocess.PIPE, check=True
        )
    return {"runner_p50_ms": alone, "celery_p50_ms": float(measured.stdout)}


async def time_sagas(runner: SagaRunner, seconds: float) -> float:
    """Run sagas one after the other; return their median duration in milliseconds."""
    async with asyncio.timeout(_READY_S):
        for _ in range(5):
            await runner.run(await runner.start({"number": 0}))
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        outcome = await runner.run(await runner.start({"number": len(took)}))
        took.append(1000 * (time.perf_counter() - began))
        if outcome.status != "completed":
            raise ValueError(f"a saga of empty steps ended as {outcome.status}")
    return median(took)


async def _alone(url: str, seconds: float) -> float:
    async with Bus(url) as bus:
        return await time_sagas(SagaRunner(bus, SAGA), seconds)


def _environment(url: str) -> dict[str, str]:
    path = f"{ROOT / 'src'}:{ROOT}:{ROOT / 'benchmarks'}"
    return dict(os.environ) | {"PYTHONPATH": path, "REDIS_URL": url}


@contextmanager
def _process(url: str, *command: str) -> Iterator[None]:
    """Run a Python process in a context."""
    process = start([sys.executable, *command], env=_environment(url))
    try:
        yield
    finally:
        stop(process)


async def _serve_steps(url: str) -> None:
    async def nothing(_command: Any, _progress: Any) -> dict[str, Any]:
        return {}

    async with Bus(url) as bus:
        handlers = [Handler(STREAM, step.event_type, nothing) for step in SAGA.every_step()]
        await CommandListener(bus, handlers).run(handle_signals=True)


if __name__ == "__main__":
    asyncio.run(_serve_steps(os.environ["REDIS_URL"]))
