"""Wait for a condition that has no event to wait for, such as what a server or process shows."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

_INTERVAL_S = 0.01

T = TypeVar("T")


async def eventually(condition: Callable[[], object], *, within_s: float, why: str) -> Any:
    """Poll a condition until it holds.

    Args:
        condition: Returns a true value once it holds; may be async.
        within_s: How long to poll, in seconds.
        why: What is waited for, for the failure.

    Returns:
        The value of the condition.

    Raises:
        AssertionError: It did not hold in time; names `why` and the last value.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {why} (last: {value!r})")
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
        why: What is waited for, for the failure.
        meanwhile: Called between two polls.

    Raises:
        AssertionError: It did not hold in time; names `why` and the last value.
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {why} (last: {value!r})")
        time.sleep(_INTERVAL_S)
        meanwhile()
    return value


def comes_true(
    is_so: Callable[[], object],
    *,
    within_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> bool:
    """Whether a condition holds within a time."""
    try:
        eventually_sync(is_so, within_s=within_s, why="", meanwhile=meanwhile)
    except AssertionError:
        return False
    return True
