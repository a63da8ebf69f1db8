#!/usr/bin/env python3
"""Measure sagas that wait for an event: memory of their runner, and how soon an event wakes one.

    PYTHONPATH=src:.:benchmarks .venv/bin/python benchmarks/waiting_sagas.py [--sagas 100000]

One process serves all of them. It is measured with 1 %, 10 % and all of them waiting; then events are
sent to some, one at a time, and each must end its saga.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sagastream import Bus
from sagastream.saga import Saga, SagaRunner, WaitFor, signal_saga
from sagastream.saga.administration import resolve_saga
from sagastream.testing import EmbeddedServer, child_options
from tests.polling import eventually

WAIT = Saga("approval", (WaitFor("approve", timeout=86_400.0),))
_BATCH = 500
_EVENTS = 200


async def _serve(url: str) -> None:
    async with Bus(url) as bus:
        await SagaRunner(bus, WAIT).serve()


@contextmanager
def _runner(url: str) -> Iterator[int]:
    command = [sys.executable, __file__, "--serve", url]
    process = subprocess.Popen(command, **child_options())
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def _start(bus: Bus, first: int, last: int) -> None:
    runner = SagaRunner(bus, WAIT)
    for low in range(first, last, _BATCH):
        names = [f"saga-{number}" for number in range(low, min(last, low + _BATCH))]
        await asyncio.gather(*(runner.start({}, saga_id=name) for name in names))

    async def all_wait() -> bool:
        journals = await asyncio.gather(
            *(resolve_saga(bus, f"saga-{number}") for number in (first, last - 1))
        )
        return all(journal.entries for journal in journals)

    await eventually(all_wait, within_s=1800, why="the last one waits")


async def _woken_ms(bus: Bus, name: str) -> float:
    began = time.perf_counter()
    await signal_saga(bus, name, "approve", {"by": "ada"})

    async def has_ended() -> bool:
        return (await resolve_saga(bus, name)).status == "completed"

    await eventually(has_ended, within_s=10, why="it has ended")
    return 1000 * (time.perf_counter() - began)


async def measure(sagas: int) -> None:
    """Print a row for each number of waiting sagas."""
    print(
        "| sagas that wait | runner, MiB | its processor time at rest | event to end, p50 ms | p99 ms |"
    )
    print("|---|---|---|---|---|")
    with EmbeddedServer() as server, _runner(server.url) as pid:
        async with Bus(server.url) as bus:
            first = 0
            for count in (sagas // 100, sagas // 10, sagas):
                await _start(bus, first, count)
                cpu, at = _cpu_s(pid), time.perf_counter()
                await asyncio.sleep(10)  # what it costs at rest is what is measured
                rest = (_cpu_s(pid) - cpu) / (time.perf_counter() - at)
                step = max(1, (count - first) // _EVENTS)
                names = [f"saga-{number}" for number in range(first, count, step)][:_EVENTS]
                times = sorted([await _woken_ms(bus, name) for name in names])
                p99 = times[int(len(times) * 0.99)]
                row = (f"{count:,}", f"{_resident_mib(pid):.0f}", f"{100 * rest:.1f} %")
                print(
                    f"| {' | '.join(row)} | {statistics.median(times):.1f} | {p99:.1f} |",
                    flush=True,
                )
                first = count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sagas", type=int, default=100_000)
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(_serve(given.serve) if given.serve else measure(given.sagas))
