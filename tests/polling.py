"""Wait for a condition that has no event to wait for, such as the state of a server or process."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

_INTERVAL_S = 0.01

T = TypeVar("T")


class NotInTime(AssertionError):
    """A condition did not hold in time."""

    def __init__(self, within_s: float, why: str, last: object) -> None:
        super().__init__(f"not within {within_s:g} s: {why} (last: {last!r})")


async def eventually(condition: Callable[[], object], *, within_s: float, why: str) -> Any:
    """Poll a condition until it holds.

    Args:
        condition: Returns a true value once it holds; may be async.
        within_s: How long to poll, in seconds.
        why: The expected state, for the failure, such as "the command is in its stream".

    Returns:
        The value of the condition.

    Raises:
        NotInTime: It did not hold in time; names `why` and the last value.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() > deadline:
            raise NotInTime(within_s, why, value)
        await asyncio.sleep(_INTERVAL_S)


def eventually_sync(
    condition: Callable[[], T],
    *,
    within_s: float,
    why: str,
    meanwhile: Callable[[], object] = lambda: None,
) -> T:
    """`eventually` for code without an event loop.

    Args:
        condition: Returns a true value once it holds.
        within_s: How long to poll, in seconds.
        why: The expected state, for the failure, such as "the command is in its stream".
        meanwhile: Called between two polls.

    Raises:
        NotInTime: It did not hold in time; names `why` and the last value.
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise NotInTime(within_s, why, value)
        time.sleep(_INTERVAL_S)
        meanwhile()
    return value
