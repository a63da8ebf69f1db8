"""taskiq on Redis Streams with a Redis result backend that is polled every 0.5 ms."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import driver
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

POLL_S = 0.0005


def make(url: str) -> tuple[RedisStreamBroker, Any]:
    """Return a broker and its only task."""
    results: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(url, result_ex_time=600)
    broker = RedisStreamBroker(url, consumer_id="0").with_result_backend(results)

    @broker.task(task_name="echo")
    async def echo(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    return broker, echo


async def work(url: str) -> None:
    """Run tasks."""
    await run_receiver_task(make(url)[0], run_startup=True)


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[driver.Ask]:
    """Start a broker."""
    broker, echo = make(url)
    await broker.startup()

    async def ask(_work: str, payload: dict[str, Any]) -> Any:
        task = await echo.kiq(payload)
        return (await task.wait_result(check_interval=POLL_S, timeout=30)).return_value

    try:
        yield ask
    finally:
        await broker.shutdown()


if __name__ == "__main__":
    driver.main(work, asking)
