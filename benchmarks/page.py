#!/usr/bin/env python3
"""Measure how smoothly the page shows a mission, and what open pages cost the mission.

    PYTHONPATH=. .venv/bin/python benchmarks/page.py --map FLOOR.yaml [--robots 20] [--pairs 3]

Starts a server, workers and `mission serve`, and runs missions with the same seed, after one that is
not counted: alternately without a page, with `--pages` open pages, each in a separate browser window,
and without a page but beside a program that is as busy as the browsers were. The browsers and that
program run at idle priority, because in operation browsers are on other machines; what that program
costs is the machine's part of what the pages cost. Then one page shows the beginning of a mission,
and replays the last one at 20 times its speed. Frames per second are those that the page drew
(`requestAnimationFrame`). Prints one JSON object. Needs chromium and root: the kernel shares the
processors by priority instead of by session during the run.

On a machine that others use, too, the times say little. Then `--clients 10` reads what ten pages read with
curl instead of browsers, and the figure to look at is the processor time of server, workers and
`mission serve` together.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Playwright, ViewportSize, sync_playwright

from app.cli.workers import Workers
from app.config import ROOT, choose_settings
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer, child_options

_PORT = 8123
_URL = f"http://127.0.0.1:{_PORT}"
_WINDOW: ViewportSize = {"width": 1440, "height": 900}
_LOW = ["chrt", "--idle", "0"]
# While this is on, sessions share the processors evenly, whatever their priority.
_BY_SESSION = Path("/proc/sys/kernel/sched_autogroup_enabled")
# Uses a share of a processor, and memory as a browser does, for as long as it lives.
_BUSY = """
import sys, time
share, memory = float(sys.argv[1]), bytearray(4_000_000)
while True:
    began = time.perf_counter()
    while time.perf_counter() - began < 0.02 * share:
        memory[::64] = memory[::64]
    time.sleep(0.02 * (1 - share))
"""
_COUNT = """() => {
  window.drawn = 0;
  window.since = performance.now();
  const count = () => { window.drawn += 1; requestAnimationFrame(count); };
  requestAnimationFrame(count);
}"""
_RATE = "() => window.drawn / ((performance.now() - window.since) / 1000)"


def _ask(path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - our own server
        _URL + path, data, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
        return json.load(answer)


def _start(area: str, robots: int) -> str:
    return str(_ask("/api/missions", {"area": area, "robots": robots, "seed": 1})["saga_id"])


def _browser(playwright: Playwright, *, low: bool = False) -> Browser:
    path = shutil.which("chromium") or "chromium"
    if low:
        wrapper = Path(tempfile.mkdtemp()) / "chromium"
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join([*_LOW, path])} "$@"\n')
        wrapper.chmod(0o755)
        path = str(wrapper)
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


def _show_pages(pages: int) -> None:
    """Open the URL from standard input in `pages` windows, until the mission has ended."""
    with sync_playwright() as playwright:
        browser = _browser(playwright, low=True)
        opened = [browser.new_context(viewport=_WINDOW).new_page() for _ in range(pages)]
        print("ready", flush=True)
        url = sys.stdin.readline().strip()
        for page in opened:
            page.goto(url, timeout=0)
        for page in opened:
            page.locator("#steps h2 .badge", has_text="completed").wait_for(timeout=0)
        browser.close()


@contextlib.contextmanager
def _by_priority() -> Iterator[None]:
    before = _BY_SESSION.read_text()
    _BY_SESSION.write_text("0")
    try:
        yield
    finally:
        _BY_SESSION.write_text(before)


@contextlib.contextmanager
def _viewers(pages: int) -> Iterator[Callable[[str], None]]:
    """Start browsers that wait for a URL; at the end check that all showed a whole mission."""
    if not pages:
        yield lambda _url: None
        return
    viewers = subprocess.Popen(
        [*_LOW, sys.executable, __file__, "--viewer", str(pages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **child_options(),
    )
    assert viewers.stdin is not None
    assert viewers.stdout is not None
    viewers.stdout.readline()

    def show(url: str) -> None:
        print(url, file=viewers.stdin, flush=True)

    yield show
    assert viewers.wait() == 0, "a page did not show the end of the mission"


@contextlib.contextmanager
def _busy(processors: float) -> Iterator[None]:
    """Use this much of all processors, evenly and at idle priority."""
    cores = os.cpu_count() or 1
    command = [*_LOW, sys.executable, "-c", _BUSY, f"{processors / cores}"]
    started = [
        subprocess.Popen(command, **child_options()) for _ in range(cores if processors else 0)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _clients(count: int, saga_id: str) -> Iterator[None]:
    """Read the events of a mission as pages do, without a browser."""
    url = f"{_URL}/api/missions/{saga_id}/events"
    command = ["curl", "--silent", "--no-buffer", "--output", os.devnull, url]
    started = [subprocess.Popen(command, **child_options()) for _ in range(count)]
    yield
    for client in started:
        client.wait()


def _is_viewer(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"--viewer" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def _processor_s(*, of_browsers: bool = False) -> float:
    """The processor time in seconds so far of the browsers, or of all else that this program started."""
    parents, times, names = {}, {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, rest = path.read_text().rpartition(")")
            fields = rest.split()
            pid = int(path.parent.name)
            parents[pid], names[pid] = int(fields[1]), head.partition("(")[2]
            times[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_wanted(pid: int) -> bool:
        is_browser = False
        while pid in parents and pid != os.getpid():
            is_browser = is_browser or _is_viewer(pid)
            pid = parents[pid]
        return pid == os.getpid() and is_browser == of_browsers

    found = [pid for pid in times if pid != os.getpid() and names[pid] != "curl" and is_wanted(pid)]
    return sum(times[pid] for pid in found)


@dataclass(frozen=True, slots=True)
class _Took:
    """A mission: its duration, the processor time of all but browsers, how busy these were, its id."""

    s: float
    processor_s: float
    browsers: float
    saga_id: str


def _run(area: str, robots: int, *, pages: int = 0, clients: int = 0) -> _Took:
    """Run a mission with open pages."""
    before, browsers_s = _processor_s(), 0.0
    with _viewers(pages) as show:
        saga_id = _start(area, robots)
        show(f"{_URL}/missions/{saga_id}")
        with _clients(clients, saga_id):
            while (mission := _ask(f"/api/missions/{saga_id}"))["status"] == "running":
                time.sleep(0.2)
                browsers_s = max(browsers_s, _processor_s(of_browsers=True))
        used_s = _processor_s() - before
    took_s = sum(entry["duration_s"] for entry in mission["entries"])
    return _Took(took_s, used_s, browsers_s / took_s, saga_id)


def _live_rate(area: str, robots: int, browser: Browser) -> float:
    """Return the frames per second of a page in the first half minute of a mission; cancel it then."""
    saga_id = _start(area, robots)
    page = browser.new_page(viewport=_WINDOW)
    page.goto(f"{_URL}/missions/{saga_id}")
    page.locator("#at", has_text="of").wait_for()
    page.evaluate(_COUNT)
    page.wait_for_timeout(30_000)
    rate = float(page.evaluate(_RATE))
    page.close()
    _ask(f"/api/missions/{saga_id}/cancel", {"reason": "benchmark is done"})
    return rate


def _replay_rate(saga_id: str, browser: Browser) -> float:
    page = browser.new_page(viewport=_WINDOW)
    page.goto(f"{_URL}/missions/{saga_id}")
    page.locator("#steps").get_by_text("integrate_maps").wait_for()
    page.wait_for_timeout(5000)
    page.get_by_role("button", name="Play").click()
    page.evaluate(_COUNT)
    page.wait_for_timeout(10_000)
    rate = float(page.evaluate(_RATE))
    page.close()
    return rate


def _rates(area: str, robots: int, saga_id: str) -> dict[str, float]:
    """Frames per second of one page, beside a mission and in a replay."""
    with sync_playwright() as playwright:
        browser = _browser(playwright)
        live = _live_rate(area, robots, browser)
        replayed = _replay_rate(saga_id, browser)
        browser.close()
    return {
        "frames_a_second_live": round(live, 1),
        "frames_a_second_replay": round(replayed, 1),
    }


async def _ready(workers: Workers) -> None:
    async with get_bus():
        await workers.ready()
    while True:
        with contextlib.suppress(OSError):
            _ask("/api/missions")
            return
        await asyncio.sleep(0.1)


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--map", type=Path)
    parser.add_argument("--robots", type=int, default=20)
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--clients", type=int, default=0, help="curl instead of browsers")
    parser.add_argument(
        "--viewer", type=int, help="internal: open this number of pages for another process"
    )
    asked = parser.parse_args()
    if asked.viewer:
        _show_pages(asked.viewer)
        return
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        settings = choose_settings(
            redis_url=server.url,
            map_dir=asked.map.resolve().parent,
            out_dir=Path(folder),
            fleet_size=asked.robots,
            web_port=_PORT,
            charge_per_s=100.0,
        )
        alone, with_pages, beside = list[_Took](), list[_Took](), list[_Took]()
        pages = 0 if asked.clients else asked.pages
        with Workers(settings) as workers:
            served = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                cwd=ROOT,
                env=settings.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                **child_options(),
            )
            asyncio.run(_ready(workers))
            area = asked.map.stem
            with _by_priority():
                _run(area, asked.robots)
                for _ in range(asked.pairs):
                    alone.append(_run(area, asked.robots))
                    with_pages.append(_run(area, asked.robots, pages=pages, clients=asked.clients))
                    with _busy(with_pages[-1].browsers):
                        beside.append(_run(area, asked.robots))
                    print(alone[-1], with_pages[-1], beside[-1], file=sys.stderr)
            rates = {} if asked.clients else _rates(area, asked.robots, with_pages[-1].saga_id)
            served.terminate()
            served.wait()
    alone_s, with_pages_s, beside_s = (
        statistics.median(each.s for each in runs) for runs in (alone, with_pages, beside)
    )
    result = {
        "cores": os.cpu_count(),
        "alone_s": [round(each.s, 2) for each in alone],
        "with_pages_s": [round(each.s, 2) for each in with_pages],
        "beside_a_busy_program_s": [round(each.s, 2) for each in beside],
        "ratio": round(with_pages_s / alone_s, 3),
        "ratio_beside_a_busy_program": round(beside_s / alone_s, 3),
        "processors_of_browsers": [round(each.browsers, 2) for each in with_pages],
        "processor_alone_s": [round(each.processor_s, 1) for each in alone],
        "processor_with_pages_s": [round(each.processor_s, 1) for each in with_pages],
        **rates,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
