"""The price of a frontier for a robot: the cost of the path to it, less the frontier's gain.

The cost is the length of the path to the frontier's viewpoint, and the gain is in metres of path
too. Both are computed here; `goal_selection` subtracts them, and `assignment` chooses by price.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.clearance import mutual_visibility
from app.exploration.driver import Point
from app.exploration.grid import OCCUPIED, UNKNOWN, Cells, Grid, GridFrame
from app.exploration.lidar import beam_angles, mark_visible
from app.exploration.planning.assignment import Costs
from app.exploration.planning.frontier_routes import FrontierRoutes, path_length
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.goals import RobotState
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.shortest_paths import STRAIGHT, UNREACHED

_RAYS = 72
_SIGHT_BEAMS = 360


def path_costs(routes: Sequence[FrontierRoutes], frame: GridFrame) -> Costs:
    """Return the length of every route, (robots, frontiers) metres, infinite without a route."""
    costs = np.array([robot.costs for robot in routes])
    backtracks = np.array([[path_length(robot.backtrack)] for robot in routes])
    metres = costs * (frame.resolution / STRAIGHT)
    return np.where(costs == UNREACHED, np.inf, metres + backtracks)


def frontier_gains(
    robots: Sequence[RobotState],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
) -> Costs:
    """Return each robot's gain of each frontier, (robots, frontiers) metres of path.

    The gain grows with the frontier's length and, in a team, with the unknown area in its line of
    sight. A robot's current goal has an additional gain (hysteresis), and its first goal a penalty
    that grows with the angle to the robot's initial bearing.
    """
    lengths = np.array([frontier.size for frontier in frontiers]) * frame.resolution
    gain = settings.length_gain * np.minimum(lengths, settings.length_gain_max_m)
    if len(robots) > 1:
        # This sends robots to large areas far away first. It pays only where teammates explore
        # what is near: a single robot is slower with it.
        centres = central_cells(frontiers)
        reach = settings.sensor_range_m / view.resolution
        area = unknown_area_in_sight(view.grid, centres, reach)
        view_gain = settings.view_gain * area * view.resolution**2
        gain += np.minimum(view_gain, settings.view_gain_max_m)
    gains = np.tile(gain, (len(robots), 1))
    frontier_at = np.full(view.grid.shape, -1, np.int32)
    for which, frontier in enumerate(frontiers):
        frontier_at[frontier.cells[:, 0], frontier.cells[:, 1]] = which
    for index, robot in enumerate(robots):
        if robot.goal is not None:
            cells = robot.goal.cells
            present = np.unique(frontier_at[cells[:, 0] - view.row0, cells[:, 1] - view.col0])
            gains[index, present[present >= 0]] += settings.keep_goal_m
        if robot.bearing is not None:
            for which, frontier in enumerate(frontiers):
                row, col = frontier.centroid
                x, y = frame.centre(row + view.row0, col + view.col0)
                off = math.atan2(y - robot.pose.y, x - robot.pose.x) - robot.bearing
                gains[index, which] -= settings.spread_m * (1.0 - math.cos(off))
    return gains


def frontier_distances(frontiers: Sequence[Frontier], view: PlanningMap, reach: float) -> Costs:
    """Return the distances between frontiers, (frontiers, frontiers) float64 metres.

    Distances are between central cells; they are infinite beyond a reach, metres, and where a
    known wall blocks the line of sight.
    """
    centres = (central_cells(frontiers) + 0.5).astype(np.float64)
    off = (centres[:, None] - centres[None]) * view.resolution
    metres = np.hypot(off[..., 0], off[..., 1])
    visible = mutual_visibility(view.see_through_mask, centres, reach / view.resolution)
    return np.where(visible, metres, np.inf)


def coverage_in_sight(
    grid: Grid, frame: GridFrame, frontiers_left: Sequence[Point], range_m: float
) -> float:
    """Return the known area as a share of itself and the unknown area in sight of its frontiers.

    What no frontier has in sight cannot be counted, so that the share is an upper limit of the
    true coverage.
    """
    known = int(np.count_nonzero(grid != UNKNOWN))
    frontiers = [frame.cell(*point) for point in frontiers_left]
    if not known or not frontiers:
        return float(known > 0)
    seen = mark_visible(
        grid == OCCUPIED,
        np.array(frontiers, np.int64),
        beam_angles(_SIGHT_BEAMS),
        range_m / frame.resolution,
    )
    return known / (known + int(np.count_nonzero(seen & (grid == UNKNOWN))))


def central_cells(frontiers: Sequence[Frontier]) -> Cells:
    """Return the cell of each frontier closest to its centroid, (frontiers, 2) int32."""
    cells = np.concatenate([frontier.cells for frontier in frontiers])
    sizes = np.array([frontier.size for frontier in frontiers])
    starts = np.cumsum(sizes) - sizes
    centroids = np.add.reduceat(cells.astype(np.float64), starts) / sizes[:, None]
    off = cells - np.repeat(centroids, sizes, axis=0)
    squared = (off * off).sum(axis=1)
    closest = squared == np.repeat(np.minimum.reduceat(squared, starts), sizes)
    candidates = np.flatnonzero(closest)
    # The first of equally close cells.
    centres: Cells = cells[candidates[np.searchsorted(candidates, starts)]]
    return centres


@njit(cache=True, nogil=True)
def unknown_area_in_sight(grid: Grid, cells: Cells, reach: float) -> npt.NDArray[np.float64]:
    """Measure the unknown area that might be seen from cells: the gain of a next best view.

    Rays pass free and unknown cells; cells outside the grid are unknown. See González-Baños and
    Latombe, "Navigation Strategies for Exploring Indoor Environments" (IJRR 2002).

    Args:
        grid: (rows, cols) int8 occupancy.
        cells: (n, 2) int32 row and column, the viewpoints.
        reach: range of sight, cells.

    Returns:
        (n,) float64, squared cells.
    """
    rows, cols = grid.shape
    turn = 2.0 * np.pi / _RAYS
    area = np.zeros(cells.shape[0])
    for index in range(cells.shape[0]):
        for ray in range(_RAYS):
            up, right = np.sin(ray * turn), np.cos(ray * turn)
            for step in range(1, int(reach) + 1):
                row = int(np.floor(cells[index, 0] + 0.5 + step * up))
                col = int(np.floor(cells[index, 1] + 0.5 + step * right))
                inside = 0 <= row < rows and 0 <= col < cols
                if inside and grid[row, col] == OCCUPIED:
                    break
                if not inside or grid[row, col] == UNKNOWN:
                    area[index] += step * turn
    return area
