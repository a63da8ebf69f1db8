"""Bringing two maps of unrelated frames together, or finding that they do not fit.

Each candidate is climbed to its best fit on two likelihood fields, and the one that the walls of
both maps support best is returned with the figures that a gate needs: it is judged where both
maps know the ground (Birk and Carpin, "Merging Occupancy Grid Maps From Multiple Robots", Proc.
IEEE 2006, call this the acceptance indicator), by walls alone, for open ground agrees with any
open ground; and by the longest wall of one that stands in the midst of the other's free ground,
for a building's twin differs in few places, but clearly there.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.spatial import cKDTree

from app.exploration.grid import Grid, GridFrame, Mask
from app.exploration.slam.candidates import by_correlation, by_features
from app.exploration.slam.matching import SIGMA, likelihood_field, nearby, refine
from app.exploration.slam.se2 import Points, Transform, apply, inverse, wrap
from app.exploration.slam.sheets import Sheet, in_cells, sheet

_CLOSE = 40  # candidates that are looked at closely
_SAME_M = 0.75
_SAME_RAD = math.radians(5.0)
_WIDE = 0.2  # metres, the sigma of the first climb
_FEWEST = 30  # points that a last climb needs
_CLIMBERS = 1200  # points that climb
_HIT = 0.12  # metres from a wall within which another is the same
_MISS = 0.25  # metres from every wall from which a wall on free ground contradicts
_BLAME = 4.0  # hits that a contradiction outweighs
_PIECE = 1.0  # metres to a side of the squares that walls are cut into
_ENOUGH = 8  # points of a piece whose mean means something
_DEEP = 0.15  # metres of free ground around a place at which a wall would have been seen

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """Where one map lies in another's frame, and how far that can be trusted.

    Attributes:
        transform: (3,) of the second map's frame in the first's.
        walls: metres of wall that both maps show in the same place.
        agreement: share of the walls in ground known to both that both show, 0 to 1.
        overlap: square metres that are free in both.
        lead: how far the next other candidate stays behind, 0 to 1 of this one's support.
        grip: metres of wall that hold the pose in its weakest direction.
        conflict: metres of the longest wall of one that stands in the other's free ground.
        warp: metres by which pieces of common wall lie beside each other, RMS.
    """

    transform: Transform
    walls: float
    agreement: float
    overlap: float
    lead: float
    grip: float
    conflict: float
    warp: float


def register(
    first: Grid, first_frame: GridFrame, second: Grid, second_frame: GridFrame
) -> Registration | None:
    """Find where the second map lies in the first's frame.

    Args:
        first: (rows, cols) int8 occupancy.
        first_frame: where it lies.
        second: (rows, cols) int8 occupancy.
        second_frame: where it lies.

    Returns:
        The best fit, right or wrong, see `Gate`; None where a map shows no wall.
    """
    one, two = sheet(first, first_frame), sheet(second, second_frame)
    if one is None or two is None:
        return None
    walls = two.walls[:: max(1, len(two.walls) // _CLIMBERS)]
    wide = likelihood_field(one.walls, one.walls, margin=1.0, sigma=_WIDE)
    sharp = likelihood_field(one.walls, one.walls, margin=1.0)
    found: list[tuple[float, Transform]] = []
    for guess in (*by_correlation(one, two, most=_CLOSE), *by_features(one, two)):
        near = nearby(wide, walls, guess, reach=6, turns=np.radians(np.linspace(-2.0, 2.0, 9)))
        pose = refine(sharp, walls, refine(wide, walls, near).pose).pose
        hits, misses = _support(one, two, pose)
        found.append((hits - _BLAME * misses, pose))
    found.sort(key=lambda pair: -pair[0])
    support, pose = found[0]
    middle = two.walls.mean(axis=0, keepdims=True)
    others = [value for value, other in found if not _same(pose, other, middle)]
    pose, grip = _polish(one, two, pose)
    hits, misses = _support(one, two, pose)
    return Registration(
        transform=pose,
        walls=hits,
        agreement=hits / max(hits + misses, 1e-9),
        overlap=_overlap(one, two, pose),
        lead=1.0 - max(others[0], 0.0) / max(support, 1e-9) if others and support > 0 else 1.0,
        grip=grip,
        conflict=max(_conflict(one, two, pose), _conflict(two, one, inverse(pose))),
        warp=_warp(one, two, pose),
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """What a registration must show to be believed.

    The defaults were fixed on maps of other floors than the ones they are tested on, see
    `benchmarks/exploration_merging.py`.

    Attributes:
        walls: least metres of common wall.
        agreement: least share of walls that agree.
        overlap: least square metres of common ground.
        lead: least lead over the next other candidate.
        grip: least metres of wall in the weakest direction.
        warp: most metres by which pieces of common wall lie beside each other, unless there are
        sure: so many metres of it; the maps themselves may be off by that much in large.
        conflict: most metres of wall in the other's free ground, in one piece.
        moved: or so many a metre of common wall, for in a real building things move.
    """

    walls: float = 10.0
    agreement: float = 0.95
    overlap: float = 8.0
    lead: float = 0.2
    grip: float = 2.0
    warp: float = 0.032
    sure: float = 20.0
    conflict: float = 0.15
    moved: float = 0.005

    def accepts(self, found: Registration) -> bool:
        """Tell whether maps may be merged so."""
        return (
            found.walls >= self.walls
            and found.agreement >= self.agreement
            and found.overlap >= self.overlap
            and found.lead >= self.lead
            and found.grip >= self.grip
            and (found.warp <= self.warp or found.walls >= self.sure)
            and found.conflict <= max(self.conflict, self.moved * found.walls)
        )


DEFAULT_GATE = Gate()


def _same(pose: Transform, other: Transform, middle: Points) -> bool:
    """Tell whether two fits put a map, known by its middle, (1, 2), into the same place."""
    off = apply(pose, middle) - apply(other, middle)
    return float(np.hypot(*off[0])) < _SAME_M and abs(wrap(pose[2] - other[2])) < _SAME_RAD


def _judge(here: Sheet, there: Sheet, motion: Transform, near: float) -> npt.NDArray[np.int8]:
    """Tell of each wall point of one map, moved into another, what that one says of it."""
    return _verdicts(
        here.away,
        here.free,
        here.slope,
        in_cells(here.frame, apply(motion, there.walls)),
        apply(np.array([0.0, 0.0, motion[2]]), there.facing),
        near,
    )


def _support(one: Sheet, two: Sheet, pose: Transform) -> tuple[float, float]:
    """Return metres of wall that agree and metres that contradict, the mean of both ways."""
    hits = misses = 0.0
    for here, there, motion in ((one, two, pose), (two, one, inverse(pose))):
        verdicts = _judge(here, there, motion, _HIT)
        hits += 0.5 * there.frame.resolution * int(np.count_nonzero(verdicts > 0))
        misses += 0.5 * there.frame.resolution * int(np.count_nonzero(verdicts < 0))
    return hits, misses


def _warp(one: Sheet, two: Sheet, pose: Transform) -> float:
    """Return by how many metres pieces of common wall lie beside each other, RMS.

    The noise of single points cancels in the mean of a piece, all walls of one face in a square
    metre; what stays tells a room from another that is drawn alike but a little larger.
    """
    total = weight = 0.0
    for here, there, motion in ((one, two, pose), (two, one, inverse(pose))):
        common = _judge(here, there, motion, _MISS) > 0
        if not common.any():
            continue
        walls = apply(motion, there.walls[common])
        facing = apply(np.array([0.0, 0.0, motion[2]]), there.facing[common])
        facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
        nearest = here.walls[cKDTree(here.walls).query(walls)[1]]
        beside = ((nearest - walls) * facing).sum(axis=1)
        quadrant = np.floor(np.arctan2(facing[:, 1], facing[:, 0]) / (math.pi / 2.0))
        pieces = np.column_stack([np.floor(walls / _PIECE), quadrant])
        _, piece, size = np.unique(pieces, axis=0, return_inverse=True, return_counts=True)
        mean = np.bincount(piece.ravel(), beside) / size
        enough = size >= _ENOUGH
        total += float((size * mean * mean)[enough].sum())
        weight += float(size[enough].sum())
    return math.sqrt(total / weight) if weight else math.inf


def _conflict(here: Sheet, there: Sheet, motion: Transform) -> float:
    """Return metres of the longest connected wall of one map amid the other's free ground."""
    wrong = np.flatnonzero(_judge(here, there, motion, _HIT) < 0)
    at = np.floor(in_cells(here.frame, apply(motion, there.walls[wrong]))).astype(np.int64)
    wrong = wrong[here.depth[at[:, 1], at[:, 0]] >= _DEEP]
    if not wrong.size:
        return 0.0
    cells = np.floor(in_cells(there.frame, there.walls[wrong])).astype(np.int64)
    mask = np.zeros((there.frame.rows, there.frame.cols), np.uint8)
    mask[cells[:, 1], cells[:, 0]] = 1
    _, labels = cv2.connectedComponents(cv2.dilate(mask, np.ones((3, 3), np.uint8)))
    return float(np.bincount(labels[mask > 0]).max()) * there.frame.resolution


def _polish(one: Sheet, two: Sheet, pose: Transform) -> tuple[Transform, float]:
    """Climb once more with the walls that both maps saw from the same side.

    A thin wall seen from both sides would pull the maps together by its thickness.

    Returns:
        The pose, and metres of common wall across the direction with the fewest of them.
    """
    grip = 0.0
    for near in (_MISS, _HIT):
        theirs = two.walls[_judge(one, two, pose, near) > 0]
        ours = one.walls[_judge(two, one, inverse(pose), near) > 0]
        if min(len(theirs), len(ours)) < _FEWEST:
            break
        field = likelihood_field(ours, apply(pose, theirs), margin=0.5)
        match = refine(field, theirs, pose)
        pose = match.pose
        across = np.linalg.eigvalsh(match.information[:2, :2])[0] * SIGMA**2
        grip = float(across) * two.frame.resolution
    return pose, grip


def _overlap(one: Sheet, two: Sheet, pose: Transform) -> float:
    """Return the square metres that are free in both."""
    at = np.floor(in_cells(one.frame, apply(pose, two.ground))).astype(np.int64)
    inside = (at >= 0).all(axis=1) & (at < [one.frame.cols, one.frame.rows]).all(axis=1)
    common = int(np.count_nonzero(one.free[at[inside, 1], at[inside, 0]]))
    known = np.count_nonzero(two.free) * two.frame.resolution**2
    return common / max(len(two.ground), 1) * float(known)


@njit(cache=True, nogil=True)
def _verdicts(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    away: npt.NDArray[np.float32],
    free: Mask,
    slope: npt.NDArray[np.float32],
    points: Points,
    facing: Points,
    near: float,
) -> npt.NDArray[np.int8]:
    """Tell of each point: 1 near a wall of the same face, -1 on free ground far from every wall."""
    rows, cols = free.shape
    verdicts = np.zeros(points.shape[0], np.int8)
    for index in range(points.shape[0]):
        col, row = int(np.floor(points[index, 0])), int(np.floor(points[index, 1]))
        if 0 <= row < rows and 0 <= col < cols:
            if away[row, col] <= near:
                along = slope[row, col, 0] * facing[index, 0]
                across = slope[row, col, 1] * facing[index, 1]
                verdicts[index] = 1 if along + across > 0.0 else 0
            elif free[row, col] and away[row, col] > _MISS:
                verdicts[index] = -1
    return verdicts
