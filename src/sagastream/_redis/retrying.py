"""Retries: which errors are temporary, how long to wait, and how to end waiting tasks."""

import asyncio
import random
import ssl
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sagastream.errors import ServerError, ServerRefused, ServerUnavailable

# The codes of temporary errors: full memory or disk, a replica, a slot that moves or has moved.
_TEMPORARY = frozenset(
    {
        *("OOM", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "MISCONF", "BUSY", "NOREPLICAS"),
        *("TRYAGAIN", "ASK", "MOVED"),
    }
)
_REFUSED = frozenset({"NOAUTH", "WRONGPASS"})
_AWAY = (ServerUnavailable, ServerRefused, RedisConnectionError, RedisTimeoutError)

T = TypeVar("T")


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


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end though the task is cancelled meanwhile; only then be cancelled.

    Args:
        work: Work that ends by itself, and soon.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001 - `result` raises it
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


def is_refusal(error: BaseException) -> bool:
    """Whether the server refuses this client: its credentials, or its certificate."""
    if isinstance(error, ServerError):
        return error.code in _REFUSED
    return isinstance(error, ssl.SSLCertVerificationError)


def is_temporary(error: ServerError) -> bool:
    """Whether the same command may succeed in a moment."""
    return error.code in _TEMPORARY or error.message.startswith("UNBLOCKED force unblock")


def is_replica_now(error: ServerError) -> bool:
    """Whether the node is a replica now: its name has to be resolved again."""
    return error.code in {"READONLY", "MASTERDOWN"} or error.message.startswith(
        "UNBLOCKED force unblock"
    )


def says_away(error: BaseException) -> bool:
    """Whether an error says that the server is away: ours, or that of another Redis client."""
    if isinstance(error, BaseExceptionGroup):
        return any(says_away(each) for each in error.exceptions)
    return isinstance(error, _AWAY)


def is_group_gone(error: ServerError) -> bool:
    """Whether a group read failed because stream or group was deleted; Redis 7.0 has two codes."""
    return error.code in {"NOGROUP", "UNBLOCKED"}
