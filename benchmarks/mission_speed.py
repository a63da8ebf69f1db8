#!/usr/bin/env python3
"""Measure a mission: simulated seconds per second, time of the first move, and a CPU profile.

    PYTHONPATH=src:.:benchmarks .venv/bin/python benchmarks/mission_speed.py --map FLOOR.yaml [--robots 4] [--runs 3]

Runs `mission run` as from the terminal, and reads its progress from the server. Runs it once more
under py-spy, which samples each process 100 times per second. Prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import redis
from performance_machine import machine
from performance_peers import ROOT, Peer
from performance_server import start

from sagastream.testing import EmbeddedServer

_PROFILER = Peer("py-spy", "", ("py-spy==0.4.3",))
_TIMEOUT_S = 600.0

# Waiting threads do no work, but the profiler cannot always detect them.
_WAITING = (
    *("EpollSelector.select", "selectors.py", "Condition.wait", "Event.wait", "_wait_for_tstate"),
    *("_worker (", "read_from_socket", "Popen._try_wait"),
)

# A sample counts for the first of these parts that one of its innermost frames names.
_PARTS = (
    ("ray casting", ("exploration/lidar.py", "exploration/simulation/lidar_sensor.py")),
    ("planning", ("exploration/planning/",)),
    (
        "driving",
        tuple(
            f"exploration/simulation/{name}.py"
            for name in ("simulated_robot", "mobile_base", "odometry")
        ),
    ),
    ("merging, pictures, recording", ("app/exploration/", "app/missions/")),
    ("telemetry", ("opentelemetry/", "sagastream/_telemetry/", "sagastream/tracing.py")),
    (
        "messages",
        (
            *("sagastream/", "redis/", "app/robots/", "app/redis_utils.py", "app/tasks.py"),
            *("kombu/", "celery/", "asyncio/", "selectors.py"),
        ),
    ),
)


def _mission(map_file: Path, robots: int, seed: int, before: Sequence[str] = ()) -> dict[str, Any]:
    """Run one mission; return its figures."""
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as out:
        command = [*before, sys.executable, "-m", "app.cli", "run", "--map", str(map_file)]
        command += ["--robots", str(robots), "--seed", str(seed), "--out", out, "-o", "json"]
        env = dict(os.environ) | {"REDIS_URL": server.url, "TRACE_DIR": f"{out}/traces"}
        began = time.time()
        env |= {"FLEET_SIZE": str(robots)}
        process = start(command, cwd=ROOT, env=env, stdout=subprocess.PIPE)
        with redis.Redis.from_url(server.url) as client:
            simulated_s, moved_at = _watch(client, process, began)
        words, _ = process.communicate(timeout=_TIMEOUT_S)
    # The profiler prints lines before and after the report.
    report, _ = json.JSONDecoder().raw_decode(words.decode()[words.index(b"{") :])
    step = next(step for step in report["steps"] if step["name"] == "perform_exploration")
    figures = {
        "status": report["status"],
        "coverage": report["coverage"],
        "simulated_s": round(simulated_s, 1),
        "command_s": round(time.time() - began, 2),
        "first_move_s": round(moved_at, 2),
        "mission_pace": round(simulated_s / report["duration_s"], 1),
        "exploration_pace": round(simulated_s / step["duration_s"], 1),
    }
    sys.stderr.write(f"{figures}\n")
    return figures


def _watch(client: Any, process: subprocess.Popen[bytes], began: float) -> tuple[float, float]:
    """Return the last simulated second, and the time of the first reported movement in seconds."""
    simulated_s, moved_at, last = 0.0, 0.0, "0"
    stream = ""
    while process.poll() is None:
        if not stream:
            found = [key.decode() for key in client.scan_iter("saga:*:replies", count=1000)]
            stream = found[0] if found else ""
            time.sleep(0.02)
            continue
        for _, entries in client.xread({stream: last}, block=200) or ():
            for entry_id, fields in entries:
                last = entry_id
                payload = json.loads(fields[b"payload"])
                simulated_s = max(simulated_s, payload.get("simulated_s", 0.0))
                if not moved_at and any(robot.get("driven_m") for robot in _robots(payload)):
                    moved_at = int(fields[b"timestamp"]) / 1000 - began
    return simulated_s, moved_at


def _robots(payload: dict[str, Any]) -> list[dict[str, Any]]:
    robots = payload.get("robots")
    return list(robots.values()) if isinstance(robots, dict) else []


def _shares(samples: Path) -> dict[str, float]:
    """Return the share of each part in the samples of all processes, from the mission's start."""
    counts: Counter[str] = Counter()
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if not any(name in stack.rpartition(";")[2] for name in _WAITING):
            counts[_part(stack)] += int(count)
    every = sum(counts.values())
    return {part: round(count / every, 3) for part, count in counts.most_common()}


def _part(stack: str) -> str:
    if "<frozen importlib" in stack:
        return "starting: imports"
    if "numba/" in stack:
        return "starting: compiling"
    frames = [frame for frame in stack.split(";") if not frame.startswith("process ")]
    for frame in reversed(frames):
        for part, paths in _PARTS:
            if any(path in frame for path in paths):
                return part
    return "other"


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    _PROFILER.make_environment()
    runs = [_mission(asked.map, asked.robots, seed) for seed in range(asked.runs)]
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.txt"
        profiler = str(_PROFILER.python.parent / "py-spy")
        record = [profiler, "record", "--subprocesses", "--format", "raw", "--full-filenames"]
        _mission(asked.map, asked.robots, 0, [*record, "--output", str(samples), "--"])
        shares = _shares(samples)
    result = {
        "machine": machine(),
        "map": asked.map.stem,
        "robots": asked.robots,
        "runs": runs,
        "median": {
            name: round(median(run[name] for run in runs), 2)
            for name in ("first_move_s", "mission_pace", "exploration_pace", "command_s")
        },
        "shares": shares,
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
