"""Missions with known poses: completeness, time to 90 and 99 %, overlap, makespan, distance."""

import math
import time
from dataclasses import asdict, dataclass
from functools import partial

import cv2
import numpy as np
from exploration_floors import free_m2
from exploration_runs import Mission, Row, mission_options, write_rows

from app.exploration.evaluation.first_seen import time_to
from app.exploration.evaluation.map_quality import accuracy, coverage, observable, reachable
from app.exploration.grid import UNKNOWN, Grid, Mask
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


def measure(mission: Mission, *, scattered: bool) -> Row:
    """Run one mission and measure it."""
    floor = mission.floor
    began, cpu_began = time.perf_counter(), time.process_time()
    outcome = simulate(floor, mission.robots, mission.seed, scattered=scattered)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    seen = observable(floor, outcome.starts[0])
    first_seen = outcome.first_seen
    t99 = time_to(0.99, first_seen.first_known, seen)
    run = Run(
        floor=mission.name,
        free_m2=free_m2(floor),
        robots=mission.robots,
        seed=mission.seed,
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
    return asdict(run)


def main() -> None:
    """Write one JSON line for each mission."""
    parser = mission_options(__doc__, robots=[1, 2, 4, 8], seeds=5)
    parser.add_argument("--scattered", action="store_true", help="robots do not start together")
    options = parser.parse_args()
    write_rows(options, partial(measure, scattered=options.scattered))


if __name__ == "__main__":
    main()
