#!/usr/bin/env python3
"""Measure requests that wait: their times, limits, rates, and fair turns.

    PYTHONPATH=src:.:benchmarks .venv/bin/python benchmarks/queueing.py [--write] [--small] [--only PART]

With `--write` this writes docs/performance/queueing.md; `--small` is a tenth of it. Listeners are
processes, and share the machine with the server and this program.
"""

import argparse
import asyncio
import contextlib
import math
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sagastream import Bus, Command, CommandListener, Limit, Priority, Retention, multi_stage_reply
from sagastream.testing import EmbeddedServer, child_options
from tests.polling import eventually

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance" / "queueing.md"
_STREAM = "work:commands"
_BATCH = 1000
_LIMITS: dict[str, Sequence[Limit]] = {
    "none": (),
    "key": (Limit(concurrency=2, per="key"),),
    "rate": (Limit(rate=200),),
}


async def _listen(url: str, kind: str, concurrency: int) -> None:
    """Note when each request begins, in a list on the server."""
    async with Bus(url, retention=Retention(result_s=60.0, remember_s=60.0)) as bus:

        @multi_stage_reply(stream=_STREAM, event_type="work:do", limits=_LIMITS[kind])
        async def work(command: Command) -> None:
            if command.payload["note"]:
                at = f"{time.time():.4f} {command.payload['key']} {command.payload['due']}"
                await bus.command("RPUSH", "begun", at)
            await asyncio.sleep(command.payload["work_s"])

        await CommandListener(bus, [work], concurrency=concurrency).run(handle_signals=True)


@contextlib.contextmanager
def _listeners(url: str, count: int, kind: str, concurrency: int = 64) -> Iterator[None]:
    command = [sys.executable, __file__, "--listen", url, kind, str(concurrency)]
    processes = [subprocess.Popen(command, **child_options()) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


async def _emit(
    bus: Bus, count: int, of: Callable[[int], tuple[str, float, Priority | None, float | None]]
) -> None:
    """Emit commands: `of` gives key, work in s, priority and delay in s of each."""

    async def one(number: int) -> None:
        key, work_s, priority, delay_s = of(number)
        due = time.time() + (delay_s or 0.0)
        payload = {"key": key, "work_s": work_s, "note": True, "due": f"{due:.4f}"}
        await bus.emit_command(
            _STREAM, event_type="work:do", payload=payload, priority=priority, delay_s=delay_s
        )

    for first in range(0, count, _BATCH):
        await asyncio.gather(*(one(number) for number in range(first, min(count, first + _BATCH))))


async def _begun(bus: Bus, count: int) -> list[tuple[float, str, float]]:
    """When each of this many requests began, its key, and when it was due."""

    async def are_all() -> bool:
        return int(await bus.command("LLEN", "begun")) >= count

    await eventually(are_all, within_s=600, why=f"{count} have begun")
    lines = await bus.command("LRANGE", "begun", 0, -1)
    parts = [line.decode().split() for line in lines]
    return [(float(at), key, float(due)) for at, key, due in parts]


async def _later(scale: int) -> list[str]:
    """Delayed requests that are due within one minute."""
    count, within_s = 100_000 // scale, 60.0 / scale
    lead_s = 60.0 / scale
    with EmbeddedServer() as server, _listeners(server.url, 2, "none"):
        async with Bus(server.url) as bus:
            before = int((await bus.command("INFO", "memory"))["used_memory"])
            began = time.time()

            def of(number: int) -> tuple[str, float, None, float]:
                due = began + lead_s + within_s * number / count
                return "-", 0.0, None, max(0.0, due - time.time())

            await _emit(bus, count, of)
            took_s = time.time() - began
            each = (int((await bus.command("INFO", "memory"))["used_memory"]) - before) / count
            found = await _begun(bus, count)
    late = sorted(at - due for at, _, due in found)
    held = f"{count:,} requests due within {within_s:.0f} s, two listeners."
    held += (
        f" They were emitted in {took_s:.0f} s, and held {each:.0f} bytes each, records included."
    )
    return [
        held,
        "",
        "| late by | ms |",
        "|---|---|",
        f"| median | {1000 * statistics.median(late):.0f} |",
        f"| p99 | {1000 * late[len(late) * 99 // 100]:.0f} |",
        f"| most | {1000 * late[-1]:.0f} |",
    ]


async def _waiting(scale: int) -> list[str]:
    """What a delayed request costs the server's memory and the requests that do not wait."""
    count = 1_000_000 // scale
    with EmbeddedServer() as server, _listeners(server.url, 1, "none"):
        async with Bus(server.url) as bus:
            alone = await _p50(bus)
            before = int((await bus.command("INFO", "memory"))["used_memory"])
            for first in range(0, count, _BATCH):
                numbers = range(first, min(count, first + _BATCH))
                await asyncio.gather(*(_emit_later(bus, 3600 + n * 7919 % count) for n in numbers))
            each = (int((await bus.command("INFO", "memory"))["used_memory"]) - before) / count
            beside = await _p50(bus)
    return [
        f"{count:,} requests that wait hold {each - len('{}'):.0f} bytes each beyond their payload.",
        f"The p50 of plain requests is {1000 * alone:.2f} ms without them, {1000 * beside:.2f} beside.",
    ]


async def _emit_later(bus: Bus, delay_s: float) -> None:
    await bus.emit_command(_STREAM, event_type="work:do", payload={}, delay_s=delay_s)


async def _p50(bus: Bus, count: int = 2000) -> float:
    payload = {"key": "-", "work_s": 0, "note": False, "due": 0}
    times = []
    for _ in range(count):
        began = time.monotonic()
        await bus.request_and_reply(_STREAM, "work:do", payload, 60)
        times.append(time.monotonic() - began)
    return statistics.median(times)


async def _limited(scale: int) -> list[str]:
    """The throughput of 100 keys with two at once each, beside the same without limits."""
    count, rows = 10_000 // scale, []
    rates: dict[str, list[float]] = {"none": [], "key": []}
    for _ in range(3):
        for kind, found in rates.items():
            with EmbeddedServer() as server:
                async with Bus(server.url) as bus:
                    await _emit(bus, count, lambda number: (f"k{number % 100}", 0.02, None, None))
                    with _listeners(server.url, 4, kind, 16):
                        times = [at for at, _, _ in await _begun(bus, count)]
            found.append((count - 1) / (max(times) - min(times)))
    plain, limited = (statistics.median(found) for found in rates.values())
    rows += ["| limits | requests a second | ratio |", "|---|---|---|"]
    rows += [f"| none | {plain:,.0f} | 1 |"]
    rows += [f"| two at once for each of 100 keys | {limited:,.0f} | {limited / plain:.2f} |"]
    return rows


async def _rate(scale: int) -> list[str]:
    """How many begin in a minute with a rate of 200 a second."""
    seconds = 60.0 / scale
    count = int(200 * seconds * 1.2)
    with EmbeddedServer() as server, _listeners(server.url, 2, "rate"):
        async with Bus(server.url) as bus:
            await _emit(bus, count, lambda _: ("-", 0.0, None, None))
            times = sorted(at for at, _, _ in await _begun(bus, count))
    first = times[0] + 1.0
    begun = sum(first <= at < first + seconds for at in times)
    found = f"A rate of 200 a second, two listeners: {begun / seconds:.1f} a second began over"
    return [f"{found} {seconds:.0f} s ({begun / seconds / 200 - 1:+.1%})."]


async def _fair(scale: int) -> list[str]:
    """One key with a large backlog, and 99 that send one request a second each."""
    backlog, seconds, work_s = 1_000_000 // scale, 20.0 / math.sqrt(scale), 0.05
    waits: dict[str, list[float]] = {}
    big = Priority(fairness_key="big")
    for name, size in (("empty", 0), ("backlog", backlog)):
        with EmbeddedServer() as server, _listeners(server.url, 2, "none", 16):
            async with Bus(server.url) as bus:
                await _emit(bus, size, lambda _: ("big", work_s, big, None))
                until, number, asking = time.monotonic() + seconds, 0, []
                while time.monotonic() < until:
                    asking.append(asyncio.create_task(_ask(bus, f"small{number % 99}", work_s)))
                    number += 1
                    await asyncio.sleep(1 / 99)
                waits[name] = sorted(await asyncio.gather(*asking))
    p99 = {name: found[len(found) * 99 // 100] for name, found in waits.items()}
    rows = ["| backlog of another key | p50 of the others | p99 of the others |", "|---|---|---|"]
    for name, found in waits.items():
        waiting = f"{backlog:,}" if name == "backlog" else "0"
        p50 = 1000 * statistics.median(found)
        rows.append(f"| {waiting} | {p50:.0f} ms | {1000 * p99[name]:.0f} ms |")
    rows += ["", f"The ratio of the p99 is {p99['backlog'] / p99['empty']:.2f}."]
    return [*rows, "", await _jain(scale)]


async def _ask(bus: Bus, key: str, work_s: float) -> float:
    began = time.monotonic()
    payload = {"key": key, "work_s": work_s, "note": False, "due": 0}
    await bus.request_and_reply(
        _STREAM, "work:do", payload, 300, priority=Priority(fairness_key=key)
    )
    return time.monotonic() - began


async def _jain(scale: int) -> str:
    """Jain's index over equal keys with unequal backlogs, while all have requests."""
    keys, share = 20, 5000 // scale
    with EmbeddedServer() as server:
        async with Bus(server.url) as bus:

            def of(number: int) -> tuple[str, float, Priority, None]:
                key = f"k{min(number // share, keys - 1)}"
                return key, 0.001, Priority(fairness_key=key), None

            await _emit(bus, keys * share * 2, of)
            with _listeners(server.url, 2, "none"):
                found = await _begun(bus, keys * share // 2)
    counts = Counter(key for _, key, _ in found[: keys * share // 2])
    total, squares = sum(counts.values()), sum(count**2 for count in counts.values())
    index = total**2 / (keys * squares)
    return (
        f"Jain's index over {keys} keys, one of them with a backlog 21 times as long: {index:.4f}."
    )


_PARTS = {
    "Later": _later,
    "Waiting": _waiting,
    "Limits by key": _limited,
    "Rates": _rate,
    "Fair turns": _fair,
}


def main() -> None:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("--small", action="store_true", help="a tenth of it")
    parser.add_argument("--only", choices=_PARTS, help="one part")
    parser.add_argument("--listen", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        url, kind, concurrency = options.listen
        asyncio.run(_listen(url, kind, int(concurrency)))
        return
    lines = ["# Requests that wait", "", "`benchmarks/queueing.py --write` writes this page."]
    for title, part in _PARTS.items():
        if options.only not in {None, title}:
            continue
        lines += ["", f"## {title}", "", *asyncio.run(part(10 if options.small else 1))]
        print("\n".join(lines[-8:]), flush=True)
    if options.write:
        _PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
