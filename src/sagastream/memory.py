"""What the memory of a server holds, and how to get some of it back, for operators.

A server may be large: what holds the memory is estimated from a sample of its keys.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from sagastream.bus import Bus

_SAMPLE_KEYS = 1000
_KEYS_PER_CALL = 500
# The share of the limit from which on a server is nearly full.
NEARLY_FULL = 0.8


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """How much memory a server uses, and for what.

    Attributes:
        used_bytes: What it uses now.
        limit_bytes: Its `maxmemory`; 0 for no limit.
        holders: What holds it and how many bytes, about, the largest first.
    """

    used_bytes: int
    limit_bytes: int
    holders: tuple[tuple[str, int], ...]

    @property
    def share(self) -> float:
        """The used part of the limit, from 0 to 1 and a little more; 0 without a limit."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0

    @property
    def is_full(self) -> bool:
        """Whether new commands are refused."""
        return self.share >= 1.0


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge dropped.

    Attributes:
        results: How many results.
        payload_bytes: How many bytes they had.
    """

    results: int
    payload_bytes: int


async def memory_status(bus: Bus, *, timeout: float | None = None) -> MemoryStatus:
    """Read how much memory the server uses, and estimate what holds it.

    Args:
        bus: The server.
        timeout: Seconds to wait for each answer; None for the bus's `call_timeout_s`.

    Raises:
        ServerUnavailable: The server did not answer in time.
    """
    info = await bus.command("INFO", "memory", timeout=timeout)
    count = int(await bus.command("DBSIZE", timeout=timeout))
    cursor, keys = 0, list[bytes]()
    while len(keys) < _SAMPLE_KEYS:
        cursor, found = await bus.command("SCAN", cursor, "COUNT", _SAMPLE_KEYS, timeout=timeout)
        keys += found
        if not int(cursor):
            break
    small, large = Counter[str](), Counter[str]()
    # These are few and large: a sample would miss them.
    windows = await bus.command("ZRANGE", bus.key("remembered"), 0, -1, timeout=timeout)
    sample = [*windows, *set(keys[:_SAMPLE_KEYS]).difference(windows)]
    sizes_of_sample = await asyncio.gather(
        *(bus.command("MEMORY", "USAGE", key, timeout=timeout) for key in sample)
    )
    for key, size in zip(sample, sizes_of_sample, strict=True):
        name, is_large = _holder(bus, key.decode(errors="replace"))
        (large if is_large else small)[name] += int(size or 0)
    scale = count / max(1, min(len(keys), _SAMPLE_KEYS))
    # There are few large keys: those of the sample are not multiplied.
    sizes = large + Counter({name: round(size * scale) for name, size in small.items()})
    return MemoryStatus(
        int(info["used_memory"]), int(info.get("maxmemory", 0)), tuple(sizes.most_common())
    )


def _holder(bus: Bus, key: str) -> tuple[str, bool]:
    """What a key belongs to, and whether there are few of its kind, which may be large."""
    prefix = bus.key("")
    name = key.removeprefix(prefix)
    if not key.startswith(prefix):
        return "keys outside the namespace", False
    if name.startswith("request:"):
        return ("logs of followed requests" if name.endswith(":stages") else "requests"), False
    if name.startswith("remembered"):
        return "ids of ended requests", True
    if name.startswith("saga:"):
        return "sagas", False
    for end in (":commands", ":dead"):
        if name.endswith(end):
            return name, True
    return ("replies" if name.startswith("replies:") else "other keys"), False


async def purge(bus: Bus, *, older_than_s: float = 0.0, dry_run: bool = False) -> Purged:
    """Drop results of ended requests before their time; their ids stay remembered.

    The requests of sagas, and what has not ended, stay.

    Args:
        bus: The server.
        older_than_s: Only of requests that ended at least this many seconds ago.
        dry_run: Drop nothing, and say what would be dropped.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    cursor, results, payload_bytes = 0, 0, 0
    pattern = f"{bus.key('request:')}*".replace("[", "\\[")
    while True:
        cursor, keys = await bus.command(
            *("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_PER_CALL, "TYPE", "string")
        )
        if keys:
            dropped = await bus.session().requests.purge(
                keys, older_than_ms=round(1000 * older_than_s), dry_run=dry_run
            )
            results += dropped[0]
            payload_bytes += dropped[1]
        if not int(cursor):
            return Purged(results, payload_bytes)
