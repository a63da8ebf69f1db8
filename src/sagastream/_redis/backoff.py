"""Waiting between tries, and ending the tasks that wait."""

import asyncio
import random
from collections.abc import Iterable


def backoff_delays(first: float = 0.05, limit: float = 0.5) -> Iterable[float]:
    """Delays in seconds that double up to a limit, each with full jitter over its half.

    With this limit a server that was away is in use again within a second of its return.

    Args:
        first: The first delay before jitter, in seconds.
        limit: The longest delay before jitter, in seconds.
    """
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        delay = min(delay * 2, limit)


async def end_tasks(*tasks: "asyncio.Task[object]") -> None:
    """Cancel tasks and wait until they are done. What they raise is not raised here.

    Args:
        tasks: The tasks; those that are done are left alone.
    """
    left = {task for task in tasks if not task.done()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
