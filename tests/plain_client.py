"""What clients do that are not this library: plain entries, abandoned deliveries, raw keys.

Tests of the library's own names use those names; this is for what only another client can do.
"""

from collections.abc import Mapping
from typing import Any

import redis

from sagastream import Bus

GROUP = "sagastream"


def connect(url: str) -> "redis.Redis":
    """A connection of redis-py whose answers are text."""
    return redis.Redis.from_url(url, decode_responses=True)


async def call(bus: Bus, command: str, name: str, *args: Any) -> Any:
    """Send a command for one key of the namespace of a bus."""
    return await bus.command(command, bus.key(name), *args)


async def add_entry(
    bus: Bus, stream: str, fields: Mapping[str, Any], *, entry_id: str = "*"
) -> str:
    """Add an entry with XADD, as a client in another language does.

    Returns:
        The id of the entry.
    """
    flat = [part for pair in fields.items() for part in pair]
    added = await call(bus, "XADD", stream, entry_id, *flat)
    return str(added.decode())


async def deliver(
    bus: Bus, stream: str, *, consumer: str = "dead", count: int | None = None
) -> list[tuple[str, dict[bytes, bytes]]]:
    """Deliver entries to a consumer that never claims them, as one that dies right after its read.

    Args:
        bus: The server.
        stream: The stream; its group is created if it does not exist.
        consumer: The consumer that gets the entries.
        count: Deliver this many at most; None for all.

    Returns:
        The id and fields of each entry.
    """
    await create_group(bus, stream)
    limit = () if count is None else ("COUNT", count)
    read = ("XREADGROUP", "GROUP", GROUP, consumer, *limit, "STREAMS", bus.key(stream), ">")
    ((_, entries),) = await bus.command(*read)
    return [(entry_id.decode(), fields) for entry_id, fields in entries]


async def create_group(bus: Bus, stream: str) -> None:
    """Create the listeners' consumer group at the start of a stream, if it does not exist."""
    exists = await call(bus, "EXISTS", stream)
    groups = await bus.command("XINFO", "GROUPS", bus.key(stream)) if exists else []
    if all(group["name"] != GROUP.encode() for group in groups):
        await bus.command("XGROUP", "CREATE", bus.key(stream), GROUP, "0", "MKSTREAM")
