"""A saga of four empty steps that Celery distributes, with the application's Celery and event loop.

`celery --app performance_celery worker` executes the steps. `performance_celery.py SECONDS` prints
the median duration of a saga in milliseconds.
"""

import asyncio
import sys

from performance_sagas import SAGA, time_sagas

from app.celery_app import celery_app
from app.redis_utils import get_bus
from app.tasks import run_in_loop
from sagastream.saga import SagaRunner

app = celery_app


@celery_app.task(name="benchmark_step")
def step(saga_id: str, name: str) -> None:
    """Execute a step of a saga."""
    run_in_loop(_runner().advance(saga_id, name))


async def _dispatch(saga_id: str, name: str) -> None:
    await asyncio.to_thread(step.apply_async, (saga_id, name))


def _runner() -> SagaRunner:
    return SagaRunner(get_bus(), SAGA, dispatch=_dispatch)


async def _measure(seconds: float) -> float:
    async with get_bus():
        return await time_sagas(_runner(), seconds)


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(_measure(float(sys.argv[1])))}\n")
