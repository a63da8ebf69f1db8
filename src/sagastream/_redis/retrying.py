"""Retries: which errors are temporary, how long to wait, and how to end waiting tasks."""

import asyncio
import random
import ssl
from collections.abc import Iterable

from sagastream.errors import ServerError

# The codes of temporary errors: full memory or disk, a replica, a slot that moves.
_TEMPORARY = frozenset(
    {"OOM", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MISCONF", "BUSY", "NOREPLICAS"}
)
_REFUSED = frozenset({"NOAUTH", "WRONGPASS"})


def backoff_delays(first: float = 0.05, limit: float = 0.5) -> Iterable[float]:
    """Delays in seconds that double up to a limit, each with jitter: 50 to 100 % of it.

    With the default limit a server that comes back is used again within a second.

    Args:
        first: The first delay before jitter, in seconds.
        limit: The longest delay before jitter, in seconds.
    """
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        delay = min(delay * 2, limit)


async def end_tasks(*tasks: "asyncio.Task[object]") -> None:
    """Cancel tasks and wait until they are done. Their exceptions are not raised here.

    Args:
        tasks: The tasks; those that are done are left alone.
    """
    unfinished = {task for task in tasks if not task.done()}
    for task in unfinished:
        task.cancel()
    if unfinished:
        await asyncio.wait(unfinished)


def is_refusal(error: BaseException) -> bool:
    """Whether the server refuses this client: its credentials, or its certificate."""
    if isinstance(error, ServerError):
        return error.code in _REFUSED
    return isinstance(error, ssl.SSLCertVerificationError)


def is_temporary(error: ServerError) -> bool:
    """Whether the same command may succeed in a moment."""
    return error.code in _TEMPORARY or error.message.startswith("UNBLOCKED force unblock")


def is_group_gone(error: ServerError) -> bool:
    """Whether a group read failed because stream or group was deleted; Redis 7.0 has two codes."""
    return error.code in {"NOGROUP", "UNBLOCKED"}
