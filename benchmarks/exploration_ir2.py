"""The protocol of IR2 on its floors: explore with a radio that ends at walls.

Tan et al., "IR2: Implicit Rendezvous for Robotic Exploration Teams under Sparse Intermittent
Connectivity" (IROS 2024, arXiv 2409.04730): 4 robots on corridor and hybrid floors and 5 on complex
ones start together, and succeed when one robot knows 99 %. Beside our planner with its radio and
with a perfect one, two baselines run: robots that drive to the nearest frontier, and robots that
never hear one another.

The floors are images of 0.1 m a pixel: 127 is wall, 208 is where the team starts, the rest is free.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, FloorMap, GridFrame
from app.exploration.planning.min_max_routes import Metres, plan_routes
from app.exploration.planning.radio_spec import DEFAULT_RADIO, RadioSpec
from app.exploration.planning.settings import DEFAULT_SETTINGS, PlannerSettings
from app.exploration.simulation.radio import DistanceRadio, Ir2Radio, PerfectRadio, RadioModel
from app.exploration.simulation.simulate_radio import simulate_radio

_WALL, _START = 127, 208
_PIXEL_M = 0.1
_SPACING_M = 0.6
_LIMIT_S = 20_000.0
_SHARE = 0.99
_TEAM = {"complex": 5, "corridor": 4, "hybrid": 4}
_NEAREST = replace(DEFAULT_SETTINGS, open_frontier_m=0.0, detour_price=math.inf)
_ALONE = RadioSpec(shares=False)
_MODES = {
    "perfect radio": "planner, perfect radio",
    "ir2": "planner, radio of IR2",
    "nearest": "nearest frontier, radio of IR2",
    "none": "planner, no communication",
}

Row = dict[str, Any]


def load(path: Path, robots: int) -> tuple[FloorMap, list[Pose]]:
    """Read a floor and where its team starts."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise SystemExit(f"{path}: no image")
    pixels = np.ascontiguousarray(image[::-1])
    grid = np.where(pixels == _WALL, OCCUPIED, FREE).astype(np.int8)
    floor = FloorMap(path.stem, grid, GridFrame(grid.shape[0], grid.shape[1], _PIXEL_M))
    cells = np.argwhere(pixels == _START)
    cells = cells[np.argsort(np.hypot(*(cells - cells.mean(axis=0)).T), kind="stable")]
    chosen: list[Pose] = []
    while len(chosen) < robots:
        if not len(cells):
            raise SystemExit(f"{path}: no space for {robots} robots to start")
        chosen.append(Pose(*floor.frame.centre(int(cells[0][0]), int(cells[0][1]))))
        cells = cells[np.hypot(*(cells - cells[0]).T) >= _SPACING_M / _PIXEL_M]
    return floor, chosen


def nearest_stops(start: Metres, _between: Metres, **_: object) -> list[list[int]]:
    """Give each robot the nearest stop that no nearer robot has: the baseline for `plan_routes`."""
    routes: list[list[int]] = [[] for _ in start]
    metres = start.copy()
    while metres.size and np.isfinite(metres).any():
        robot, stop = np.unravel_index(np.argmin(metres), metres.shape)
        routes[robot] = [int(stop)]
        metres[robot], metres[:, stop] = np.inf, np.inf
    return routes


def measure(job: tuple[Path, str, int]) -> Row:
    """Run one mission and measure it."""
    path, mode, seed = job
    kind = path.stem.rpartition("-")[0]
    floor, starts = load(path, _TEAM[kind])
    radio: RadioModel = Ir2Radio(floor)
    settings: PlannerSettings = DEFAULT_SETTINGS
    spec = DEFAULT_RADIO
    if mode == "perfect radio":
        radio = PerfectRadio()
    elif mode == "nearest":
        settings, spec = _NEAREST, _ALONE
    elif mode == "none":
        radio, spec = DistanceRadio(0.0), _ALONE
    plan = nearest_stops if mode == "nearest" else plan_routes
    began = time.process_time()
    with patch("app.exploration.planning.view_routing.plan_routes", plan):
        found = simulate_radio(
            *(floor, starts, seed, radio),
            settings=settings,
            spec=spec,
            share=_SHARE,
            limit_s=_LIMIT_S,
        )
    return {
        "floor": path.stem,
        "kind": kind,
        "mode": mode,
        "seed": seed,
        "robots": len(starts),
        "success": math.isfinite(found.known_s),
        "known_s": found.known_s,
        "known_m": found.known_m,
        "makespan": found.seconds,
        "travelled": sum(found.distances),
        "coverage": found.coverage,
        "largest_gap_s": found.largest_gap_s,
        "cpu_s": time.process_time() - began,
    }


def report(rows: Sequence[Row]) -> str:
    """Return the figures as Markdown."""
    perfect = {(row["floor"], row["seed"]): row for row in rows if row["mode"] == "perfect radio"}

    def line(kind: str, mode: str, own: Sequence[Row]) -> Iterable[object]:
        both = [(row, perfect.get((row["floor"], row["seed"]))) for row in own]
        ratios = [row["known_s"] / base["known_s"] for row, base in both if base]
        yield from (kind, own[0]["robots"], _MODES[mode], len(own))
        yield f"{100 * sum(row['success'] for row in own) / len(own):.0f} %"
        yield f"{median(row['known_s'] for row in own):.0f}"
        yield f"{median(ratios):.2f}" if ratios else "-"
        yield f"{max(ratios):.2f}" if ratios else "-"
        yield f"{median(row['known_m'] for row in own):.0f}"
        yield f"{median(row['makespan'] for row in own):.0f}"
        yield f"{median(row['largest_gap_s'] for row in own):.0f}"

    head = ["floors", "robots", "planner", "missions", "success", "known s", "of perfect"]
    head += ["worst", "longest path m", "makespan s", "unheard s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind in sorted({row["kind"] for row in rows}):
        for mode in _MODES:
            own = [row for row in rows if row["kind"] == kind and row["mode"] == mode]
            if own:
                lines.append("| " + " | ".join(str(cell) for cell in line(kind, mode, own)) + " |")
    return "\n".join(
        [
            "# Figures of exploration with a radio",
            "",
            "Written by `benchmarks/exploration_ir2.py`; [README.md](README.md#radio) explains them.",
            "",
            *lines,
            "",
        ]
    )


def main() -> None:
    """Run the missions, write one JSON line for each, and the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("floors", type=Path, help="folder of IR2's test floors, png")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="JSON lines; missions that are there are not run again",
    )
    parser.add_argument("--report", type=Path, help="Markdown")
    parser.add_argument("--names", nargs="*", help="floors; by default all")
    parser.add_argument("--modes", nargs="+", default=list(_MODES), choices=list(_MODES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    paths = sorted(
        path
        for path in options.floors.glob("*.png")
        if path.stem.rpartition("-")[0] in _TEAM
        and (not options.names or path.stem in options.names)
    )
    if not paths:
        raise SystemExit(f"{options.floors}: no floors of IR2 there, such as complex-1.png")
    jobs = [
        (path, mode, seed) for seed in options.seeds for path in paths for mode in options.modes
    ]
    rows: list[Row] = []
    if options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    done = {(row["floor"], row["mode"], row["seed"]) for row in rows}
    jobs = [job for job in jobs if (job[0].stem, *job[1:]) not in done]
    with options.out.open("a") as file, multiprocessing.Pool(options.processes) as pool:
        for row in pool.imap(measure, jobs):
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    if options.report:
        options.report.write_text(report(rows))


if __name__ == "__main__":
    main()
