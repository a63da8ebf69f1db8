"""Waiting for what happens in another process, which has no event to wait for."""

import time
from collections.abc import Callable


def comes_true(
    is_so: Callable[[], object],
    *,
    within_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> bool:
    """Ask again and again until it is so, or the time is over.

    Args:
        is_so: What to ask.
        within_s: How long to ask.
        meanwhile: What to do between two times.

    Returns:
        Whether it was so.
    """
    give_up = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)  # between two looks; it ends with `within_s`
        meanwhile()
    return True
