"""What two maps that are laid upon each other say of each other's walls.

Where both know the ground, a wall of one is a wall of the other that faces the same way, or stands
amid the other's free ground and contradicts it, or neither (compare Birk and Carpin, "Merging
Occupancy Grid Maps From Multiple Robots", Proc. IEEE 2006, who count cells). Open ground alone is
no evidence, for it agrees with any open ground.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Mask
from app.exploration.merging.map_features import Sheet, in_cells
from app.exploration.se2 import Points, Transform, apply, inverse

_HIT = 0.12  # metres from a wall within which another is the same
_AMID = 0.1  # metres of free ground around a place at which a wall would have been seen
_RIM = 1.5  # and cells, for beams that graze a wall leave free cells upon it
_BESIDE = 0.25  # metres from a wall within which another is the same wall, moved
_DEEP = 0.15  # and at which noise would be strange
_GAP = 0.15  # metres between two dots of one wall, at most
_PIECE = 1.0  # metres to a side of the squares that walls are cut into
_SIDE = 0.7  # cosine between two faces from which on they are the same
_ENOUGH = 8  # points of a piece whose mean means something


def judge(
    here: Sheet, there: Sheet, motion: Transform, *, near: float = _HIT
) -> npt.NDArray[np.int8]:
    """Tell of each wall of one map, moved into another, what that one says of it.

    Args:
        here: the map that is asked.
        there: the map whose walls are judged.
        motion: (3,) of its frame in the other's.
        near: metres from a wall within which another of the same face is the same.

    Returns:
        (walls,) int8: 1 the same wall, -1 a contradiction, 0 neither.
    """
    return _verdicts(
        here.away,
        here.depth,
        here.slope,
        in_cells(here.frame, apply(motion, there.walls)),
        apply(np.array([0.0, 0.0, motion[2]]), there.facing),
        near,
        max(_AMID, _RIM * here.frame.resolution),
    )


def support(one: Sheet, two: Sheet, pose: Transform) -> tuple[float, float]:
    """Return metres of wall that agree and metres that contradict, the mean of both ways."""
    hits = misses = 0.0
    for here, there, motion in ((one, two, pose), (two, one, inverse(pose))):
        verdicts = judge(here, there, motion)
        hits += 0.5 * there.wall_m * int(np.count_nonzero(verdicts > 0))
        misses += 0.5 * there.wall_m * int(np.count_nonzero(verdicts < 0))
    return hits, misses


def warp(one: Sheet, two: Sheet, pose: Transform) -> float:
    """Return by how many metres pieces of common wall lie beside each other, RMS.

    The noise of single points cancels in the mean of a piece, all walls of one face in a square
    metre; what stays tells a room from another that is drawn alike but a little larger.
    """
    total = weight = 0.0
    for here, there, motion in ((one, two, pose), (two, one, inverse(pose))):
        common = judge(here, there, motion, near=_BESIDE) > 0
        if not common.any():
            continue
        walls = apply(motion, there.walls[common])
        facing = apply(np.array([0.0, 0.0, motion[2]]), there.facing[common])
        at = np.floor(in_cells(here.frame, walls)).astype(np.int64)
        nearest = here.nearest[at[:, 1], at[:, 0]]
        same = (here.facing[nearest] * facing).sum(axis=1) > _SIDE
        walls, facing, nearest = walls[same], facing[same], nearest[same]
        across = facing + here.facing[nearest]
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        beside = ((here.walls[nearest] - walls) * across).sum(axis=1)
        quadrant = np.floor(np.arctan2(facing[:, 1], facing[:, 0]) / (math.pi / 2.0) + 0.5)
        pieces = np.column_stack([np.floor(walls / _PIECE), quadrant])
        _, piece, size = np.unique(pieces, axis=0, return_inverse=True, return_counts=True)
        mean = np.bincount(piece.ravel(), beside) / size
        enough = size >= _ENOUGH
        total += float((size * mean * mean)[enough].sum())
        weight += float(size[enough].sum())
    return math.sqrt(total / weight) if weight else math.inf


def conflict(here: Sheet, there: Sheet, motion: Transform) -> float:
    """Return metres from end to end of the longest wall of one map amid the other's free ground.

    Gaps of up to 15 cm do not end it, for of a wall that a beam grazes a dot here and there is
    seen; a lone cell, which may be noise, is no wall.
    """
    wrong = there.walls[judge(here, there, motion) < 0]
    at = np.floor(in_cells(here.frame, apply(motion, wrong))).astype(np.int64)
    wrong = wrong[here.depth[at[:, 1], at[:, 0]] >= _DEEP]
    if not len(wrong):
        return 0.0
    resolution = there.frame.resolution
    side = 2 * round((_GAP / resolution - 1.0) / 2.0) + 1
    cells = np.floor(in_cells(there.frame, wrong)).astype(np.int64) + side
    mask = np.zeros((there.frame.rows + 2 * side, there.frame.cols + 2 * side), np.uint8)
    mask[cells[:, 1], cells[:, 0]] = 1
    wide = cv2.dilate(mask, np.ones((side, side), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(wide)
    reach = boxes[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] - side
    return float(np.hypot(*reach.T).max()) * resolution


def common_ground(one: Sheet, two: Sheet, pose: Transform) -> Mask:
    """Tell which points of the second map's ground are free in the first, too, (m,) bool."""
    at = np.floor(in_cells(one.frame, apply(pose, two.ground))).astype(np.int64)
    inside = (at >= 0).all(axis=1) & (at < [one.frame.cols, one.frame.rows]).all(axis=1)
    common = np.zeros(len(at), np.bool_)
    common[inside] = one.free[at[inside, 1], at[inside, 0]]
    return common


@njit(cache=True, nogil=True)
def _verdicts(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    away: npt.NDArray[np.float32],
    depth: npt.NDArray[np.float32],
    slope: npt.NDArray[np.float32],
    points: Points,
    facing: Points,
    near: float,
    amid: float,
) -> npt.NDArray[np.int8]:
    """Tell of each point: 1 near a wall of the same face, -1 elsewhere amid free ground."""
    rows, cols = away.shape
    verdicts = np.zeros(points.shape[0], np.int8)
    for index in range(points.shape[0]):
        col, row = int(np.floor(points[index, 0])), int(np.floor(points[index, 1]))
        if 0 <= row < rows and 0 <= col < cols:
            along = slope[row, col, 0] * facing[index, 0]
            across = slope[row, col, 1] * facing[index, 1]
            if away[row, col] <= near and along + across > 0.0:
                verdicts[index] = 1
            elif depth[row, col] >= amid:
                verdicts[index] = -1
    return verdicts
