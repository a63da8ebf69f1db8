#!/usr/bin/env python3
"""The cost of losing a robot and a listener in the middle of an exploration.

    .venv/bin/python benchmarks/makespan.py --map FLOOR.yaml [--robots 4] [--seed 1]

Runs the mission twice with the same seed: undisturbed, and with one robot's process and the
listener killed after a third of the simulated seconds of the first run. Prints one JSON object:
coverage, simulated and real seconds of both runs, and their ratios.
"""

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from app.cli.workers import Workers
from app.config import choose_settings, get_settings
from app.missions.mission import MissionHandle, follow, run_saga
from app.missions.reports import final_report
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer


def _mission(area: str, robots: int, seed: int, kill_at_s: float | None) -> dict[str, Any]:
    """Run one mission on its own workers; kill at the given simulated second."""
    killed: list[str] = []

    async def run() -> dict[str, Any]:
        async with get_bus() as bus:
            await bus.ping()
            with Workers(get_settings()) as workers:
                await workers.ready()
                keeping = asyncio.create_task(workers.keep())
                last: dict[str, Any] = {}

                def note(stage: dict[str, Any]) -> None:
                    payload = stage["payload"]
                    if stage["event_type"] != "exploration:perform" or "simulated_s" not in payload:
                        return
                    last.update(payload)
                    if kill_at_s and not killed and payload["simulated_s"] >= kill_at_s:
                        killed.extend(_kill(workers))

                began = time.monotonic()
                handle: MissionHandle = await run_saga(robots, area, seed=seed)
                ended = final_report(await follow(handle, note), handle.input)
                took_s = time.monotonic() - began
                keeping.cancel()
        return {
            "status": ended["status"],
            "coverage": ended["coverage"],
            "accuracy": ended["accuracy"],
            "simulated_s": round(last["simulated_s"], 1),
            "seconds": round(took_s, 1),
            "lost": list(last["lost"]),
            "killed": killed,
        }

    return asyncio.run(run())


def _kill(workers: Workers) -> list[str]:
    """Kill a robot's process and the only listener; the next listener takes over its commands."""
    victims = ["robots-1", "listener-1"]
    for name in victims:
        os.kill(workers.pids[name], signal.SIGKILL)
    return victims


def main() -> None:
    """Run both missions and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as out:
        choose_settings(
            redis_url=server.url,
            map_dir=asked.map.resolve().parent,
            out_dir=Path(out),
            fleet_size=asked.robots,
            robot_processes=asked.robots,
        )
        alone = _mission(asked.map.stem, asked.robots, asked.seed, None)
        third = alone["simulated_s"] / 3
        disturbed = _mission(asked.map.stem, asked.robots, asked.seed, third)
    print(
        json.dumps(
            {
                "alone": alone,
                "disturbed": disturbed,
                "simulated_ratio": round(disturbed["simulated_s"] / alone["simulated_s"], 2),
                "real_ratio": round(disturbed["seconds"] / alone["seconds"], 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
