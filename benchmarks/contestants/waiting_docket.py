"""docket (pydocket): `when`, `Cron` and `ConcurrencyLimit`, with its defaults."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import waiting
from docket import ConcurrencyLimit, Cron, Docket, Worker

NOTES = waiting.Notes(os.environ.get("NOTES_URL", "redis://localhost"))


async def later(due: float) -> None:
    """Note when it begins."""
    await NOTES.add(due)


async def limited(
    key: str,  # noqa: ARG001 - the limit counts by it
    limit: ConcurrencyLimit = ConcurrencyLimit("key", waiting.AT_ONCE),  # noqa: ARG001, B008
) -> None:
    """Work for a moment."""
    await NOTES.add(0.0)
    await asyncio.sleep(waiting.WORK_S)


async def tick(cron: Cron = Cron("* * * * *")) -> None:  # noqa: ARG001, B008
    """Note how late the minute is."""
    await NOTES.add(60 * (time.time() // 60))


async def work(url: str) -> None:
    """Run tasks."""
    async with Docket("waiting", url=url) as docket:
        for task in (later, limited, tick):
            docket.register(task)
        async with Worker(docket, concurrency=waiting.SLOTS) as worker:
            await worker.run_forever()


@contextlib.asynccontextmanager
async def adding(url: str) -> AsyncIterator[waiting.Add]:
    """Open a docket."""
    async with Docket("waiting", url=url) as docket:

        async def add(key: str, due: float) -> None:
            if due:
                await docket.add(later, when=datetime.fromtimestamp(due, UTC))(due)
            else:
                await docket.add(limited)(key)

        yield add


if __name__ == "__main__":
    waiting.main(work, adding)
