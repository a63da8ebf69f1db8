"""What arrives for one waiter, and the wait for a request's terminal reply."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from sagastream._redis.deadline import Deadline
from sagastream.errors import DataLost
from sagastream.message import TERMINAL_STAGES, OnProgress

# A reply; None: read the outcome from the record; or `DataLost`: the record is lost.
Notification = dict[str, Any] | DataLost | None


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


class ReplyWait:
    """The wait for a request's terminal reply; it reports every stage on the way.

    Args:
        replies: The waiter's queue.
        emit: Emits the command.
        read_outcome: Reads the terminal reply from the record, until a deadline; None while
            there is none.
        on_stage: Called with each stage.
        on_progress: Called with each stage; may be async.

    Attributes:
        is_emitted: Whether the server has the command.
        last_stage: The status of the last stage that came, None before the first.
    """

    def __init__(
        self,
        replies: ReplyQueue,
        emit: Callable[[], Awaitable[None]],
        read_outcome: Callable[[Deadline | None], Awaitable[dict[str, Any] | None]],
        *,
        on_stage: Callable[[dict[str, Any]], None],
        on_progress: OnProgress | None,
    ) -> None:
        self._replies = replies
        self._emit = emit
        self._read_outcome = read_outcome
        self._on_stage = on_stage
        self._on_progress = on_progress
        self.is_emitted = False
        self.last_stage: str | None = None

    async def until_terminal(self) -> dict[str, Any]:
        """Emit the command, wait for the terminal reply, and return it.

        Raises:
            DataLost: The server came back without our data.
        """
        await self._emit()
        self.is_emitted = True
        while True:
            notification = await self._replies.get()
            if isinstance(notification, DataLost):
                raise notification
            stage = notification or await self._read_outcome(None)
            if stage is None:
                continue
            await self._report(stage)
            if self.last_stage in TERMINAL_STAGES:
                return stage

    async def last_look(self, deadline: Deadline) -> dict[str, Any] | None:
        """The terminal reply in the request's record, None while there is none."""
        stage = await self._read_outcome(deadline)
        if stage:
            await self._report(stage)
        return stage

    async def _report(self, stage: dict[str, Any]) -> None:
        self.last_stage = stage["status"]
        self._on_stage(stage)
        if self._on_progress:
            result = self._on_progress(stage)
            if inspect.isawaitable(result):
                await result
