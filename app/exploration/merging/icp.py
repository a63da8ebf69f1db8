"""Refinement of a transform between two maps by point-to-line ICP.

The method is that of Censi, "An ICP variant using a point-to-line metric" (ICRA 2008), over a
lookup table of each cell's nearest wall, so that a candidate costs a tenth of a millisecond and
hundreds can be refined. Only walls with similar normals are paired: otherwise a thin wall that is
seen from both sides would shift the maps by its thickness, and maps that share little would pair
walls that have no partner.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.merging.map_features import MapFeatures, to_cells
from app.exploration.se2 import Points, Transform, apply, compose

_STEPS = 5  # for each pairing distance
_SAME_SIDE = 0.5  # minimum cosine between the normals of paired walls
_DAMPING = 1e-3  # share of the mean curvature; it keeps a map from sliding along bare walls


def icp_refine(
    here: MapFeatures,
    points: Points,
    normals: Points,
    guess: Transform,
    *,
    reaches: Sequence[float],
) -> Transform:
    """Move the walls of one map onto those of another, starting from a guess.

    Args:
        here: the map that stays.
        points: (n, 2) metres, walls of the map that moves, in its frame.
        normals: (n, 2) unit vectors, from each wall towards its free side.
        guess: (3,) from that frame to the frame that stays.
        reaches: metres within which walls are paired, one round of steps for each.

    Returns:
        The refined transform, (3,).
    """
    middle = points.mean(axis=0)
    resolution = here.frame.resolution
    start = np.array([*to_cells(here.frame, apply(guess, middle[None]))[0], guess[2]])
    pose = _icp(
        here.nearest_wall,
        to_cells(here.frame, here.walls),
        here.normals,
        (points - middle) / resolution,
        normals,
        start,
        np.array(reaches) / resolution,
    )
    place = pose[:2] * resolution + (here.frame.origin_x, here.frame.origin_y)
    return compose(np.array([*place, pose[2]]), np.array([*-middle, 0.0]))


@njit(cache=True, nogil=True)
def _icp(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    nearest_wall: npt.NDArray[np.int32],
    walls: Points,
    wall_normals: Points,
    points: Points,
    normals: Points,
    pose: Transform,
    reaches: npt.NDArray[np.float64],
) -> Transform:
    """Implement `icp_refine` in cells; points are relative to their centroid."""
    rows, cols = nearest_wall.shape
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
                wall = nearest_wall[row, col]
                across, along = walls[wall, 0] - pose[0] - x, walls[wall, 1] - pose[1] - y
                far = (across * across + along * along) / (reach * reach)
                if far >= 1.0:
                    continue
                to_x = cos * normals[index, 0] - sin * normals[index, 1]
                to_y = sin * normals[index, 0] + cos * normals[index, 1]
                if wall_normals[wall, 0] * to_x + wall_normals[wall, 1] * to_y < _SAME_SIDE:
                    continue
                weight = (1.0 - far) * (1.0 - far)
                # Use the mean of both normals: each alone is rough where a wall is drawn in steps.
                to_x, to_y = wall_normals[wall, 0] + to_x, wall_normals[wall, 1] + to_y
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
            damped[0, 0] += _DAMPING * total
            damped[1, 1] += _DAMPING * total
            damped[2, 2] += _DAMPING * spread + 1e-9
            pose += np.linalg.solve(damped, gradient)
    return pose
