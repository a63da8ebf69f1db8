"""Agreement of two maps that are laid over each other, wall by wall.

Where both maps are known, a wall of one either is a wall of the other with the same normal, or
stands in the other's free space and contradicts it, or neither (compare Birk and Carpin, "Merging
Occupancy Grid Maps From Multiple Robots", Proc. IEEE 2006, who count cells). Free space alone is
no evidence, since any free space agrees with any other.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Mask
from app.exploration.merging.map_features import MapFeatures, to_cells
from app.exploration.se2 import Points, Transform, apply, inverse

_SAME_WALL_M = 0.12  # metres within which two walls are the same
_CONFLICT_M = 0.1  # metres of free clearance at which a wall would have been seen
_CONFLICT_CELLS = 1.5  # the same in cells: beams that graze a wall leave free cells on it
_OFFSET_M = 0.25  # metres within which two walls are the same, offset by an error
_DEEP_M = 0.15  # metres of free clearance that noise does not explain
_GAP_M = 0.15  # maximum gap between two cells of one wall, metres
_PIECE_M = 1.0  # side of the squares that walls are divided into, metres
_SAME_SIDE = 0.7  # minimum cosine between the normals of two walls that are the same
_MIN_POINTS = 8  # of a piece whose mean is meaningful


def classify_walls(
    here: MapFeatures, there: MapFeatures, motion: Transform, *, near: float = _SAME_WALL_M
) -> npt.NDArray[np.int8]:
    """Classify each wall of one map, transformed into another, by what the other map shows there.

    Args:
        here: the map that is compared with.
        there: the map whose walls are classified.
        motion: (3,) from its frame to the other's.
        near: metres within which walls with the same normal are the same.

    Returns:
        (walls,) int8: 1 the same wall, -1 a contradiction, 0 neither.
    """
    return _classify(
        here.distance_to_wall,
        here.free_clearance,
        here.free_gradient,
        to_cells(here.frame, apply(motion, there.walls)),
        apply(np.array([0.0, 0.0, motion[2]]), there.normals),
        near,
        max(_CONFLICT_M, _CONFLICT_CELLS * here.frame.resolution),
    )


def wall_support(one: MapFeatures, two: MapFeatures, pose: Transform) -> tuple[float, float]:
    """Return metres of wall that agree and that contradict, each the mean of both directions."""
    hits = misses = 0.0
    for here, there, motion in ((one, two, pose), (two, one, inverse(pose))):
        verdicts = classify_walls(here, there, motion)
        hits += 0.5 * there.metres_per_wall * int(np.count_nonzero(verdicts > 0))
        misses += 0.5 * there.metres_per_wall * int(np.count_nonzero(verdicts < 0))
    return hits, misses


def residual_rms(one: MapFeatures, two: MapFeatures, pose: Transform) -> float:
    """Return the RMS offset between pieces of common wall, metres.

    A piece is all wall of one normal in a square metre; the noise of single points cancels in its
    mean. What remains tells a room from a similar one that is a little larger.
    """
    total = weight = 0.0
    for here, there, motion in ((one, two, pose), (two, one, inverse(pose))):
        common = classify_walls(here, there, motion, near=_OFFSET_M) > 0
        if not common.any():
            continue
        walls = apply(motion, there.walls[common])
        normals = apply(np.array([0.0, 0.0, motion[2]]), there.normals[common])
        at = np.floor(to_cells(here.frame, walls)).astype(np.int64)
        nearest = here.nearest_wall[at[:, 1], at[:, 0]]
        same = (here.normals[nearest] * normals).sum(axis=1) > _SAME_SIDE
        walls, normals, nearest = walls[same], normals[same], nearest[same]
        across = normals + here.normals[nearest]
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        offsets = ((here.walls[nearest] - walls) * across).sum(axis=1)
        quadrant = np.floor(np.arctan2(normals[:, 1], normals[:, 0]) / (math.pi / 2.0) + 0.5)
        pieces = np.column_stack([np.floor(walls / _PIECE_M), quadrant])
        _, piece, size = np.unique(pieces, axis=0, return_inverse=True, return_counts=True)
        mean = np.bincount(piece.ravel(), offsets) / size
        enough = size >= _MIN_POINTS
        total += float((size * mean * mean)[enough].sum())
        weight += float(size[enough].sum())
    return math.sqrt(total / weight) if weight else math.inf


def longest_conflict(here: MapFeatures, there: MapFeatures, motion: Transform) -> float:
    """Return the end-to-end length of the longest wall of one map in the other's free space.

    Gaps of up to 15 cm do not end a wall, since a wall at a grazing angle is seen in single cells.
    A single cell does not count as a wall: it may be noise.

    Returns:
        Metres, 0 without a conflict.
    """
    wrong = there.walls[classify_walls(here, there, motion) < 0]
    at = np.floor(to_cells(here.frame, apply(motion, wrong))).astype(np.int64)
    wrong = wrong[here.free_clearance[at[:, 1], at[:, 0]] >= _DEEP_M]
    if not len(wrong):
        return 0.0
    resolution = there.frame.resolution
    side = 2 * round((_GAP_M / resolution - 1.0) / 2.0) + 1
    cells = np.floor(to_cells(there.frame, wrong)).astype(np.int64) + side
    mask = np.zeros((there.frame.rows + 2 * side, there.frame.cols + 2 * side), np.uint8)
    mask[cells[:, 1], cells[:, 0]] = 1
    wide = cv2.dilate(mask, np.ones((side, side), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(wide)
    reach = boxes[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] - side
    return float(np.hypot(*reach.T).max()) * resolution


def shared_free_points(one: MapFeatures, two: MapFeatures, pose: Transform) -> Mask:
    """Return which free points of the second map are free in the first as well, (m,) bool."""
    at = np.floor(to_cells(one.frame, apply(pose, two.free_points))).astype(np.int64)
    inside = (at >= 0).all(axis=1) & (at < [one.frame.cols, one.frame.rows]).all(axis=1)
    common = np.zeros(len(at), np.bool_)
    common[inside] = one.free[at[inside, 1], at[inside, 0]]
    return common


@njit(cache=True, nogil=True)
def _classify(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    distance_to_wall: npt.NDArray[np.float32],
    free_clearance: npt.NDArray[np.float32],
    free_gradient: npt.NDArray[np.float32],
    points: Points,
    normals: Points,
    near: float,
    min_clearance: float,
) -> npt.NDArray[np.int8]:
    """Classify points: 1 near a wall with the same normal, -1 elsewhere in free space, 0 otherwise."""
    rows, cols = distance_to_wall.shape
    verdicts = np.zeros(points.shape[0], np.int8)
    for index in range(points.shape[0]):
        col, row = int(np.floor(points[index, 0])), int(np.floor(points[index, 1]))
        if 0 <= row < rows and 0 <= col < cols:
            along = free_gradient[row, col, 0] * normals[index, 0]
            across = free_gradient[row, col, 1] * normals[index, 1]
            if distance_to_wall[row, col] <= near and along + across > 0.0:
                verdicts[index] = 1
            elif free_clearance[row, col] >= min_clearance:
                verdicts[index] = -1
    return verdicts
