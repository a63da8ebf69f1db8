"""What arrives for one waiter, and the wait for a request's terminal reply."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from sagastream.errors import DataLost, ReplyTimeout
from sagastream.message import TERMINAL_STAGES, OnProgress

# A reply; None: read the outcome from the record; `DataLost`: the record is lost; or a timeout.
Notification = dict[str, Any] | DataLost | TimeoutError | None


class ReplyQueue:
    """The notifications of one waiter, oldest first.

    Args:
        loop: The waiter's event loop.
    """

    __slots__ = ("_future", "_loop", "_notifications")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._notifications: list[Notification] = []
        self._future: asyncio.Future[None] | None = None

    def put(self, notification: Notification) -> None:
        """Add a notification, and wake the waiter."""
        self._notifications.append(notification)
        if self._future and not self._future.done():
            self._future.set_result(None)

    async def get(self) -> Notification:
        """Take the oldest notification; wait for one if there is none."""
        while not self._notifications:
            self._future = self._loop.create_future()
            await self._future
        return self._notifications.pop(0)


async def wait_until_terminal(
    replies: ReplyQueue,
    read_outcome: Callable[[], Awaitable[dict[str, Any] | None]],
    *,
    request_id: str,
    timeout: float,
    on_stage: Callable[[dict[str, Any]], None],
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    """Wait for a request's terminal reply, and report every stage on the way.

    Args:
        replies: The waiter's queue; a `TimeoutError` in it ends the wait.
        read_outcome: Reads the terminal reply from the record; None while there is none.
        request_id: The request.
        timeout: The length of the wait in seconds, for the error message.
        on_stage: Called with each stage.
        on_progress: Called with each stage; may be async.

    Raises:
        ReplyTimeout: There is no terminal reply at the timeout.
        DataLost: The server came back without our data.
    """
    last_stage = None
    while True:
        notification = await replies.get()
        if isinstance(notification, DataLost):
            raise notification
        stage = notification if isinstance(notification, dict) else await read_outcome()
        if stage is None:
            if isinstance(notification, TimeoutError):
                raise ReplyTimeout(request_id, timeout, last_stage)
            continue
        last_stage = stage["status"]
        on_stage(stage)
        if on_progress:
            result = on_progress(stage)
            if inspect.isawaitable(result):
                await result
        if last_stage in TERMINAL_STAGES:
            return stage
