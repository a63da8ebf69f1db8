"""Primaries that are killed under load, with Sentinels that promote a replica."""

import asyncio
import time
from contextlib import suppress

import pytest
import redis

from sagastream import Bus, CommandListener
from tests.clusters import Process, Replicated, SlowLink, replicated
from tests.faults.report import Report
from tests.faults.steady_load import Load

pytestmark = [
    pytest.mark.blocking,
    pytest.mark.timeout(900),
    # asyncio does not close a transport whose peer dies while it is made.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_BEHIND_S = (0.3, 1.2, 0.0, 0.05)
_AFTER_PROMOTION_S = 5.0


async def _promoted(servers: Replicated, killed: Process) -> None:
    """Wait until a replica takes writes."""

    def takes_writes() -> bool:
        with suppress(redis.RedisError, OSError, StopIteration):
            primary = servers.primary()
            return primary is not killed and primary.call("ROLE")[0] == b"master"
        return False

    while not await asyncio.to_thread(takes_writes):
        await asyncio.sleep(0.02)


async def _kill_under_load(servers: Replicated, bus: Bus, load: Load, behind_s: float) -> float:
    """Kill the primary while replicas are behind; return how long the promotion took."""
    ending = asyncio.Event()
    primary = await asyncio.to_thread(servers.primary)
    async with SlowLink(primary.port, behind_s) as link:
        for each in servers.servers:
            if each is not primary:
                # Sentinel puts this right again after eight seconds.
                await asyncio.to_thread(each.call, "REPLICAOF", "127.0.0.1", link.port)
        await asyncio.to_thread(servers.wait_for_links, len(servers.servers) - 1)
        running = asyncio.create_task(load.run(bus, ending))
        await asyncio.sleep(1.0)  # the load before the fault
        await asyncio.to_thread(primary.kill)
    killed = time.monotonic()
    async with asyncio.timeout(60):
        await _promoted(servers, primary)
    load.watched_from = time.monotonic()
    await asyncio.sleep(0.5)  # the load after it
    ending.set()
    async with asyncio.timeout(60):
        await running
    return load.watched_from - killed


@pytest.mark.parametrize("durability", ["primary", "replicated"])
@pytest.mark.invariant(12)
async def test_a_killed_primary_is_replaced(
    durability: str, server_binary: str | None, report: Report, is_long: bool
) -> None:
    """No call hangs; with `replicated`, nothing that was acknowledged is lost or done twice."""
    row = report.row(f"primary killed under load, two replicas behind, `{durability}`")
    options = {"durability": durability, "replicated_within_s": 3.0}
    errors: set[str] = set()
    lost = stale = doubled = 0
    with replicated(server_binary) as servers:
        async with Bus(servers.url, **options) as bus:  # type: ignore[arg-type]
            for turn in range(20 if is_long else 2):
                load = Load(name=f"{turn}-")
                async with CommandListener(bus, [load.handler()]):
                    behind_s = _BEHIND_S[turn % len(_BEHIND_S)]
                    row.recoveries.append(await _kill_under_load(servers, bus, load, behind_s))
                    unknown = await load.lost(bus, within_s=15 if durability == "replicated" else 2)
                row.tries += len(load.completed) + len(load.acknowledged)
                row.doubled += load.doubled if durability == "replicated" else 0
                row.lost += len(unknown) if durability == "replicated" else 0
                lost, stale = lost + len(unknown), stale + load.stale
                doubled += load.doubled
                errors |= set(load.errors)
                row.notes["slowest after promotion"] = f"{load.slowest_s:.1f} s"
                assert load.completed
                assert load.slowest_s < _AFTER_PROMOTION_S
                if durability == "replicated":
                    assert not unknown
                    assert not load.doubled
                await asyncio.to_thread(servers.wait_until_whole)
    row.notes["unknown to the new primary"] = str(lost)
    row.notes["effects twice"] = str(doubled)
    row.notes["errors"] = " ".join(sorted(errors)) or "none"
    assert stale == 0, "a resource that checks the epoch refuses the older claim only"
