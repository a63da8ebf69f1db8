#!/usr/bin/env python3
"""How smoothly the page shows a mission, and what open pages cost the mission.

    PYTHONPATH=. .venv/bin/python benchmarks/page.py --map FLOOR.yaml [--robots 20] [--pairs 3]

Starts a server, workers and `mission serve`, and runs missions of the same seed: alternately with
nobody looking and with `--pages` pages open, each in a browser window of its own. The browser has
the lowest priority, as it would be on other machines. Then one page replays the last mission at
20 times its speed. Frames a second are those that the page drew (`requestAnimationFrame`).
Prints one JSON object. Needs chromium.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from app.config import ROOT, choose_settings
from app.processes import Workers
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer, die_with_parent

_PORT = 8123
_URL = f"http://127.0.0.1:{_PORT}"
_WINDOW = {"width": 1440, "height": 900}
# A session of its own is a group of its own to the scheduler, which has the group's niceness.
_LOW = """#!/bin/sh
exec setsid -w sh -c 'echo 19 > /proc/self/autogroup; exec nice -n 19 "$0" "$@"' {chromium} "$@"
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


def _run(area: str, robots: int, browser: Browser, pages: int) -> tuple[float, float | None, str]:
    """Seconds that a mission took, frames a second of a page that showed it, and its id."""
    saga_id = _start(area, robots)
    with ExitStack() as stack:
        shown: list[Page] = []
        for _ in range(pages):
            context = browser.new_context(viewport=_WINDOW)
            stack.callback(context.close)
            page = context.new_page()
            page.goto(f"{_URL}/missions/{saga_id}")
            page.evaluate(_COUNT)
            shown.append(page)
        while (told := _ask(f"/api/missions/{saga_id}"))["status"] == "running":
            if shown:
                shown[0].wait_for_timeout(200)
            else:
                time.sleep(0.2)
        rate = statistics.median(page.evaluate(_RATE) for page in shown) if shown else None
    took = sum(entry["duration_s"] for entry in told["entries"])
    return took, rate, saga_id


def _glance(area: str, robots: int, browser: Browser) -> float:
    """Frames a second of a page in the first half minute of a mission, which is cancelled then."""
    saga_id = _start(area, robots)
    page = browser.new_page(viewport=_WINDOW)
    page.goto(f"{_URL}/missions/{saga_id}")
    page.locator("#at", has_text="of").wait_for()
    page.evaluate(_COUNT)
    page.wait_for_timeout(30_000)
    rate = float(page.evaluate(_RATE))
    page.close()
    _ask(f"/api/missions/{saga_id}/cancel", {"reason": "seen enough"})
    return rate


def _replay(saga_id: str, browser: Browser) -> float:
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


async def _ready(workers: Workers) -> None:
    async with get_bus():
        await workers.ready()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--robots", type=int, default=20)
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    chromium = shutil.which("chromium")
    low = Path(tempfile.mkdtemp()) / "chromium"
    low.write_text(_LOW.format(chromium=chromium))
    low.chmod(0o755)
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as place:
        settings = choose_settings(
            redis_url=server.url,
            map_dir=asked.map.resolve().parent,
            out_dir=Path(place),
            fleet_size=asked.robots,
            web_port=_PORT,
            charge_per_s=100.0,
        )
        alone, looked_at, one, ten = [], [], [], []
        with Workers(settings) as workers, sync_playwright() as playwright:
            served = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                cwd=ROOT,
                env=settings.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - only calls prctl
            )
            # Playwright has a loop in this thread.
            with ThreadPoolExecutor(1) as other:
                other.submit(asyncio.run, _ready(workers)).result()
            slow = playwright.chromium.launch(executable_path=str(low), args=["--no-sandbox"])
            quick = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            area = asked.map.stem
            for _ in range(asked.pairs):
                alone.append(_run(area, asked.robots, slow, 0)[0])
                took, rate, saga_id = _run(area, asked.robots, slow, asked.pages)
                looked_at.append(took)
                ten.append(rate)
            one.append(_glance(area, asked.robots, quick))
            replayed = _replay(saga_id, quick)
            slow.close()
            quick.close()
            served.terminate()
            served.wait()
    middle = statistics.median
    told = {
        "cores": os.cpu_count(),
        "alone_s": [round(took, 2) for took in alone],
        "with_pages_s": [round(took, 2) for took in looked_at],
        "ratio": round(middle(looked_at) / middle(alone), 3),
        "frames_a_second_live": round(one[0] or 0.0, 1),
        "frames_a_second_replay": round(replayed, 1),
        "frames_a_second_of_ten_at_lowest_priority": round(middle(rate or 0.0 for rate in ten), 1),
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
