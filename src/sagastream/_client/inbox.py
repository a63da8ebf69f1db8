"""One inbox stream per process and loop, one reader, and who waits for what.

A request costs no subscription: its replies are told apart by their request id.
"""

import asyncio
import contextlib
import inspect
import logging
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sagastream._client.data_loss import DataLossGuard
from sagastream._codec.entries import decode_reply
from sagastream._redis.backoff import backoff_delays, end_tasks
from sagastream._redis.connection import Connection, entries
from sagastream.errors import (
    DataLost,
    InvalidMessage,
    Overloaded,
    ReplyTimeout,
    SagastreamError,
    ServerError,
    ServerUnavailable,
)
from sagastream.message import TERMINAL_STAGES, OnProgress

logger = logging.getLogger(__name__)

_TRIM_EVERY = 256
_BLOCK_MS = 1000
_CHECK_S = 0.5

# What a waiter finds: a reply, None when it should look into the record, that the record is
# gone, or that its time is up.
Notification = dict[str, Any] | DataLost | TimeoutError | None


class ReplyQueue:
    """What has come for one waiter."""

    __slots__ = ("_future", "_letters", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: list[Notification] = []
        self._future: asyncio.Future[None] | None = None

    def put(self, notification: Notification) -> None:
        """Add a letter, and wake the waiter."""
        self._letters.append(notification)
        if self._future and not self._future.done():
            self._future.set_result(None)

    async def get(self) -> Notification:
        """The oldest letter."""
        while not self._letters:
            self._future = self._loop.create_future()
            await self._future
        return self._letters.pop(0)


class Inbox:
    """The reply stream of one process and loop.

    Args:
        connection: Where it lives.
        instance: What is remembered of the server's data.
        prefix: Put before the stream's name.
    """

    def __init__(
        self,
        connection: Connection,
        instance: DataLossGuard,
        prefix: str,
        *,
        max_bytes: int,
        max_in_flight: int,
    ) -> None:
        self.name = f"replies:{uuid.uuid4()}"
        self.key = prefix + self.name
        self._connection = connection
        self._instance = instance
        self._max_bytes = max_bytes
        self._waiting: defaultdict[str, list[ReplyQueue]] = defaultdict(list)
        self._reader: asyncio.Task[None] | None = None
        self._next_check = 0.0
        self._max_in_flight = max_in_flight
        self._places = asyncio.Semaphore(max_in_flight)
        self._loop = asyncio.get_running_loop()

    def wait_for(self, request_id: str) -> ReplyQueue:
        """What gets every reply to one request from now on, until `wait_no_more`."""
        replies = ReplyQueue(self._loop)
        self._waiting[request_id].append(replies)
        self._start()
        return replies

    def wait_no_more(self, request_id: str, replies: ReplyQueue) -> None:
        """Forget a waiter."""
        self._waiting[request_id].remove(replies)
        if not self._waiting[request_id]:
            del self._waiting[request_id]

    async def acquire_slot(self, give_up: float, *, wait: bool) -> None:
        """Take one of the places for waiting requests; `release_slot` gives it back.

        Args:
            give_up: The loop's time at which the waiting for a place ends.
            wait: Wait for one; otherwise it is there at once or not at all.

        Raises:
            Overloaded: There is none.
        """
        if not self._places.locked():
            await self._places.acquire()
            return
        if not wait:
            raise Overloaded(self._max_in_flight)
        try:
            async with asyncio.timeout_at(give_up):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(self._max_in_flight) from None

    def release_slot(self) -> None:
        """Give a place back."""
        self._places.release()

    def _start(self) -> None:
        """Start the reader, once."""
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="sagastream-inbox")

    async def close(self) -> None:
        """Stop reading and delete the stream."""
        if self._reader:
            await end_tasks(self._reader)
            with contextlib.suppress(SagastreamError):
                await self._connection.call("DEL", self.key, call_timeout_s=0.0)

    async def _read(self) -> None:
        last, untrimmed = b"0-0", 0
        delays = iter(backoff_delays())
        while True:
            await self._check_data()
            try:
                answer = await self._connection.block(
                    "XREAD", "COUNT", 1000, "BLOCK", _BLOCK_MS, "STREAMS", self.key, last
                )
            except ServerUnavailable as error:
                self._connection.note_loss(error)
                await asyncio.sleep(next(delays))
                self._look_again()
                continue
            except ServerError:
                logger.exception("inbox %s cannot be read; trying again", self.key)
                await asyncio.sleep(next(delays))
                continue
            delays = iter(backoff_delays())
            for _, entry_id, raw in entries(answer):
                last = entry_id
                untrimmed += 1
                self._deliver(raw)
            if untrimmed >= _TRIM_EVERY:
                untrimmed = 0
                with contextlib.suppress(SagastreamError):
                    await self._connection.call("XTRIM", self.key, "MINID", "~", last)

    async def _check_data(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_S
        try:
            await self._instance.check()
        except DataLost as lost:
            logger.error("%s", lost)  # noqa: TRY400 - the message says it all
            for queues in self._waiting.values():
                for replies in queues:
                    replies.put(lost)
        except SagastreamError as error:
            logger.debug("data not checked: %s", error)

    def _look_again(self) -> None:
        # What was written while we were away may be lost with the stream, never with the record.
        for queues in self._waiting.values():
            for replies in queues:
                replies.put(None)

    def _deliver(self, raw: Mapping[bytes, bytes]) -> None:
        queues = self._waiting.get(raw.get(b"request_id", b"").decode(errors="replace"))
        if not queues:
            return
        try:
            reply = decode_reply(raw, max_bytes=self._max_bytes)
        except InvalidMessage as error:
            logger.warning("inbox %s: a reply that is none: %s", self.key, error)
            return
        for replies in queues:
            replies.put(reply)


async def wait_until_terminal(
    replies: ReplyQueue,
    look: Callable[[], Awaitable[dict[str, Any] | None]],
    *,
    request_id: str,
    timeout: float,
    on_stage: Callable[[dict[str, Any]], None],
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    """Wait for a request's terminal reply, and tell of every stage on the way.

    `look` reads the terminal reply from the record, and gives None while there is none.

    Raises:
        ReplyTimeout: It is not there when the mail says that time is up.
        DataLost: The server came back without our data.
    """
    last_stage = None
    while True:
        notification = await replies.get()
        if isinstance(notification, DataLost):
            raise notification
        stage = notification if isinstance(notification, dict) else await look()
        if stage is None:
            if isinstance(notification, TimeoutError):
                raise ReplyTimeout(request_id, timeout, last_stage)
            continue
        last_stage = stage["status"]
        on_stage(stage)
        if on_progress:
            told = on_progress(stage)
            if inspect.isawaitable(told):
                await told
        if last_stage in TERMINAL_STAGES:
            return stage
