"""What the contestants share that let work wait: their command line, and where handlers note their begin.

A handler adds `TIME DUE` to the list `begun` on the server, in seconds since the Unix epoch.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

WORK_S = 0.02
KEYS, AT_ONCE = 100, 2
SLOTS = 16

Add = Callable[[str, float], Awaitable[Any]]
Adding = Callable[[str], contextlib.AbstractAsyncContextManager[Add]]
Work = Callable[[str], Awaitable[None]]


class Notes:
    """The list of what has begun.

    Args:
        url: The server.
    """

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url)

    async def add(self, due: float) -> None:
        """Note that a handler has begun; `due` is 0 if it was due at once."""
        await self._client.rpush("begun", f"{time.time():.4f} {due:.4f}")


def main(work: Work, adding: Adding) -> None:
    """Run `work URL`, `later URL COUNT LEAD_S WITHIN_S` or `limited URL COUNT`.

    Args:
        work: Handles until it is terminated.
        adding: Opens a client. It adds a task with a key and a due time, 0 for now.
    """
    role, url, *numbers = sys.argv[1:]
    if role == "work":
        asyncio.run(_until_terminated(work(url)))
    else:
        asyncio.run(_send(adding, role, url, [float(each) for each in numbers]))


async def _until_terminated(work: Awaitable[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _send(adding: Adding, role: str, url: str, numbers: list[float]) -> None:
    count = int(numbers[0])
    dues = [0.0] * count
    if role == "later":
        first, within_s = time.time() + numbers[1], numbers[2]
        dues = [first + within_s * number / count for number in range(count)]
    async with adding(url) as add:
        for low in range(0, count, 100):
            high = min(count, low + 100)
            await asyncio.gather(*(add(f"k{n % KEYS}", dues[n]) for n in range(low, high)))
