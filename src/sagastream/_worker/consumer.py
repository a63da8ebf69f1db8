"""Read the command streams of one consumer: new commands, and those of listeners that are gone."""

import asyncio
import contextlib
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sagastream._client.session import Session
from sagastream._redis.connection import BLOCK_MS
from sagastream._redis.deadline import Deadline
from sagastream._redis.protocol import entries
from sagastream._redis.retrying import end_tasks
from sagastream._worker.lease import LeaseKeeper
from sagastream.errors import SagastreamError

# How many ended commands stay in a stream, and how many bytes of them at most.
_ENDED_KEPT = 10_000
_ENDED_KEPT_BYTES = 64 * 1024 * 1024
_SHORT_BLOCK_MS = 100
_MAX_PAUSE_S = 0.05
_UNBLOCK_S = 1.0
# A sweep comes every second at least: commands of others may be due.
_LONGEST_LEASE_S = 5.0
# An entry that counts as idle for this long is taken over by the next sweep.
IDLE_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """A command as it was read.

    Attributes:
        stream: The command stream, without the namespace.
        entry_id: Its entry.
        raw: The entry's fields.
        deliveries: How many times it was delivered; more than 1 if it was taken over.
    """

    stream: str
    entry_id: str
    raw: Mapping[bytes, bytes]
    deliveries: int = 1


class StreamConsumer:
    """Reads the streams of one consumer.

    Args:
        session: The server.
        streams: The command streams.
        group: The consumer group.
        consumer: The consumer's name.
        lease_s: How long a claim of this group lasts without renewal, in seconds.
        keeper: Knows when the leases of this process were last renewed.

    Attributes:
        is_reading: Whether a read is under way.
    """

    def __init__(
        self,
        session: Session,
        streams: Sequence[str],
        *,
        group: str,
        consumer: str,
        lease_s: float,
        keeper: LeaseKeeper,
    ) -> None:
        self._session = session
        self._streams = list(streams)
        self._group = group
        self._consumer = consumer
        self._lease_s = lease_s
        self._keeper = keeper
        self._next_sweep = 0.0
        self._pause_until = 0.0
        self._turn = 0
        self._due_at = math.inf
        self._alarm: asyncio.TimerHandle | None = None
        self._unblocking: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self.is_reading = False

    async def make_groups(self) -> None:
        """Create the streams and groups that are missing."""
        for stream in self._streams:
            key = self._session.options.key(stream)
            await self._session.streams.make_group(key, group=self._group)

    def pause(self) -> None:
        """Read nothing for a moment, so that a forwarded command does not come straight back.

        The jitter keeps two listeners from forwarding to each other in step.
        """
        pause_s = random.uniform(0.005, _MAX_PAUSE_S)  # noqa: S311 - jitter, not a secret
        self._pause_until = asyncio.get_running_loop().time() + pause_s

    def sweep_in(self, delay_s: float) -> None:
        """Sweep in this many seconds, when a postponed request is due, if no sweep comes before."""
        loop = asyncio.get_running_loop()
        at = loop.time() + delay_s
        if at >= self._due_at or self._is_ending:
            return
        self._due_at = at
        if self._alarm:
            self._alarm.cancel()
        self._alarm = loop.call_later(delay_s, self._sweep_now)

    def _sweep_now(self) -> None:
        self._due_at, self._alarm, self._next_sweep = math.inf, None, 0.0
        if self.is_reading:
            unblock = self._session.connection.unblock(self, deadline=Deadline(_UNBLOCK_S))
            task = asyncio.create_task(unblock)
            self._unblocking.add(task)
            task.add_done_callback(self._unblocking.discard)

    async def end(self, deadline: Deadline) -> None:
        """Let a read that waits answer now; later reads return nothing."""
        self._is_ending = True
        if self._alarm:
            self._alarm.cancel()
        await end_tasks(*self._unblocking)
        await self._session.connection.unblock(self, deadline=deadline)

    async def give_back(self, kept: Collection[tuple[str, str]], deadline: Deadline) -> None:
        """Give back what was delivered to this consumer and is not handled.

        Args:
            kept: Stream and entry id of what is still handled.
            deadline: When to stop; what stays is taken over after a lease.
        """
        with contextlib.suppress(SagastreamError):
            for stream in self._streams:
                await self._session.streams.give_back(
                    self._sweeper_key(stream),
                    self._session.options.key(stream),
                    group=self._group,
                    consumer=self._consumer,
                    idle_ms=IDLE_MS,
                    kept=[entry_id for other, entry_id in kept if other == stream],
                    deadline=deadline,
                )

    async def read(self, limit: int) -> list[Delivery]:
        """Read at most `limit` commands; return none if none come within a short time.

        Raises:
            ServerUnavailable: The connection was lost.
            ServerError: A stream or its group is gone.
        """
        await asyncio.sleep(self._pause_until - asyncio.get_running_loop().time())
        self.is_reading = True
        try:
            found = await self._sweep(limit)
            if found or self._is_ending:
                return found
            return await self._read_new(limit)
        finally:
            self.is_reading = False

    def _sweeper_key(self, stream: str) -> str:
        return self._session.options.key(f"sweeper:{self._group}:{stream}")

    async def _read_new(self, limit: int) -> list[Delivery]:
        streams, block_ms = self._streams, min(BLOCK_MS, round(self._lease_s * 200))
        if limit < len(streams):
            # COUNT applies to each stream: reading all of them could return more than the limit.
            self._turn = (self._turn + limit) % len(streams)
            streams = (streams[self._turn :] + streams[: self._turn])[:limit]
            block_ms = _SHORT_BLOCK_MS
        keys = {self._session.options.key(stream): stream for stream in streams}
        answer = await self._session.connection.block(
            *("XREADGROUP", "GROUP", self._group, self._consumer),
            *("COUNT", limit // len(streams), "BLOCK", block_ms),
            *("STREAMS", *keys, *(">" for _ in keys)),
            reader=self,
        )
        return [
            Delivery(keys[key.decode()], entry_id.decode(), raw)
            for key, entry_id, raw in entries(answer)
        ]

    async def _sweep(self, limit: int) -> list[Delivery]:
        """Take over commands of listeners that are gone, from time to time.

        After a gap others may be alive that could not renew their leases. So for one lease only
        those are taken over that were given back.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_sweep:
            return []
        lease_ms = round(self._lease_s * 1000)
        idle_ms = lease_ms if self._keeper.contact_s >= self._lease_s else IDLE_MS
        jitter = random.uniform(0.05, 0.2)  # noqa: S311 - jitter, not a secret
        self._next_sweep = loop.time() + min(self._lease_s, _LONGEST_LEASE_S) * jitter
        deliveries: list[Delivery] = []
        key = self._session.options.key
        for stream in self._streams:
            if len(deliveries) == limit:
                break
            answer = await self._session.streams.sweep(
                self._sweeper_key(stream),
                key(stream),
                key("remembered"),
                consumer=self._consumer,
                group=self._group,
                lease_ms=lease_ms,
                idle_ms=idle_ms,
                count=limit - len(deliveries),
                keep=_ENDED_KEPT,
                keep_bytes=_ENDED_KEPT_BYTES,
            )
            if answer.due_ms is not None:
                self.sweep_in(answer.due_ms / 1000)
            deliveries += [
                Delivery(stream, entry_id, raw, times) for entry_id, raw, times in answer.entries
            ]
        if len(deliveries) == limit:
            # There may be more: sweep again as soon as a slot is free.
            self._next_sweep = 0.0
        return deliveries
