"""A long queue of commands, and a long list of what dead listeners left behind."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from sagastream.testing import EmbeddedServer
from tests.faults.figures import Figures, Row
from tests.faults.invariants import GROUP, STREAM, look
from tests.faults.roles import WORKER_LEASE_S, spawn, worker

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(3000)]

_BATCH = 1000
# A command may not take as long as it is from one renewal of a lease to the next.
_MOST_COMMAND_MS = 1000 * WORKER_LEASE_S / 3


def _write(client: Any, count: int) -> None:
    """Commands as another language would write them: by plain XADD, a name each."""
    for start in range(0, count, _BATCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + _BATCH, count)):
            fields = {"event_type": "work:count", "payload": "{}", "request_id": f"r{number}"}
            pipeline.xadd(STREAM, fields)
        pipeline.execute()


@contextlib.contextmanager
def _working(store: EmbeddedServer, count: int) -> Iterator[list[BaseProcess]]:
    processes = [spawn(worker, store.url) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


async def _drained(client: Any, row: Row) -> None:
    """Wait until nothing is waiting and nothing pending, and keep the greatest memory."""
    most = 0
    while True:
        group = client.xinfo_groups(STREAM)[0]
        most = max(most, int(client.info("memory")["used_memory_rss"]))
        row.notes["server memory"] = f"{most / 2**20:,.0f} MiB"
        if not group["pending"] and not group["lag"]:
            return
        await asyncio.sleep(0.1)


def _judge(client: Any, row: Row, count: int) -> None:
    """Each request had exactly one end; and no command held the server up for long."""
    row.tries += count
    counts = client.hgetall("counts")
    missing = count - len(counts)
    row.lost += missing
    surplus = sum(int(ends) for ends in counts.values()) - len(counts)
    row.doubled += surplus
    slowest = max(
        float(percentiles["p100"])
        for name, percentiles in client.info("latencystats").items()
        if name.endswith(("_fcall", "_xreadgroup", "_xautoclaim"))
    )
    row.notes["longest command"] = f"{slowest / 1000:.1f} ms"
    assert (missing, surplus) == (0, 0)
    assert client.hlen("counts") == count
    assert slowest / 1000 < _MOST_COMMAND_MS, "a command holds renewals up"


def _measure(client: Any) -> None:
    client.config_set("latency-tracking-info-percentiles", "100")
    client.config_resetstat()


async def test_a_long_backlog_is_drained_to_its_end(
    store: EmbeddedServer, figures: Figures, is_long: bool
) -> None:
    """Every command of the queue is done once, and the finished ones are trimmed behind it."""
    count = 1_000_000 if is_long else 12_000
    row = figures.row(f"backlog of {count:,} commands")
    with look(store) as client:
        client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        _write(client, count)
        _measure(client)
        begun = time.monotonic()
        with _working(store, 2):
            await _drained(client, row)
            row.recoveries.append(time.monotonic() - begun)
            while client.xlen(STREAM) > 11_100:
                await asyncio.sleep(0.05)
        _judge(client, row, count)


async def test_what_dead_listeners_held_is_taken_over_piece_by_piece(
    store: EmbeddedServer, figures: Figures, is_long: bool
) -> None:
    """However much is pending for the dead, each piece is small, and all of it is done."""
    count = 100_000 if is_long else 5_000
    row = figures.row(f"{count:,} entries pending for dead listeners")
    with look(store) as client:
        client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        _write(client, count)
        for turn in range(0, count, _BATCH):
            client.xreadgroup(GROUP, f"dead-{turn // _BATCH % 50}", {STREAM: ">"}, count=_BATCH)
        _measure(client)
        begun = time.monotonic()
        with _working(store, 1):
            await _drained(client, row)
            row.recoveries.append(time.monotonic() - begun)
        _judge(client, row, count)
