"""Measure the server memory that ended requests and sagas hold, and what a small server carries.

    .venv/bin/python benchmarks/memory.py            print the table
    .venv/bin/python benchmarks/memory.py --write    write docs/performance/memory.md

Each figure is the growth of `used_memory` when the number of ended requests doubles, without the
streams, which do not grow with their number. The day is a shortened one: a thousandth of the requests of
a day at 1,000 a second, with times that are as much shorter.
"""

import argparse
import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagastream import Bus, Command, CommandListener, Progress, Retention, multi_stage_reply
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance" / "memory.md"
_STREAM, _SAGA_STREAM = "work:commands", "saga:commands"
_MOVES_S = 1.0
_DAY = Retention()
_SHORTER = 1000
_RATE = 3000
_GIB = 2**30
_COUNT, _SAGAS = 10_000, 500


@multi_stage_reply(stream=_STREAM, event_type="work:echo")
async def echo(command: Command, _progress: Progress) -> dict[str, Any]:
    """Return the payload."""
    return dict(command.payload)


@multi_stage_reply(stream=_STREAM, event_type="work:report")
async def report(_command: Command, progress: Progress) -> None:
    """Report progress ten times."""
    for number in range(1, 11):
        await progress(number / 10)


@multi_stage_reply(stream=_SAGA_STREAM, event_type="saga:do")
async def do(_command: Command, _progress: Progress) -> None:
    """Do nothing."""


_HANDLERS = [echo, report, do]
_SAGA = Saga(
    "trip", tuple(Step(f"step{n}", _SAGA_STREAM, "saga:do", lambda _g, _r: {}) for n in range(4))
)


@dataclass(frozen=True)
class Figures:
    """What was measured on one server, in bytes.

    Attributes:
        server: Its name and version.
        small: A request with `{}` both ways.
        large: A request with 200 bytes both ways.
        reporting: A request with ten stages of progress that nobody follows.
        remembered: An id whose result has gone.
        saga: A saga of four steps.
        day: A day at 1,000 small requests a second, by its highest mark.
    """

    server: str
    small: float
    large: float
    reporting: float
    remembered: float
    saga: float
    day: float

    def rate_of(self, server_bytes: int) -> float:
        """How many small requests a second fill 80 % of a server in a day."""
        ids = 7 / 6 * _DAY.remember_s * self.remembered
        return 0.8 * server_bytes / (ids + _DAY.result_s * (self.small - self.remembered))


class _Meter:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def used(self) -> int:
        """The server's memory, without streams of commands and inboxes."""
        inboxes = await self._bus.command("KEYS", "replies:*")
        await self._bus.command("DEL", _STREAM, _SAGA_STREAM, *inboxes)
        return int((await self._bus.command("INFO", "memory"))["used_memory"])

    async def growth(self, work: Awaitable[Any], count: int, *, settle_s: float = 0.0) -> float:
        """By how much some work makes it grow, for each of `count` parts."""
        before = await self.used()
        async with CommandListener(self._bus, _HANDLERS, progress_interval_s=0):
            await work
        await asyncio.sleep(settle_s)
        return (await self.used() - before) / count


async def _ask(bus: Bus, event_type: str, payload: dict[str, Any], count: int) -> None:
    slots = asyncio.Semaphore(64)

    async def one() -> None:
        async with slots:
            await bus.request_and_reply(_STREAM, event_type, payload)

    await asyncio.gather(*(one() for _ in range(count)))


async def _run_sagas(runner: SagaRunner, count: int) -> None:
    for _ in range(count):
        await runner.run(await runner.start({}))


async def _measure_day(bus: Bus) -> float:
    """The highest growth in a shortened day and a half, times how much shorter it is."""
    meter, loop = _Meter(bus), asyncio.get_running_loop()
    speed = _RATE / 1000 * _SHORTER
    short = Retention(result_s=_DAY.result_s / speed, remember_s=_DAY.remember_s / speed)
    async with (
        Bus(bus.url, retention=short) as own,
        CommandListener(own, _HANDLERS, retention=short, lease_s=2.0),
    ):
        before, highest = await meter.used(), 0
        until = loop.time() + 1.6 * short.remember_s
        while loop.time() < until:
            began = loop.time()
            await _ask(own, "work:echo", {}, _RATE // 4)
            await asyncio.sleep(0.25 - (loop.time() - began))
            highest = max(highest, int((await bus.command("INFO", "memory"))["used_memory"]))
    return (highest - before) * _SHORTER


async def _measure_requests(bus: Bus, event_type: str, payload: dict[str, Any]) -> float:
    meter = _Meter(bus)
    await meter.growth(_ask(bus, event_type, payload, _COUNT), 1)
    return await meter.growth(_ask(bus, event_type, payload, _COUNT), _COUNT)


async def _measure_sagas(bus: Bus) -> float:
    runner = SagaRunner(bus, _SAGA, keep_moves_s=_MOVES_S)
    meter = _Meter(bus)
    await meter.growth(_run_sagas(runner, _SAGAS), 1, settle_s=2 * _MOVES_S)
    return await meter.growth(_run_sagas(runner, _SAGAS), _SAGAS, settle_s=2 * _MOVES_S)


async def _measure_remembered(bus: Bus) -> float:
    meter = _Meter(bus)
    await meter.growth(_ask(bus, "work:echo", {}, _COUNT), 1)
    (window,) = await bus.command("ZRANGE", "remembered", 0, -1)
    count, before = await bus.command("HLEN", window), await meter.used()
    await bus.command("DEL", window)
    return float(before - await meter.used()) / int(count)


async def _on_new_server(binary: str | None, measure: Callable[[Bus], Awaitable[float]]) -> float:
    with EmbeddedServer(binary=binary) if binary else EmbeddedServer() as server:
        async with Bus(server.url) as bus:
            await bus.ping()
            await bus.command("CONFIG", "SET", "lazyfree-lazy-user-del", "no")
            return await measure(bus)


async def measure(binary: str | None) -> Figures:
    """Measure each figure on its own server."""
    with EmbeddedServer(binary=binary) if binary else EmbeddedServer() as server:
        async with Bus(server.url) as bus:
            info = await bus.command("INFO", "server")
    version = info.get("valkey_version") or info["redis_version"]
    return Figures(
        f"{info.get('server_name', 'redis')} {version}",
        small=await _on_new_server(binary, lambda bus: _measure_requests(bus, "work:echo", {})),
        large=await _on_new_server(
            binary, lambda bus: _measure_requests(bus, "work:echo", {"x": "y" * 190})
        ),
        reporting=await _on_new_server(
            binary, lambda bus: _measure_requests(bus, "work:report", {})
        ),
        remembered=await _on_new_server(binary, _measure_remembered),
        saga=await _on_new_server(binary, _measure_sagas),
        day=await _on_new_server(binary, _measure_day),
    )


def table(figures: list[Figures]) -> str:
    """The page with all figures."""
    lines = [
        "# Memory of the server",
        "",
        "`benchmarks/memory.py --write` writes this page. Servers have their default settings, and the library has its",
        "defaults: a result is kept for an hour, and an id is remembered for a day.",
        "",
        "| bytes | " + " | ".join(each.server for each in figures) + " | limit |",
        "|---|" + "---|" * (len(figures) + 1),
    ]
    rows = (
        ("an ended request, `{}` both ways, while its result is kept", "small", "350"),
        ("the same with 200 bytes both ways", "large", "650"),
        ("a request with ten stages of progress that nobody follows", "reporting", "500"),
        ("a remembered id", "remembered", "120"),
        ("a saga of four steps, some seconds after its end", "saga", "4,096"),
    )
    for label, name, limit in rows:
        values = " | ".join(f"{getattr(each, name):,.0f}" for each in figures)
        lines.append(f"| {label} | {values} | {limit} |")
    days = " | ".join(f"{each.day / _GIB:.1f} GiB" for each in figures)
    lines += [
        f"| a day at 1,000 small requests a second, highest mark | {days} | 12 GiB |",
        "",
        "## What a server carries",
        "",
        "Small requests a second, all day, with 80 % of the memory:",
        "",
        "| memory | " + " | ".join(each.server for each in figures) + " |",
        "|---|" + "---|" * len(figures),
    ]
    for gib in (0.25, 1, 2, 8):
        rates = " | ".join(f"{each.rate_of(round(gib * _GIB)):,.0f}" for each in figures)
        lines.append(f"| {gib:g} GiB | {rates} |")
    lines += [
        "",
        "A larger result costs its own size more, for as long as it is kept. `Retention` sets both times, for a bus, a",
        "listener or a handler, and limits how many results are kept (`max_kept`, `max_kept_bytes`). The last 10,000 finished",
        "commands of a stream are kept too, or 64 MiB of them.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure on Valkey, and on Redis if it is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/performance/memory.md")
    write = parser.parse_args().write
    binaries = [None, *filter(None, [shutil.which("redis-server")])]
    text = table([asyncio.run(measure(binary)) for binary in binaries])
    print(text)
    if write:
        _PAGE.write_text(text)


if __name__ == "__main__":
    main()
