"""taskiq on Redis Streams: `schedule_by_time` and a cron label, by one scheduler; it has no limits.

The scheduler looks each second; its default is once a minute.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import waiting
from taskiq import TaskiqScheduler
from taskiq.api import run_receiver_task, run_scheduler_task
from taskiq.schedule_sources import LabelScheduleSource
from taskiq_redis import ListRedisScheduleSource, RedisStreamBroker

URL = os.environ.get("NOTES_URL", "redis://localhost")
NOTES = waiting.Notes(URL)
BROKER = RedisStreamBroker(URL, consumer_id="0")
EACH_SECOND = timedelta(seconds=1)
SOURCE = ListRedisScheduleSource(URL)


@BROKER.task(task_name="later")
async def later(due: float) -> None:
    """Note when it begins."""
    await NOTES.add(due)


@BROKER.task(task_name="tick", schedule=[{"cron": "* * * * *"}])
async def tick() -> None:
    """Note how late the minute is."""
    await NOTES.add(60 * (time.time() // 60))


async def work(_url: str) -> None:
    """Run tasks; the first worker also is the scheduler, of which there may be one."""
    receiver = run_receiver_task(BROKER, run_startup=True)
    if os.environ.get("WORKER") == "0":
        scheduler = TaskiqScheduler(BROKER, [SOURCE, LabelScheduleSource(BROKER)])
        scheduling = run_scheduler_task(
            scheduler, run_startup=True, interval=EACH_SECOND, loop_interval=EACH_SECOND
        )
        await asyncio.gather(receiver, scheduling)
    else:
        await receiver


@contextlib.asynccontextmanager
async def adding(_url: str) -> AsyncIterator[waiting.Add]:
    """Start a broker."""
    await BROKER.startup()

    async def add(_key: str, due: float) -> None:
        await later.schedule_by_time(SOURCE, datetime.fromtimestamp(due, UTC), due)

    try:
        yield add
    finally:
        await BROKER.shutdown()


if __name__ == "__main__":
    waiting.main(work, adding)
