"""docket (pydocket): `add` and `get_result`."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import driver
from docket import Docket, Worker

NAME = "benchmark"


async def echo(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload."""
    return payload


async def work(url: str) -> None:
    """Run tasks."""
    async with Docket(NAME, url=url) as docket:
        docket.register(echo)
        async with Worker(docket, concurrency=64) as worker:
            await worker.run_forever()


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[driver.Ask]:
    """Open a docket."""
    async with Docket(NAME, url=url) as docket:
        docket.register(echo)

        async def ask(_work: str, payload: dict[str, Any]) -> Any:
            execution = await docket.add(echo)(payload)
            return await execution.get_result(timeout=timedelta(seconds=30))

        yield ask


if __name__ == "__main__":
    driver.main(work, asking)
