"""Read the command streams of one consumer: new commands, and those of listeners that are gone."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sagastream._client.session import Session
from sagastream._redis.connection import BLOCK_MS, entries
from sagastream._worker.lease import LeaseKeeper
from sagastream.errors import ServerError

# How many ended commands stay in a stream.
_ENDED_KEPT = 10_000
_SHORT_BLOCK_MS = 100
_MAX_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Delivery:
    """A command as it was read.

    Attributes:
        stream: The command stream, without the namespace.
        entry_id: Its entry.
        raw: The entry's fields.
        redelivered: Whether another listener had it before.
    """

    stream: str
    entry_id: str
    raw: Mapping[bytes, bytes]
    redelivered: bool


class StreamConsumer:
    """Reads the streams of one consumer.

    Args:
        session: The server.
        streams: The command streams.
        group: The consumer group.
        consumer: The consumer's name.
        lease_s: How long a claim of this group lasts without renewal, in seconds.
        keeper: Knows when the leases of this process were last renewed.
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

    async def make_groups(self) -> None:
        """Create the streams and groups that are missing."""
        for stream in self._streams:
            try:
                await self._session.connection.call(
                    *("XGROUP", "CREATE", self._session.options.key(stream)),
                    *(self._group, "0", "MKSTREAM"),
                )
            except ServerError as error:
                if error.code != "BUSYGROUP":
                    raise

    def pause(self) -> None:
        """Read nothing for a moment, so that a forwarded command does not come straight back.

        The jitter keeps two listeners from forwarding to each other in step.
        """
        pause_s = random.uniform(0.005, _MAX_PAUSE_S)  # noqa: S311 - jitter, not a secret
        self._pause_until = asyncio.get_running_loop().time() + pause_s

    async def read(self, limit: int) -> list[Delivery]:
        """Read at most `limit` commands; return none if none come within a short time.

        Raises:
            ServerUnavailable: The connection was lost.
            ServerError: A stream or its group is gone.
        """
        await asyncio.sleep(self._pause_until - asyncio.get_running_loop().time())
        return await self._sweep(limit) or await self._read_new(limit)

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
        )
        return [
            Delivery(keys[key.decode()], entry_id.decode(), raw, redelivered=False)
            for key, entry_id, raw in entries(answer)
        ]

    async def _sweep(self, limit: int) -> list[Delivery]:
        """Take over commands of listeners that are gone, from time to time."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_sweep or self._keeper.contact_s < self._lease_s:
            return []
        jitter = random.uniform(0.05, 0.2)  # noqa: S311 - jitter, not a secret
        self._next_sweep = loop.time() + self._lease_s * jitter
        deliveries: list[Delivery] = []
        key = self._session.options.key
        for stream in self._streams:
            if len(deliveries) == limit:
                break
            answer = await self._session.streams.sweep(
                key(f"sweeper:{self._group}:{stream}"),
                key(stream),
                consumer=self._consumer,
                group=self._group,
                lease_ms=round(self._lease_s * 1000),
                count=limit - len(deliveries),
                keep=_ENDED_KEPT,
            )
            deliveries += [
                Delivery(stream, entry_id, raw, redelivered=True)
                for entry_id, raw in answer.entries
            ]
        if len(deliveries) == limit:
            # There may be more: sweep again as soon as a slot is free.
            self._next_sweep = 0.0
        return deliveries
