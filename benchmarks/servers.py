#!/usr/bin/env python3
"""Measure requests with replicated durability, and over the nodes of a cluster.

    PYTHONPATH=src:.:benchmarks .venv/bin/python benchmarks/servers.py [--write]

With `--write` this writes docs/performance/servers.md. All servers and clients share the machine,
so a cluster's pace is said by processor time: what the busiest node would carry alone.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from sagastream import Bus, Command, CommandListener, Handler, Progress
from tests.clusters import Cluster, Process, cluster, replicated

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance" / "servers.md"
_STREAM, _EVENT = "work:commands", "work:do"
_IN_FLIGHT = 64
_PASSES, _LOAD_S = 5, 2.0
_NAMESPACES = 12


async def _nothing(_command: Command, _progress: Progress) -> None:
    pass


def _handler() -> Handler:
    return Handler(_STREAM, _EVENT, _nothing)


async def _load(buses: Sequence[Bus], seconds: float) -> float:
    """Requests a second with 64 in flight, spread over the buses."""
    until, done = time.monotonic() + seconds, 0

    async def call(bus: Bus) -> None:
        nonlocal done
        while time.monotonic() < until:
            await bus.request_and_reply(_STREAM, _EVENT, {}, 30)
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(call(buses[number % len(buses)]) for number in range(_IN_FLIGHT)))
    return done / (time.monotonic() - began)


def _cpu_s(server: Process) -> float:
    """The processor time of a server, in seconds."""
    found = server.call("INFO", "cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


async def _durability() -> list[str]:
    """The rates with and without replicas that confirm, in turn on the same servers."""
    rates: dict[str, list[float]] = {"primary": [], "replicated": []}
    with replicated() as servers:
        for _ in range(_PASSES):
            for durability, found in rates.items():
                async with (
                    Bus(servers.url, durability=durability) as bus,  # type: ignore[arg-type]
                    CommandListener(bus, [_handler()]),
                ):
                    await _load([bus], 0.3)
                    found.append(await _load([bus], _LOAD_S))
    primary, confirmed = (statistics.median(found) for found in rates.values())
    return [
        "| durability | requests a second, 64 in flight | ratio |",
        "|---|---|---|",
        f"| `primary` | {primary:,.0f} | 1 |",
        f"| `replicated`, one of two replicas | {confirmed:,.0f} | {confirmed / primary:.2f} |",
    ]


async def _nodes(whole: Cluster, count: int) -> tuple[float, float]:
    """The processor time of all nodes and of the busiest one, in microseconds a request."""
    primaries = [primary for _, primary, _ in whole.shards()][:count]
    names: list[str] = []
    number = 0
    while len(names) < _NAMESPACES:
        wanted = primaries[len(names) % count]
        if whole.owner(f"{{n{number}}}") is wanted:
            names.append(f"n{number}")
        number += 1
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Bus(whole.url, namespace=names[0]))
        others = [first.with_namespace(name) for name in names[1:]]
        buses = [first, *[await stack.enter_async_context(each) for each in others]]
        for bus in buses:
            await stack.enter_async_context(CommandListener(bus, [_handler()]))
        await _load(buses, 0.5)
        before = [_cpu_s(each) for each in primaries]
        rate = await _load(buses, _LOAD_S)
        spent = [_cpu_s(each) - was for each, was in zip(primaries, before, strict=True)]
    requests = rate * _LOAD_S
    return 1e6 * sum(spent) / requests, 1e6 * max(spent) / requests


async def _partitions() -> list[str]:
    lines = [
        "| nodes in use | us a request, all nodes | us a request, busiest node | requests a second |",
        "|---|---|---|---|",
    ]
    with cluster() as whole:
        for count in (1, 2, 3):
            found = [await _nodes(whole, count) for _ in range(_PASSES)]
            every, busiest = (statistics.median(each) for each in zip(*found, strict=True))
            lines.append(f"| {count} | {every:.0f} | {busiest:.0f} | {1e6 / busiest:,.0f} |")
    return lines


async def _page() -> str:
    return "\n".join(
        [
            "# Replicas and clusters",
            "",
            "`benchmarks/servers.py --write` writes this page. Medians of five passes on one machine, on which all",
            "processes share two cores.",
            "",
            "## Durability",
            "",
            "One primary with two replicas, found by three Sentinels. Both rows were measured in turn.",
            "",
            *await _durability(),
            "",
            "## Namespaces over the nodes of a cluster",
            "",
            "Twelve namespaces with a listener each, in one process that shares its connections between them. The nodes",
            "share the cores, so the last column is computed: the rate that fills a core of the busiest node.",
            "",
            *await _partitions(),
            "",
        ]
    )


def main() -> None:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/performance/servers.md")
    options = parser.parse_args()
    page = asyncio.run(_page())
    print(page)
    if options.write:
        _PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
