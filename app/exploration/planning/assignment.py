"""Who goes where: what a frontier costs and promises, and one joint choice.

The choice is that of Burgard et al., "Coordinated Multi-Robot Exploration" (IEEE T-RO 2005), on
metres of way less what a frontier promises: a chosen frontier makes those in its sight promise
less. The Hungarian method (Kuhn 1955; Crouse 2016, as in SciPy) is the other.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.optimize import linear_sum_assignment

from app.exploration.driver import Pose
from app.exploration.grid import OCCUPIED, UNKNOWN, Grid
from app.exploration.planning.paths import Cells

_RAYS = 72

Costs = npt.NDArray[np.float64]
"""(robots, frontiers) float64 metres, infinite where there is no way."""


def divide(poses: Sequence[Pose]) -> list[float]:
    """Give each robot of a team that starts together a direction of its own for its first goal.

    The directions share the circle evenly, and each goes to a robot that stands on its side.

    Returns:
        One bearing a robot, radians, map frame.
    """
    centre_x = sum(pose.x for pose in poses) / len(poses)
    centre_y = sum(pose.y for pose in poses) / len(poses)
    bearings = [2.0 * math.pi * index / len(poses) for index in range(len(poses))]
    own = [math.atan2(pose.y - centre_y, pose.x - centre_x) for pose in poses]
    turn = np.array([[1.0 - math.cos(bearing - angle) for bearing in bearings] for angle in own])
    return [bearings[choice] for choice in linear_sum_assignment(turn)[1]]


def assign(costs: Costs) -> dict[int, int]:
    """Choose distinct columns for rows at the least total, the Hungarian way.

    Impossible pairs are left out. As many rows as can be get a column: an impossible pair is
    dearer than all possible ones.

    Returns:
        Row to column, rows in order.
    """
    possible = np.isfinite(costs)
    if not possible.any():
        return {}
    spread = float(np.ptp(costs[possible])) + 1.0
    dear = float(costs[possible].max()) + spread * (min(costs.shape) + 1)
    rows, cols = linear_sum_assignment(np.where(possible, costs, dear))
    return {int(row): int(col) for row, col in zip(rows, cols, strict=True) if possible[row, col]}


def discounted(costs: Costs, apart: Costs, *, most: float, reach: float) -> dict[int, int]:
    """Choose columns for rows one after the other, each making what it sees nearby worth less.

    Burgard et al. 2005, algorithm 1. The pair of the least cost goes
    first; then every frontier costs more by as much of `most` as it lies close to the chosen one,
    as its new ground would be seen from there.

    Args:
        costs: (robots, frontiers) float64 metres, infinite where there is no way.
        apart: (frontiers, frontiers) float64 metres between them, infinite out of sight.
        most: metres by which a frontier is dearer when it lies where the chosen one does.
        reach: metres from which on it is not.

    Returns:
        Row to column, rows in order; columns are distinct.
    """
    costs = costs.copy()
    chosen: dict[int, int] = {}
    while np.isfinite(costs).any():
        row, col = (int(i) for i in np.unravel_index(int(np.argmin(costs)), costs.shape))
        chosen[row] = col
        costs += most * np.maximum(1.0 - apart[col] / reach, 0.0)
        costs[row] = np.inf
        costs[:, col] = np.inf
    return dict(sorted(chosen.items()))


@njit(cache=True, nogil=True)
def unknown_in_sight(grid: Grid, cells: Cells, reach: float) -> npt.NDArray[np.float64]:
    """Measure the unknown ground that might be seen from cells.

    Rays pass what is free and what is unknown, and what lies outside the grid is unknown: the gain
    of a next best view (González-Baños and Latombe, "Navigation Strategies for Exploring Indoor
    Environments", IJRR 2002).

    Args:
        grid: (rows, cols) int8 occupancy.
        cells: (n, 2) int32 row and column, where to look from.
        reach: cells, how far is seen.

    Returns:
        (n,) float64, in squared cells.
    """
    rows, cols = grid.shape
    turn = 2.0 * np.pi / _RAYS
    found = np.zeros(cells.shape[0])
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
                    found[index] += step * turn
    return found
