"""A long backlog of commands, and many entries that are pending for dead listeners."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sagastream.testing import EmbeddedServer
from tests.faults.invariants import STREAM
from tests.faults.report import Report, Row
from tests.faults.roles import WORKER_LEASE_S, in_process, worker
from tests.plain_client import GROUP, connect
from tests.polling import eventually

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(3000)]

_BATCH = 1000
# A command must take less time than there is between two renewals of a lease.
_MAX_COMMAND_MS = 1000 * WORKER_LEASE_S / 3


def _write(client: Any, count: int) -> None:
    """Add commands as a client in another language does, with XADD."""
    for start in range(0, count, _BATCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + _BATCH, count)):
            fields = {"event_type": "work:count", "payload": "{}", "request_id": f"r{number}"}
            pipeline.xadd(STREAM, fields)
        pipeline.execute()


@contextlib.contextmanager
def _workers(store: EmbeddedServer, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(in_process(worker, store.url))
        yield


async def _drain(client: Any, row: Row) -> None:
    """Wait until no command is unread or pending; note the highest memory use."""
    most = 0

    def is_drained() -> bool:
        nonlocal most
        group = client.xinfo_groups(STREAM)[0]
        most = max(most, int(client.info("memory")["used_memory_rss"]))
        return not group["pending"] and not group["lag"]

    await eventually(is_drained, within_s=3000, why="the backlog is drained")
    row.notes["server memory"] = f"{most / 2**20:,.0f} MiB"


def _check(client: Any, row: Row, count: int) -> None:
    """Check that each request took effect once, and that no command blocked the server long."""
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
    assert slowest / 1000 < _MAX_COMMAND_MS, "a command delays renewals"


def _measure(client: Any) -> None:
    client.config_set("latency-tracking-info-percentiles", "100")
    client.config_resetstat()


async def test_a_long_backlog_is_drained_to_its_end(
    store: EmbeddedServer, report: Report, is_long: bool
) -> None:
    """Each command of the backlog is done once, and finished commands are trimmed."""
    count = 1_000_000 if is_long else 12_000
    row = report.row(f"backlog of {count:,} commands")
    with connect(store.url) as client:
        client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        _write(client, count)
        _measure(client)
        begun = time.monotonic()
        with _workers(store, 2):
            await _drain(client, row)
            row.recoveries.append(time.monotonic() - begun)
            await eventually(
                lambda: client.xlen(STREAM) <= 11_100, within_s=60, why="the stream is trimmed"
            )
        _check(client, row, count)


async def test_entries_of_dead_listeners_are_taken_over_in_batches(
    store: EmbeddedServer, report: Report, is_long: bool
) -> None:
    """However many entries are pending, each batch is small, and all of them are done."""
    count = 100_000 if is_long else 5_000
    row = report.row(f"{count:,} entries pending for dead listeners")
    with connect(store.url) as client:
        client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        _write(client, count)
        for turn in range(0, count, _BATCH):
            client.xreadgroup(GROUP, f"dead-{turn // _BATCH % 50}", {STREAM: ">"}, count=_BATCH)
        _measure(client)
        begun = time.monotonic()
        with _workers(store, 1):
            await _drain(client, row)
            row.recoveries.append(time.monotonic() - begun)
        _check(client, row, count)
