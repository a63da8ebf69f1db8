"""What a listener has to do next: new commands, and those of listeners that are gone.

How many it may take, and what becomes of them, is `listener.py`'s.
"""

import asyncio
import random
from collections.abc import Mapping

from sagastream._redis.connection import BLOCK_MS, entries
from sagastream._worker.lease import LeaseKeeper
from sagastream.bus import Bus
from sagastream.errors import ServerError

FINISHED_KEPT = 10_000
_SHORT_BLOCK_MS = 100
_MOST_PAUSE_S = 0.05

# Stream, entry id, fields.
Delivery = tuple[str, str, Mapping[bytes, bytes]]


class StreamConsumer:
    """Reads the streams of one consumer.

    Args:
        bus: Where the streams are.
        streams: Which ones.
        group: The consumer group.
        owner: The consumer's name.
        lease_s: How long a claim of this group lasts without renewal.
        keeper: Knows when the leases of this process were last renewed.
    """

    def __init__(
        self,
        bus: Bus,
        streams: list[str],
        *,
        group: str,
        owner: str,
        lease_s: float,
        keeper: LeaseKeeper,
    ) -> None:
        self._bus = bus
        self._streams = streams
        self._group = group
        self._owner = owner
        self._lease_s = lease_s
        self._keeper = keeper
        self._next_sweep = 0.0
        self._pause_until = 0.0
        self._turn = 0

    async def make_groups(self) -> None:
        """Make the streams and their groups, where they are not there yet."""
        for stream in self._streams:
            try:
                await self._bus.session().connection.call(
                    "XGROUP", "CREATE", self._bus.key(stream), self._group, "0", "MKSTREAM"
                )
            except ServerError as error:
                if error.code != "BUSYGROUP":
                    raise

    def pause(self) -> None:
        """Read nothing for a moment, or what is passed on comes straight back.

        The jitter keeps two listeners from passing theirs to and fro in step.
        """
        pause_s = random.uniform(0.005, _MOST_PAUSE_S)  # noqa: S311 - jitter, not a secret
        self._pause_until = asyncio.get_running_loop().time() + pause_s

    async def next(self, free: int) -> tuple[list[Delivery], bool]:
        """At most `free` commands, after a while none.

        Returns:
            The commands, and whether others had them before.
        """
        await asyncio.sleep(self._pause_until - asyncio.get_running_loop().time())
        swept = await self._sweep(free)
        return swept or await self._deliveries(free), bool(swept)

    async def _deliveries(self, free: int) -> list[Delivery]:
        """At most `free` new commands."""
        streams, block_ms = self._streams, min(BLOCK_MS, round(self._lease_s * 200))
        if free < len(streams):
            # COUNT holds for each stream: reading them all could bring more than is free.
            self._turn = (self._turn + free) % len(streams)
            streams = (streams[self._turn :] + streams[: self._turn])[:free]
            block_ms = _SHORT_BLOCK_MS
        keys = {self._bus.key(stream): stream for stream in streams}
        answer = await self._bus.session().connection.block(
            *("XREADGROUP", "GROUP", self._group, self._owner),
            *("COUNT", free // len(streams), "BLOCK", block_ms),
            *("STREAMS", *keys, *(">" for _ in keys)),
        )
        return [
            (keys[key.decode()], entry_id.decode(), raw) for key, entry_id, raw in entries(answer)
        ]

    async def _sweep(self, free: int) -> list[Delivery]:
        """At most `free` commands of listeners that are gone, now and then."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_sweep or self._keeper.contact_s < self._lease_s:
            return []
        jitter = random.uniform(0.05, 0.2)  # noqa: S311 - jitter, not a secret
        self._next_sweep = loop.time() + self._lease_s * jitter
        taken: list[Delivery] = []
        for stream in self._streams:
            if len(taken) == free:
                break
            found = await self._bus.session().functions.sweep(
                self._bus.key(f"sweeper:{self._group}:{stream}"),
                self._bus.key(stream),
                owner=self._owner,
                group=self._group,
                lease_ms=round(self._lease_s * 1000),
                count=free - len(taken),
                keep=FINISHED_KEPT,
            )
            taken += [(stream, entry_id, raw) for entry_id, raw in found]
        if len(taken) == free:
            # There may be more: it waits for a free slot, and no longer.
            self._next_sweep = 0.0
        return taken
