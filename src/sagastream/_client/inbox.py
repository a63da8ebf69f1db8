"""The inbox: one reply stream per process and event loop, with one reader for all waiters.

A request costs no subscription: the reader finds a reply's waiter by its request id.
"""

import asyncio
import contextlib
import logging
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextvars import Context

from sagastream._client.data_loss import DataLossGuard
from sagastream._client.reply_queue import Notification, ReplyQueue
from sagastream._codec.entries import decode_reply
from sagastream._redis.connection import Connection
from sagastream._redis.deadline import Deadline
from sagastream._redis.protocol import entries
from sagastream._redis.retrying import backoff_delays, end_tasks
from sagastream.errors import (
    DataLost,
    InvalidMessage,
    Overloaded,
    SagastreamError,
    ServerError,
    ServerUnavailable,
)

logger = logging.getLogger(__name__)

# After this many replies, or bytes of them, the stream is trimmed: what was read is deleted.
_TRIM_EVERY = 256
_TRIM_BYTES = 1024 * 1024
_BLOCK_MS = 1000
_DATA_CHECK_S = 0.5
_DELETE_S = 1.0


class Inbox:
    """The reply stream of one process and event loop.

    Args:
        connection: The server.
        guard: Notices that the server has lost data.
        prefix: Put before the stream's name.
        max_bytes: The largest payload, in bytes of JSON.
        max_in_flight: How many requests may wait for their replies at once.
    """

    def __init__(
        self,
        connection: Connection,
        guard: DataLossGuard,
        prefix: str,
        *,
        max_bytes: int,
        max_in_flight: int,
    ) -> None:
        self.name = f"replies:{uuid.uuid4()}"
        self.key = prefix + self.name
        self._prefix = prefix
        self._connection = connection
        self._guard = guard
        self._max_bytes = max_bytes
        self._waiters: defaultdict[str, list[ReplyQueue]] = defaultdict(list)
        self._reader: asyncio.Task[None] | None = None
        self._next_check = 0.0
        self._newest = ""
        self._max_in_flight = max_in_flight
        self._slots = asyncio.Semaphore(max_in_flight)
        self._loop = asyncio.get_running_loop()

    def subscribe(self, request_id: str) -> ReplyQueue:
        """A queue that gets every reply to one request from now on, until `unsubscribe`."""
        replies = ReplyQueue(self._loop)
        self._waiters[request_id].append(replies)
        if self._reader is None or self._reader.done():
            # Not in the context of the requester, which would live as long as the reader.
            self._reader = asyncio.create_task(
                self._read(), name="sagastream-inbox", context=Context()
            )
        return replies

    def note_emitted(self, request_id: str) -> None:
        """The server has the record of a request: if it has none any more, data are lost."""
        self._newest = request_id

    def unsubscribe(self, request_id: str, replies: ReplyQueue) -> None:
        """Forget a queue."""
        self._waiters[request_id].remove(replies)
        if not self._waiters[request_id]:
            del self._waiters[request_id]

    async def acquire_slot(self, deadline: Deadline, *, wait: bool) -> None:
        """Acquire a slot for a request in flight; `release_slot` gives it back.

        Args:
            deadline: When the wait for a slot ends.
            wait: Wait for a slot; otherwise fail if none is free.

        Raises:
            Overloaded: No slot is free.
        """
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if not wait:
            raise Overloaded(self._max_in_flight)
        try:
            async with deadline.timeout():
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded(self._max_in_flight) from None

    def release_slot(self) -> None:
        """Give a slot back."""
        self._slots.release()

    async def close(self) -> None:
        """Stop reading and delete the stream."""
        if self._reader:
            await end_tasks(self._reader)
            with contextlib.suppress(SagastreamError):
                await self._connection.call("DEL", self.key, deadline=Deadline(_DELETE_S))

    async def _read(self) -> None:
        last, untrimmed, size = b"0-0", 0, 0
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
                # Replies written meanwhile may be lost with the stream; the record has the outcome.
                self._notify_all(None)
                continue
            except ServerError:
                logger.exception("inbox %s cannot be read; trying again", self.key)
                await asyncio.sleep(next(delays))
                continue
            delays = iter(backoff_delays())
            for _, entry_id, raw in entries(answer):
                last = entry_id
                untrimmed += 1
                size += len(raw.get(b"payload", b""))
                self._deliver(raw)
            if untrimmed >= _TRIM_EVERY or size >= _TRIM_BYTES:
                untrimmed = size = 0
                with contextlib.suppress(SagastreamError):
                    await self._connection.call("XTRIM", self.key, "MINID", "~", last)

    async def _check_data(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_check:
            return
        self._next_check = now + _DATA_CHECK_S
        try:
            await self._guard.check()
            if self._newest in self._waiters and not await self._has_record(self._newest):
                # An older state was restored, perhaps long enough ago for others to go on in it.
                self._notify_all(None)
        except DataLost as lost:
            logger.error("%s", lost)  # noqa: TRY400 - the message is complete
            self._notify_all(lost)
        except SagastreamError as error:
            logger.debug("cannot check for data loss: %s", error)

    async def _has_record(self, request_id: str) -> bool:
        record = f"{self._prefix}request:{request_id}"
        return bool(await self._connection.call("EXISTS", record))

    def _notify_all(self, notification: Notification) -> None:
        for waiters in self._waiters.values():
            for replies in waiters:
                replies.put(notification)

    def _deliver(self, raw: Mapping[bytes, bytes]) -> None:
        waiters = self._waiters.get(raw.get(b"request_id", b"").decode(errors="replace"))
        if not waiters:
            return
        try:
            reply = decode_reply(raw, max_bytes=self._max_bytes)
        except InvalidMessage as error:
            logger.warning("inbox %s: malformed reply: %s", self.key, error)
            return
        for replies in waiters:
            replies.put(reply)
