"""Bounds for any team that starts together: the time to 99 % and the overlap, floor by floor.

Time: no cell is known before a robot can have driven the shortest path to a place that sees it. A
team of any size that knew the floor would need that long.

Overlap, the sum of the cells that each robot saw over those that the team saw, less one: every
robot sees the surroundings of its start even if it never moves, and what several robots see there
counts for each of them.
"""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from exploration_runs import Mission, Row, mission_options, write_rows

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


@lru_cache(maxsize=1)
def _bound(maps: Path, name: str, seed: int, team: int) -> tuple[list[Pose], Mask, float]:
    """Return the starts of a team, the observable cells, and the earliest time to 99 %."""
    floor = Mission(maps, name, team, seed).floor
    starts = start_poses(floor, team, seed)
    seen = observable(floor, starts[0])
    return starts, seen, time_to(0.99, earliest(floor, starts[0], RobotSpec()), seen)


def measure(mission: Mission, *, team: int) -> Row:
    """Return the bounds of a mission whose starts are the first of a larger team's."""
    starts, seen, least = _bound(mission.maps, mission.name, mission.seed, team)
    starts = starts[: mission.robots]
    return {
        "floor": mission.name,
        "seed": mission.seed,
        "robots": mission.robots,
        "t99_least": least,
        "overlap_least": overlap_of_starts(mission.floor, starts, seen, RobotSpec()),
    }


def main() -> None:
    """Write one JSON line for each floor, seed and team size."""
    options = mission_options(__doc__, robots=[2, 4, 8], seeds=5).parse_args()
    write_rows(options, partial(measure, team=max(options.robots)))


if __name__ == "__main__":
    main()
