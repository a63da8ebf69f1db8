"""A cluster under load: failovers, killed nodes, and slots that move."""

import asyncio
import random
import time
from contextlib import AsyncExitStack, suppress

import pytest
import redis

from sagastream import Bus, CommandListener
from tests.clusters import Cluster, cluster
from tests.faults.report import Report
from tests.faults.steady_load import STREAM, Load

pytestmark = [
    pytest.mark.blocking,
    pytest.mark.timeout(1200),
    # asyncio does not close a transport whose peer dies while it is made.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_NAMESPACES = 12
_LONG_S, _SHORT_S = 600.0, 20.0


def _fault(whole: Cluster, kind: str, rng: random.Random) -> None:
    """Inject a fault, and wait until the cluster is whole again."""
    shards = whole.shards()
    if kind == "slot migrated":
        name = f"{{t{rng.randrange(_NAMESPACES)}}}"
        whole.migrate(whole.slot(name), pause_s=rng.choice([0.0, 0.3]))
    elif kind == "slot migrated in one step":
        whole.migrate_at_once(whole.slot(f"{{t{rng.randrange(_NAMESPACES)}}}"))
    elif kind == "clean failover":
        _, _, replicas = rng.choice(shards)
        with suppress(redis.ResponseError):
            whole.fail_over(replicas[0])
    else:
        _, primary, _ = rng.choice(shards)
        primary.kill()
        time.sleep(2.5)  # the outage of a node; its replica is promoted meanwhile
    whole.wait_until_whole()


@pytest.mark.invariant(12)
async def test_namespaces_of_a_cluster_survive_its_changes(
    server_binary: str | None, report: Report, is_long: bool
) -> None:
    """No error reaches a caller; nothing that was acknowledged is lost, nothing is done twice."""
    rng = random.Random(20)
    loads = [Load(callers=2, name=f"t{number}-") for number in range(_NAMESPACES)]
    kinds = (
        *("slot migrated", "clean failover"),
        *("slot migrated in one step", "primary killed"),
    )
    ending = asyncio.Event()
    with cluster(server_binary) as whole:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(
                Bus(
                    whole.url,
                    namespace="t0",
                    durability="replicated",
                    replicated_within_s=20,
                    call_timeout_s=30,
                )
            )
            others = [first.with_namespace(f"t{number}") for number in range(1, _NAMESPACES)]
            buses = [first, *[await stack.enter_async_context(each) for each in others]]
            for bus, load in zip(buses, loads, strict=True):
                listener = CommandListener(bus, [load.handler(STREAM)])
                await stack.enter_async_context(listener)
            running = asyncio.gather(
                *(load.run(bus, ending) for bus, load in zip(buses, loads, strict=True))
            )
            until, turn = time.monotonic() + (_LONG_S if is_long else _SHORT_S), 0
            while time.monotonic() < until or turn < len(kinds):
                kind = kinds[turn % len(kinds)]
                report.row(f"cluster of 3 + 3, 12 namespaces: {kind}").tries += 1
                await asyncio.to_thread(_fault, whole, kind, rng)
                turn += 1
            ending.set()
            async with asyncio.timeout(60):
                await running
            lost = [
                name
                for bus, load in zip(buses, loads, strict=True)
                for name in await load.lost(bus, within_s=20)
            ]
    row = report.row("cluster of 3 + 3, 12 namespaces: requests")
    row.tries = sum(len(load.completed) + len(load.acknowledged) for load in loads)
    row.lost = len(lost)
    row.doubled = sum(load.doubled for load in loads)
    errors = sum((load.errors for load in loads), start=loads[0].errors.__class__())
    assert all(load.completed for load in loads)
    assert not errors
    assert not lost
    assert row.doubled == 0
