"""arq: the worker and the waiter both poll every millisecond."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import driver
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

POLL_S = 0.001


async def echo(_context: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload."""
    return payload


async def work(url: str) -> None:
    """Run jobs."""
    worker = Worker(
        [echo],
        redis_settings=RedisSettings.from_dsn(url),
        poll_delay=POLL_S,
        max_jobs=64,
        log_results=False,
    )
    await worker.async_run()


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[driver.Ask]:
    """Open a pool of connections."""
    pool = await create_pool(RedisSettings.from_dsn(url))

    async def ask(_work: str, payload: dict[str, Any]) -> Any:
        job = await pool.enqueue_job("echo", payload)
        assert job is not None
        return await job.result(timeout=30, poll_delay=POLL_S)

    try:
        yield ask
    finally:
        await pool.aclose()


if __name__ == "__main__":
    driver.main(work, asking)
