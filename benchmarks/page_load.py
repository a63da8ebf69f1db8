#!/usr/bin/env python3
"""Measure a page that stays open beside a mission of many robots: its frames per second and its memory.

    PYTHONPATH=. .venv/bin/python benchmarks/page_load.py --map FLOOR.yaml [--robots 64] [--minutes 20]

Runs one mission and keeps what it wrote: the recording, and the stages of its steps. Then writes the
same entries, at the times at which they came, to a mission that nobody drives, repeatedly until
`--minutes` have passed, while a page shows it in Chromium. So the page gets what a mission of that
length sends, and the robots' own load on the processors is left out; `benchmarks/page.py` measures
a page beside its mission. Prints one JSON object with a line per minute: frames per second
(`requestAnimationFrame`), the 99th percentile of the time between two frames, and the page's memory
after a garbage collection: JavaScript, the DOM, and array buffers. Needs chromium.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import CDPSession, Page, async_playwright

from app.cli.workers import Workers
from app.config import ROOT, Settings, choose_settings
from app.missions.mission import MissionHandle, run_saga
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer, child_options
from tests.polling import eventually_sync

_PORT = 8124
_URL = f"http://127.0.0.1:{_PORT}"
_MINUTE_S = 60.0
# Intervals in milliseconds, counted rather than kept, so that the count needs no memory.
_COUNT = """() => {
  window.intervals = new Uint32Array(1000);
  let before = performance.now();
  const count = (now) => {
    window.intervals[Math.min(999, Math.max(0, Math.round(now - before)))] += 1;
    before = now;
    requestAnimationFrame(count);
  };
  requestAnimationFrame(count);
}"""
_TAKE = "() => { const taken = [...window.intervals]; window.intervals.fill(0); return taken; }"
_SHOWN = "() => ({ ...document.getElementById('map').dataset })"

Entry = tuple[int, str, dict[bytes, bytes]]
"""When it came, in milliseconds; the suffix of its stream; its fields."""


async def _record(settings: Settings, area: str, robots: int) -> list[Entry]:
    """Run a mission; return what it wrote to its two streams, in order of time."""
    async with get_bus() as bus:
        handle = await run_saga(robots, area, seed=1)
        await handle.wait()
        entries: list[Entry] = []
        for kind, stream in _streams(settings, handle).items():
            for entry_id, fields in await bus.command("XRANGE", bus.key(stream), "-", "+"):
                entries.append((int(entry_id.split(b"-")[0]), kind, fields))
    return sorted(entries, key=lambda entry: entry[0])


def _streams(settings: Settings, handle: MissionHandle) -> dict[str, str]:
    return {
        "frames": settings.recording_stream(handle.saga_id),
        "replies": f"saga:{handle.saga_id}:replies",
    }


def _shifted(fields: dict[bytes, bytes], by_s: float) -> dict[bytes, bytes]:
    """Move the simulated time of a frame on."""
    payload = json.loads(fields[b"payload"])
    if "simulated_s" not in payload:
        return fields
    payload["simulated_s"] += by_s
    return fields | {b"payload": json.dumps(payload).encode()}


async def _feed(settings: Settings, handle: MissionHandle, entries: list[Entry]) -> None:
    """Write the entries at their times, without end."""
    bus, streams = get_bus(), _streams(settings, handle)
    first, last = entries[0][0], entries[-1][0]
    simulated_s = max(
        json.loads(fields[b"payload"]).get("simulated_s", 0.0)
        for _, kind, fields in entries
        if kind == "frames"
    )
    turn, began = 0, time.monotonic()
    while True:
        for ms, kind, fields in entries:
            due = began + (turn * (last - first) + ms - first) / 1000
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            moved = _shifted(fields, turn * simulated_s) if kind == "frames" else fields
            flat = [part for pair in moved.items() for part in pair]
            await bus.command("XADD", bus.key(streams[kind]), "*", *flat)
        turn += 1


@contextlib.asynccontextmanager
async def _opened(url: str) -> AsyncIterator[tuple[Page, CDPSession]]:
    async with async_playwright() as playwright:
        path = shutil.which("chromium") or "chromium"
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1440, "height": 900})
        await page.goto(url)
        await page.evaluate(_COUNT)
        yield page, await page.context.new_cdp_session(page)
        await browser.close()


async def _sample(page: Page, session: CDPSession) -> dict[str, Any]:
    counts = await page.evaluate(_TAKE)
    frames = sum(counts)
    whole_s = sum(ms * count for ms, count in enumerate(counts)) / 1000
    seen, slow_ms = 0, 0
    for ms, count in enumerate(counts):
        seen += count
        if seen >= 0.99 * frames:
            slow_ms = ms
            break
    for _ in range(2):
        await session.send("HeapProfiler.collectGarbage")
    used = await session.send("Runtime.getHeapUsage")
    names = ("usedSize", "embedderHeapUsedSize", "backingStorageSize")
    shown = await page.evaluate(_SHOWN)
    # The collection itself is no frame of the page.
    await page.evaluate(_TAKE)
    return {
        "frames_per_s": round(frames / whole_s, 1),
        "p99_ms": slow_ms,
        "memory_mb": round(sum(used.get(name, 0) for name in names) / 1e6, 1),
        "frame": int(shown.get("frame", 0)),
    }


async def _ready(workers: Workers) -> None:
    async with get_bus():
        await workers.ready()


def _answers() -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{_URL}/healthz", timeout=5).close()  # noqa: S310 - our own server
        return True
    return False


async def _watch(settings: Settings, entries: list[Entry], asked: argparse.Namespace) -> list[Any]:
    async with get_bus():
        handle = await run_saga(asked.robots, asked.map.stem, seed=1)
        feeding = asyncio.create_task(_feed(settings, handle, entries))
        minutes = []
        async with _opened(f"{_URL}/missions/{handle.saga_id}") as (page, session):
            began = time.monotonic()
            for minute in range(1, asked.minutes + 1):
                await asyncio.sleep(max(0.0, began + minute * _MINUTE_S - time.monotonic()))
                minutes.append(await _sample(page, session))
                print(minute, minutes[-1], os.getloadavg()[0], file=sys.stderr, flush=True)
        feeding.cancel()
        await asyncio.wait([feeding])
    return minutes


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--robots", type=int, default=64)
    parser.add_argument("--minutes", type=int, default=20)
    asked = parser.parse_args()
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        settings = choose_settings(
            redis_url=server.url,
            map_dir=asked.map.resolve().parent,
            out_dir=Path(folder),
            fleet_size=asked.robots,
            web_port=_PORT,
        )
        with Workers(settings) as workers:
            asyncio.run(_ready(workers))
            entries = asyncio.run(_record(settings, asked.map.stem, asked.robots))
        served = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            cwd=ROOT,
            env=settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **child_options(),
        )
        try:
            eventually_sync(_answers, within_s=30, why="the page answers")
            minutes = asyncio.run(_watch(settings, entries, asked))
        finally:
            served.terminate()
            served.wait()
    result = {
        "cores": os.cpu_count(),
        "robots": asked.robots,
        "mission_s": round((entries[-1][0] - entries[0][0]) / 1000, 1),
        "entries": len(entries),
        "minutes": minutes,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
