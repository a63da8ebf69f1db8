"""Missions with known poses: completeness, time to 90 and 99 %, overlap, makespan, distance."""

import argparse
import json
import math
import multiprocessing
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from exploration_floors import chosen, drawn_floors, free_m2, large_floors, real_floors

from app.exploration.evaluation.first_seen import time_to
from app.exploration.evaluation.map_quality import accuracy, coverage, observable, reachable
from app.exploration.grid import UNKNOWN, FloorMap, Grid, Mask
from app.exploration.planning.frontiers import cluster_frontiers, frontier_cells
from app.exploration.planning.settings import DEFAULT_SETTINGS
from app.exploration.simulation.simulate import simulate


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one mission; times in simulated seconds except `wall_s` and `cpu_s`."""

    floor: str
    free_m2: float
    robots: int
    seed: int
    coverage: float
    accuracy: float
    t90: float
    t99: float
    makespan: float
    overlap: float
    overlap_t99: float
    scattered: bool
    travelled: float
    rounds: int
    frontiers_left: int
    reachable_left: int
    worth_left: int
    hidden_left: int
    shared_goals: int
    wall_s: float
    cpu_s: float


_PATCH_CELLS = 5  # cells


@lru_cache(maxsize=1)
def _floors(folder: Path) -> dict[str, FloorMap]:
    return real_floors(folder) | drawn_floors() | large_floors()


def reachable_left(grid: Grid, reached: Mask, resolution: float) -> int:
    """Count remaining frontiers, by the mission's own definition, that a robot's disc can reach."""
    min_cells = math.ceil(DEFAULT_SETTINGS.frontier_min_m / resolution - 1e-9)
    pieces = cluster_frontiers(frontier_cells(grid), min_cells=min_cells, max_extent=10**6)
    return sum(bool(reached[piece.cells[:, 0], piece.cells[:, 1]].any()) for piece in pieces)


def worth_left(grid: Grid, seen: Mask) -> int:
    """Count remaining frontiers of 5 or more cells next to unknown observable cells."""
    hidden = seen & (grid == UNKNOWN)
    adjacent = cv2.dilate(hidden.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return len(cluster_frontiers(frontier_cells(grid) & adjacent, min_cells=5, max_extent=10**6))


def hidden_left(grid: Grid, seen: Mask) -> int:
    """Count patches of 5 or more observable cells that stayed unknown behind a frontier."""
    hidden = (seen & (grid == UNKNOWN)).astype(np.uint8)
    _, labels, sizes, _ = cv2.connectedComponentsWithStats(hidden, connectivity=8)
    frontier = frontier_cells(grid).astype(np.uint8)
    adjacent = cv2.dilate(frontier, np.ones((3, 3), np.uint8)) > 0
    behind = np.unique(labels[adjacent & (hidden > 0)])
    return int(np.count_nonzero(sizes[behind, cv2.CC_STAT_AREA] >= _PATCH_CELLS))


def measure(job: tuple[Path, str, int, int, bool]) -> Run:
    """Run one mission and measure it."""
    folder, name, robots, seed, scattered = job
    floor = _floors(folder)[name]
    began, cpu_began = time.perf_counter(), time.process_time()
    outcome = simulate(floor, robots, seed, scattered=scattered)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    seen = observable(floor, outcome.starts[0])
    first_seen = outcome.first_seen
    t99 = time_to(0.99, first_seen.first_known, seen)
    return Run(
        floor=name,
        free_m2=free_m2(floor),
        robots=robots,
        seed=seed,
        coverage=coverage(outcome.grid, floor, seen),
        accuracy=accuracy(outcome.grid, floor),
        t90=time_to(0.9, first_seen.first_known, seen),
        t99=t99,
        makespan=outcome.seconds,
        overlap=first_seen.overlap(seen),
        overlap_t99=first_seen.overlap(seen, until=t99),
        scattered=scattered,
        travelled=sum(outcome.distances),
        rounds=outcome.rounds,
        frontiers_left=len(outcome.frontiers_left),
        reachable_left=reachable_left(
            outcome.grid, reachable(floor, outcome.starts[0]), floor.frame.resolution
        ),
        worth_left=worth_left(outcome.grid, seen),
        hidden_left=hidden_left(outcome.grid, seen),
        shared_goals=outcome.shared_goals,
        wall_s=wall,
        cpu_s=cpu,
    )


def main() -> None:
    """Write one JSON line for each mission."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--floors", nargs="*", help="names or kinds, such as office-2 or cave")
    parser.add_argument("--scattered", action="store_true", help="robots do not start together")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    names = list(chosen(_floors(options.maps), options.floors))
    jobs = [
        (options.maps, name, robots, seed, options.scattered)
        for seed in range(options.seeds)
        for name in names
        for robots in options.robots
    ]
    with options.out.open("w") as file, multiprocessing.Pool(options.processes) as pool:
        for run in pool.imap_unordered(measure, jobs):
            file.write(json.dumps(asdict(run)) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
