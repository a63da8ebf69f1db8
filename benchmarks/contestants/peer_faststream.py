"""FastStream: `broker.request` on a stream with a consumer group."""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import driver
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

STREAM = "commands"


async def work(url: str) -> None:
    """Serve the stream."""
    broker = RedisBroker(url, logger=None, max_connections=1000)
    source = StreamSub(STREAM, group="workers", consumer="worker", last_id=">", max_records=64)

    @broker.subscriber(stream=source)
    async def echo(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    await FastStream(broker, logger=None).run(log_level=logging.ERROR)


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[driver.Ask]:
    """Connect a broker."""
    async with RedisBroker(url, logger=None, max_connections=1000) as broker:

        async def ask(_work: str, payload: dict[str, Any]) -> Any:
            reply = await broker.request(payload, stream=STREAM, timeout=30.0)
            return await reply.decode()

        yield ask


if __name__ == "__main__":
    driver.main(work, asking)
