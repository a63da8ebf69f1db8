"""What a visit left unchanged: the frontier cells that a robot looked at in vain."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from app.exploration.clearance import clear_length
from app.exploration.planning.goals import Goal
from app.exploration.planning.planning_map import PlanningMap

_MANY = np.uint8(100)  # more visits are not told apart, and do not overflow


def count_visit(
    visits: NDArray[np.uint8], goal: Goal, view: PlanningMap, *, spread: int, most: int
) -> None:
    """Count a visit for the cells of a goal's frontier that are frontier still, of those in view.

    Args:
        visits: (rows, cols) uint8 of the planning map, changed in place.
        goal: a goal that its robot has reached, or whose way it found blocked.
        view: the planning map after that.
        spread: cells around an unchanged cell that count too.
        most: visits after which a cell is abandoned. What was looked at from a place that sees it
            for certain gets one more at once: it is not tried again.
    """
    cells = goal.cells - np.array((view.row0, view.col0), np.int32)
    cells = cells[view.frontier_mask[cells[:, 0], cells[:, 1]]]
    row, col = goal.target[0] - view.row0, goal.target[1] - view.col0
    viewpoint = (row + 0.5, col + 0.5)
    reach = goal.view_distance / view.resolution + 1.0
    viewed = [
        math.dist(cell, (row, col)) <= reach
        and math.isinf(
            clear_length(view.see_through_mask, viewpoint, (cell[0] + 0.5, cell[1] + 0.5))
        )
        for cell in cells.tolist()
    ]
    if any(viewed):
        cells = cells[viewed]
    unchanged = np.zeros(view.grid.shape, np.uint8)
    unchanged[cells[:, 0], cells[:, 1]] = 1
    if spread:
        around = np.ones((2 * spread + 1, 2 * spread + 1), np.uint8)
        cv2.dilate(unchanged, around, dst=unchanged)
    np.minimum(visits + unchanged * (most + 1 if goal.routed else 1), _MANY, out=visits)
