"""What a visit left unchanged: the frontier cells that a robot looked at in vain."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from app.exploration.clearance import is_near
from app.exploration.grid import OCCUPIED
from app.exploration.planning.goals import Goal
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.sightings import seen_from

_MANY = np.uint8(100)  # more visits are not told apart, and do not overflow


def count_visit(
    visits: NDArray[np.uint8], goal: Goal, view: PlanningMap, settings: PlannerSettings
) -> None:
    """Count a visit for the cells of a goal's frontier that are frontier still.

    What its stop sees for certain is abandoned. It is tried again at the end only if it stands in the
    open and was so far away that two beams of the lidar can pass it on both sides. If the stop sees
    none of it, it is a rest that was out of sight: a long one is worth another visit, and a short one
    is tried again at the end if it stands in the open. A robot whose way was blocked is sent once more.

    Args:
        visits: (rows, cols) uint8 of the planning map, changed in place.
        goal: a goal that its robot has reached, or, with a path left, whose way it found blocked.
        view: the planning map after that.
        settings: how to explore.
    """
    cells = goal.cells - np.array((view.row0, view.col0), np.int32)
    cells = cells[view.frontier_mask[cells[:, 0], cells[:, 1]]]
    row, col = goal.stop_in(view)
    if goal.path:
        counted = np.ones(len(cells), np.int64)
    else:
        reach = settings.view_reach(view.resolution)
        viewed = seen_from(view.grid, (row, col), cells, reach=reach)
        long = len(cells) * view.resolution >= settings.open_frontier_m
        again = np.ones(len(cells), np.bool_)
        if viewed.any():
            cells = cells[viewed]
            again = np.hypot(*(cells - (row, col)).T) * settings.beam_spacing_rad > 1.0
        margin = math.ceil(settings.radius / view.resolution)
        again &= ~is_near(view.grid == OCCUPIED, cells, margin)
        counted = np.where(again, settings.max_visits, settings.max_visits + 1)
        if long and not viewed.any():
            counted[:] = 1
    added = np.zeros(view.grid.shape, np.uint8)
    added[cells[:, 0], cells[:, 1]] = counted
    spread = round(settings.visit_spread_m / view.resolution)
    if spread:
        around = np.ones((2 * spread + 1, 2 * spread + 1), np.uint8)
        cv2.dilate(added, around, dst=added)
    np.minimum(visits + added, _MANY, out=visits)
