"""Bringing two maps of unrelated frames together, or finding that they do not fit.

Candidates come from turning the second map step by step and correlating free and occupied cells
with the first by FFT, each is climbed to its best fit on two likelihood fields, and the one that
the walls of both maps support best is returned with the figures that a gate needs: a candidate is
judged where both maps know the ground (Birk and Carpin, "Merging Occupancy Grid Maps From Multiple
Robots", Proc. IEEE 2006, call this the acceptance indicator), walls alone, for open ground
agrees with any open ground.
"""

import math
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import fft

from app.exploration.grid import FREE, OCCUPIED, Grid, GridFrame, Mask
from app.exploration.slam.matching import SIGMA, likelihood_field, nearby, refine
from app.exploration.slam.se2 import Points, Transform, apply, inverse, wrap

_TURNS = 120
_COARSE = 0.2  # metres a cell of the correlation, if the maps are not too large for it
_LARGEST = 288  # cells of the correlation to a side, at most
_BLOCKED = 0.5  # what a wall on free ground costs, in walls that fit
_OPEN = 0.01  # what free ground on free ground is worth, likewise
_INNER = 0.3  # metres from every wall at which ground is free beyond doubt
_PEAKS = 2  # an angle
_CLOSE = 40  # candidates that are looked at closely
_SAME_M = 0.75
_SAME_RAD = math.radians(5.0)
_WIDE = 0.2  # metres, the sigma of the first climb
_FEWEST = 30  # points that a last climb needs
_CLIMBERS = 1200  # points that climb
_HIT = 0.12  # metres from a wall within which another is the same
_FACING = 0.15  # metres over which it is felt to which side of a wall the ground is free
_MISS = 0.25  # metres from every wall from which a wall on free ground contradicts
_BLAME = 4.0  # hits that a contradiction outweighs

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
    """

    transform: Transform
    walls: float
    agreement: float
    overlap: float
    lead: float
    grip: float


@dataclass(frozen=True, slots=True, eq=False)
class _Sheet:
    """A map made ready: walls and where they face, free ground, distance to walls, slope to free."""

    frame: GridFrame
    walls: Points
    facing: Points
    ground: Points
    free: Mask
    away: npt.NDArray[np.float32]
    slope: npt.NDArray[np.float32]


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
    one, two = _sheet(first, first_frame), _sheet(second, second_frame)
    if one is None or two is None:
        return None
    walls = two.walls[:: max(1, len(two.walls) // _CLIMBERS)]
    wide = likelihood_field(one.walls, one.walls, margin=1.0, sigma=_WIDE)
    sharp = likelihood_field(one.walls, one.walls, margin=1.0)
    found: list[tuple[float, Transform]] = []
    for guess in _candidates(one, two):
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
    """

    walls: float = 8.0
    agreement: float = 0.95
    overlap: float = 8.0
    lead: float = 0.2
    grip: float = 2.0

    def accepts(self, found: Registration) -> bool:
        """Tell whether maps may be merged so."""
        return (
            found.walls >= self.walls
            and found.agreement >= self.agreement
            and found.overlap >= self.overlap
            and found.lead >= self.lead
            and found.grip >= self.grip
        )


DEFAULT_GATE = Gate()


def _sheet(grid: Grid, frame: GridFrame) -> _Sheet | None:
    """Cut a map to what is known, and measure what is needed of it."""
    known = grid >= 0
    if not (grid == OCCUPIED).any():
        return None
    rows, cols = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    grid = grid[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    resolution = frame.resolution
    cut = GridFrame(
        grid.shape[0],
        grid.shape[1],
        resolution,
        frame.origin_x + int(cols[0]) * resolution,
        frame.origin_y + int(rows[0]) * resolution,
    )
    free, occupied = grid == FREE, grid == OCCUPIED
    # A wall counts where it borders free ground: a return that strayed behind it says nothing.
    beside = cv2.dilate(free.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    away = cv2.distanceTransform(
        (~occupied).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ) * np.float32(resolution)
    step = max(1, round(_COARSE / resolution / 2))
    thin = np.zeros_like(free)
    thin[::step, ::step] = True
    soft = cv2.GaussianBlur(free.astype(np.float32), (0, 0), _FACING / resolution)
    slope = np.dstack([cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)])
    walls = occupied & beside
    return _Sheet(
        cut,
        _points(cut, walls),
        slope[walls].astype(np.float64),
        _points(cut, free & thin & (away > _INNER)),
        free,
        np.ascontiguousarray(away, np.float32),
        np.ascontiguousarray(slope),
    )


def _points(frame: GridFrame, mask: Mask) -> Points:
    """Return the centres of cells, (n, 2) metres."""
    rows, cols = np.nonzero(mask)
    return np.column_stack(
        [
            frame.origin_x + (cols + 0.5) * frame.resolution,
            frame.origin_y + (rows + 0.5) * frame.resolution,
        ]
    )


def _candidates(one: _Sheet, two: _Sheet) -> list[Transform]:
    """Return the most promising poses of the second map, best first."""
    middle = (two.walls.min(axis=0) + two.walls.max(axis=0)) / 2.0
    walls, ground = two.walls - middle, two.ground - middle
    radius = max(float(np.hypot(*part.T).max(initial=0.0)) for part in (walls, ground))
    low = np.minimum(one.walls.min(axis=0), one.ground.min(axis=0, initial=np.inf))
    high = np.maximum(one.walls.max(axis=0), one.ground.max(axis=0, initial=-np.inf))
    cell = max(_COARSE, (float((high - low).max()) + 2.0 * radius) / _LARGEST)
    side = 2 * math.ceil(radius / cell) + 1
    shape = [fft.next_fast_len(int(n) + side, real=True) for n in np.ceil((high - low) / cell)][
        ::-1
    ]
    walls_one = cv2.GaussianBlur(_image((one.walls - low) / cell, shape), (0, 0), 1.0) * 4.0
    ground_one = _image((one.ground - low) / cell, shape)
    for_walls = fft.rfft2(walls_one - _BLOCKED * ground_one)
    for_ground = fft.rfft2(_OPEN * ground_one - _BLOCKED * walls_one)
    found: list[tuple[float, Transform]] = []
    for angle in np.arange(_TURNS) * (2.0 * math.pi / _TURNS):
        turn = np.array([0.0, 0.0, angle])
        shift = np.full(2, radius)
        turned_walls = fft.rfft2(_image((apply(turn, walls) + shift) / cell, shape))
        turned_ground = fft.rfft2(_image((apply(turn, ground) + shift) / cell, shape))
        fit = fft.irfft2(
            for_walls * np.conj(turned_walls) + for_ground * np.conj(turned_ground), s=shape
        )
        for _ in range(_PEAKS):
            row, col = np.unravel_index(int(np.argmax(fit)), fit.shape)
            place = np.array([_signed(int(col), shape[1], side), _signed(int(row), shape[0], side)])
            moved = low + place * cell + shift - apply(turn, middle[None])[0]
            found.append((float(fit[row, col]), np.array([*moved, wrap(angle)])))
            reach = math.ceil(_SAME_M / cell)
            fit[
                max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1
            ] = -np.inf
    found.sort(key=lambda pair: -pair[0])
    return [pose for _, pose in found[:_CLOSE]]


def _signed(index: int, size: int, side: int) -> int:
    """Return the shift that an index of a circular correlation stands for."""
    return index - size if index >= size - side else index


def _image(points: Points, shape: list[int]) -> npt.NDArray[np.float32]:
    """Raster points, given in cells: one where there are any."""
    image = np.zeros(shape, np.float32)
    at = points.astype(np.int32)
    image[at[:, 1], at[:, 0]] = 1.0
    return image


def _same(pose: Transform, other: Transform, middle: Points) -> bool:
    """Tell whether two fits put a map, known by its middle, (1, 2), into the same place."""
    off = apply(pose, middle) - apply(other, middle)
    return float(np.hypot(*off[0])) < _SAME_M and abs(wrap(pose[2] - other[2])) < _SAME_RAD


def _judge(here: _Sheet, there: _Sheet, motion: Transform, near: float) -> npt.NDArray[np.int8]:
    """Tell of each wall point of one map, moved into another, what that one says of it."""
    return _verdicts(
        here.away,
        here.free,
        here.slope,
        _in_cells(here.frame, apply(motion, there.walls)),
        apply(np.array([0.0, 0.0, motion[2]]), there.facing),
        near,
    )


def _support(one: _Sheet, two: _Sheet, pose: Transform) -> tuple[float, float]:
    """Return metres of wall that agree and metres that contradict, the mean of both ways."""
    hits = misses = 0.0
    for here, there, motion in ((one, two, pose), (two, one, inverse(pose))):
        verdicts = _judge(here, there, motion, _HIT)
        hits += 0.5 * there.frame.resolution * int(np.count_nonzero(verdicts > 0))
        misses += 0.5 * there.frame.resolution * int(np.count_nonzero(verdicts < 0))
    return hits, misses


def _polish(one: _Sheet, two: _Sheet, pose: Transform) -> tuple[Transform, float]:
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


def _in_cells(frame: GridFrame, points: Points) -> Points:
    """Return points as continuous column and row."""
    return cast("Points", (points - np.array([frame.origin_x, frame.origin_y])) / frame.resolution)


def _overlap(one: _Sheet, two: _Sheet, pose: Transform) -> float:
    """Return the square metres that are free in both."""
    at = np.floor(_in_cells(one.frame, apply(pose, two.ground))).astype(np.int64)
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
