"""Laying walls of one map upon those of another, from a guess that is roughly right.

Point-to-line ICP (Censi, "An ICP variant using a point-to-line metric", ICRA 2008) over a table of
each cell's nearest wall, so that a guess costs a tenth of a millisecond and hundreds can be
followed. Only walls that face the same way are paired: a thin wall seen from both sides would pull
the maps together by its thickness, and of two maps that share little most walls have no partner.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.merging.map_features import Sheet, in_cells
from app.exploration.se2 import Points, Transform, apply, compose

_STEPS = 5  # at each reach
_SIDE = 0.5  # cosine between two faces from which on they are the same
_STIFF = 1e-3  # share of the mean curvature that keeps a bare wall from sliding


def climb(
    here: Sheet, points: Points, facing: Points, guess: Transform, *, reaches: Sequence[float]
) -> Transform:
    """Move walls of a map onto those of another, near a guess.

    Args:
        here: the map that stays.
        points: (n, 2) metres, walls of the one that moves, in its frame.
        facing: (n, 2) to which side of each the ground is free.
        guess: (3,) of that frame in the frame that stays.
        reaches: metres within which walls are paired, one round of steps for each.

    Returns:
        The pose, (3,).
    """
    middle = points.mean(axis=0)
    resolution = here.frame.resolution
    start = np.array([*in_cells(here.frame, apply(guess, middle[None]))[0], guess[2]])
    pose = _climb(
        here.nearest,
        in_cells(here.frame, here.walls),
        here.facing,
        (points - middle) / resolution,
        facing,
        start,
        np.array(reaches) / resolution,
    )
    place = pose[:2] * resolution + (here.frame.origin_x, here.frame.origin_y)
    return compose(np.array([*place, pose[2]]), np.array([*-middle, 0.0]))


@njit(cache=True, nogil=True)
def _climb(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    nearest: npt.NDArray[np.int32],
    walls: Points,
    faces: Points,
    points: Points,
    facing: Points,
    pose: Transform,
    reaches: npt.NDArray[np.float64],
) -> Transform:
    """`climb` in cells; points lie around their own middle, faces are unit vectors."""
    rows, cols = nearest.shape
    pose = pose.copy()
    hessian = np.zeros((3, 3))
    for reach in reaches:
        for _ in range(_STEPS):
            cos, sin = np.cos(pose[2]), np.sin(pose[2])
            hessian[:] = 0.0
            gradient = np.zeros(3)
            jacobian = np.zeros(3)
            spread = 0.0
            for index in range(points.shape[0]):
                x = cos * points[index, 0] - sin * points[index, 1]
                y = sin * points[index, 0] + cos * points[index, 1]
                col, row = int(np.floor(pose[0] + x)), int(np.floor(pose[1] + y))
                if not (0 <= row < rows and 0 <= col < cols):
                    continue
                wall = nearest[row, col]
                across, along = walls[wall, 0] - pose[0] - x, walls[wall, 1] - pose[1] - y
                far = (across * across + along * along) / (reach * reach)
                if far >= 1.0:
                    continue
                to_x = cos * facing[index, 0] - sin * facing[index, 1]
                to_y = sin * facing[index, 0] + cos * facing[index, 1]
                if faces[wall, 0] * to_x + faces[wall, 1] * to_y < _SIDE:
                    continue
                weight = (1.0 - far) * (1.0 - far)
                # The mean of both faces: either alone is rough where a wall is drawn in steps.
                to_x, to_y = faces[wall, 0] + to_x, faces[wall, 1] + to_y
                length = np.hypot(to_x, to_y)
                jacobian[0], jacobian[1] = to_x / length, to_y / length
                jacobian[2] = jacobian[1] * x - jacobian[0] * y
                off = jacobian[0] * across + jacobian[1] * along
                spread += weight * (x * x + y * y)
                for first in range(3):
                    gradient[first] += weight * jacobian[first] * off
                    for second in range(3):
                        hessian[first, second] += weight * jacobian[first] * jacobian[second]
            total = hessian[0, 0] + hessian[1, 1]
            if total <= 0.0:
                break
            damped = hessian.copy()
            damped[0, 0] += _STIFF * total
            damped[1, 1] += _STIFF * total
            damped[2, 2] += _STIFF * spread + 1e-9
            pose += np.linalg.solve(damped, gradient)
    return pose
