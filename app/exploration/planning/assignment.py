"""The joint assignment of frontiers to robots.

The default is the assignment of Burgard et al., "Coordinated Multi-Robot Exploration" (IEEE T-RO
2005): each assigned frontier discounts those in its line of sight. The alternative is the
Hungarian method (Kuhn 1955; Crouse 2016, as in SciPy).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from app.exploration.driver import Pose

Costs = npt.NDArray[np.float64]
"""(robots, frontiers) float64 metres, infinite without a route."""


def initial_bearings(poses: Sequence[Pose]) -> list[float]:
    """Give each robot of a team that starts together a distinct direction for its first goal.

    The directions divide the circle evenly; each robot gets one on its side of the team's centre.

    Returns:
        One bearing for each robot, radians, map frame.
    """
    centre_x = sum(pose.x for pose in poses) / len(poses)
    centre_y = sum(pose.y for pose in poses) / len(poses)
    bearings = [2.0 * math.pi * index / len(poses) for index in range(len(poses))]
    own = [math.atan2(pose.y - centre_y, pose.x - centre_x) for pose in poses]
    turn = np.array([[1.0 - math.cos(bearing - angle) for bearing in bearings] for angle in own])
    return [bearings[choice] for choice in linear_sum_assignment(turn)[1]]


def assign_hungarian(costs: Costs) -> dict[int, int]:
    """Assign distinct columns to rows at the lowest total cost, by the Hungarian method.

    Infinite costs are never assigned. As many rows as possible get a column: an impossible pair
    costs more than all possible pairs together.

    Returns:
        Row to column, in order of rows.
    """
    possible = np.isfinite(costs)
    if not possible.any():
        return {}
    spread = float(np.ptp(costs[possible])) + 1.0
    prohibitive = float(costs[possible].max()) + spread * (min(costs.shape) + 1)
    rows, cols = linear_sum_assignment(np.where(possible, costs, prohibitive))
    return {int(row): int(col) for row, col in zip(rows, cols, strict=True) if possible[row, col]}


def assign_discounted(
    costs: Costs, distances: Costs, *, discount: float, reach: float
) -> dict[int, int]:
    """Assign columns to rows one after the other; each assignment discounts nearby columns.

    Algorithm 1 of Burgard et al. 2005. The pair of lowest cost is assigned first. Then every
    frontier costs more by a share of the discount that grows with its proximity to the assigned
    one, since its unknown area would be seen from there.

    Args:
        costs: (robots, frontiers) float64 metres, infinite without a route.
        distances: (frontiers, frontiers) float64 metres, infinite without line of sight.
        discount: metres by which the cost of a frontier at distance 0 rises.
        reach: metres beyond which costs do not rise.

    Returns:
        Row to column, in order of rows; columns are distinct.
    """
    costs = costs.copy()
    chosen: dict[int, int] = {}
    while np.isfinite(costs).any():
        row, col = (int(i) for i in np.unravel_index(int(np.argmin(costs)), costs.shape))
        chosen[row] = col
        costs += discount * np.maximum(1.0 - distances[col] / reach, 0.0)
        costs[row] = np.inf
        costs[:, col] = np.inf
    return dict(sorted(chosen.items()))
