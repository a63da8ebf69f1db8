"""Bounds for any team that starts together: the time to 99 % and the overlap, floor by floor.

Time: no cell is known before a robot can have driven the shortest path to a place that sees it. A
team of any size that knew the floor would need that long.

Overlap, the sum of the cells that each robot saw over those that the team saw, less one: every
robot sees the surroundings of its start even if it never moves, and what several robots see there
counts for each of them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from exploration_floors import chosen, drawn_floors, large_floors, real_floors

from app.exploration.clearance import traversable_cells
from app.exploration.driver import Pose
from app.exploration.evaluation.first_seen import Seconds, time_to
from app.exploration.evaluation.map_quality import observable
from app.exploration.grid import FREE, FloorMap, Mask
from app.exploration.lidar import beam_angles, mark_visible
from app.exploration.shortest_paths import STRAIGHT, UNREACHED, distance_field
from app.exploration.simulation.simulated_robot import RobotSpec
from app.exploration.simulation.start_poses import start_poses

_LATTICE_M = 0.4
_BAND_S = 1.0  # seconds of driving that are evaluated together
_BEAMS = 720


def earliest(floor: FloorMap, start: Pose, spec: RobotSpec) -> Seconds:
    """Return when each cell can be known at the earliest, (rows, cols) float32 seconds.

    The viewpoints are those of `map_quality.observable`.
    """
    frame = floor.frame
    row, col = frame.cell(start.x, start.y)
    costs = distance_field(traversable_cells(floor, spec.radius), (row, col))
    step = max(1, round(_LATTICE_M / frame.resolution))
    lattice = np.zeros(costs.shape, np.bool_)
    lattice[row % step :: step, col % step :: step] = True
    viewpoints = np.argwhere(lattice & (costs < UNREACHED))
    seconds = costs[viewpoints[:, 0], viewpoints[:, 1]] * (frame.resolution / STRAIGHT / spec.speed)
    first = np.full(costs.shape, np.inf, np.float32)
    for band in range(int(seconds.max() / _BAND_S) + 1):
        seen = _seen(floor, viewpoints[seconds // _BAND_S == band], spec)
        first[seen & np.isinf(first)] = band * _BAND_S
    return first


def overlap_of_starts(floor: FloorMap, starts: list[Pose], seen: Mask, spec: RobotSpec) -> float:
    """Return the overlap of a team that saw each cell once, except those in sight of its starts.

    Args:
        floor: the floor.
        starts: where the robots start.
        seen: (rows, cols) bool, the observable cells.
        spec: the robots.
    """
    views = [
        _seen(floor, np.array([floor.frame.cell(start.x, start.y)]), spec) & seen
        for start in starts
    ]
    once = int(np.count_nonzero(np.logical_or.reduce(views)))
    return (sum(int(np.count_nonzero(view)) for view in views) - once) / int(np.count_nonzero(seen))


def _seen(floor: FloorMap, viewpoints: npt.NDArray[np.int64], spec: RobotSpec) -> Mask:
    """Return the cells in sight of viewpoints, (n, 2) row and column."""
    reach = spec.lidar.max_range / floor.frame.resolution
    return mark_visible(floor.grid != FREE, viewpoints, beam_angles(_BEAMS), reach)


def main() -> None:
    """Write one JSON line for each floor, seed and team size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--robots", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--floors", nargs="*")
    options = parser.parse_args()
    floors = real_floors(options.maps) | drawn_floors() | large_floors()
    floors = chosen(floors, options.floors)
    spec = RobotSpec()
    with options.out.open("w") as file:
        for name in floors:
            for seed in range(options.seeds):
                starts = start_poses(floors[name], max(options.robots), seed)
                seen = observable(floors[name], starts[0])
                least = time_to(0.99, earliest(floors[name], starts[0], spec), seen)
                for robots in options.robots:
                    row = {
                        "floor": name,
                        "seed": seed,
                        "robots": robots,
                        "t99_least": least,
                        "overlap_least": overlap_of_starts(
                            floors[name], starts[:robots], seen, spec
                        ),
                    }
                    file.write(json.dumps(row) + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
