"""Scan matching: find the pose at which a scan fits best into a likelihood field.

The field is the likelihood field of Thrun, Burgard and Fox, "Probabilistic Robotics" (2005),
ch. 6.4, splatted from the points of other scans without rounding them to cells. The search is
correlative over a window (Olson, "Real-Time Correlative Scan Matching", ICRA 2009), coarse on a
max-pooled field. The refinement is Gauss-Newton on the interpolated field (Kohlbrecher et al.
2011), with the odometry as prior where there is one, so that a scan does not slide along a bare
corridor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.se2 import Points, Transform

SIGMA = 0.08
"""Standard deviation of a return's position, metres."""

FIELD_MARGIN_M = 0.4
"""Metres by which a field should exceed the window that is searched in it."""

_CELL = 0.05  # metres
_REACH = math.ceil(2.5 * SIGMA / _CELL)  # cells within which a point raises the field
_POOL = 4  # fine cells along one side of a coarse cell
_PEAKS = 4  # best poses of the coarse search that are refined
_INFORMATION_SHARE = 0.05  # of the curvature: returns from one surface do not err independently
_RIVAL_CELLS = 2  # coarse cells from the best fit at which another place begins
_RIVAL_RAD = 0.3  # and radians
_TURNS = np.linspace(-0.03, 0.03, 5)
_FINE = 16.0  # entries of the splat's table for each squared cell
_PARTS = 4  # of a cell's side
_MAX_STEPS = 12
_MIN_LIKELIHOOD = 1e-3  # a lower likelihood counts as none
_MIN_SLOPE = 1e-6  # a lower slope has no direction
_MAX_DAMPING = 1e4  # the refinement ends at a higher damping
_MIN_GAIN = 1e-3  # the refinement ends after a smaller gain
_EVERY = 3  # the search uses one of this many points

Likelihood = npt.NDArray[np.float32]
"""(rows, cols) float32, 0 to 1."""

_LIKELIHOODS: Likelihood = np.exp(
    -np.arange(2 * _FINE * (_REACH + 1) ** 2 + 1) / _FINE / (2.0 * (SIGMA / _CELL) ** 2)
).astype(np.float32)  # by squared distance, in sixteenths of a squared cell


@dataclass(frozen=True, slots=True, eq=False)
class LikelihoodField:
    """How likely a return is at each place.

    Attributes:
        cells: (rows, cols) float32, 0 to 1, 0.05 m a cell.
        x: of the lower left corner, metres.
        y: of the lower left corner, metres.
    """

    cells: Likelihood
    x: float
    y: float


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The pose at which a scan fits.

    Attributes:
        pose: (3,) of the scan in the field's frame.
        score: 0 to 1, mean likelihood of its points.
        information: (3, 3) float64 of x, y, angle in the scan's own frame, from the field alone.
        rival: score of the best fit in another place of the window; 0 if there is none, or if
            none was searched for.
    """

    pose: Transform
    score: float
    information: npt.NDArray[np.float64]
    rival: float = 0.0


def likelihood_field(
    scans: Sequence[Points], poses: Transform, around: Points, *, margin: float
) -> LikelihoodField:
    """Build the likelihood field of several scans.

    Args:
        scans: each (n, 2) metres in its own frame.
        poses: (scans, 3) of the scans.
        around: (m, 2) metres, frame of the poses; the field spans these points and a margin.
        margin: metres.
    """
    field = _empty_field(around, margin)
    scale = np.array([1.0 / _CELL, 1.0 / _CELL, 1.0])
    drawn = np.zeros(field.cells.shape, np.uint16)
    x, y = field.x / _CELL, field.y / _CELL
    for points, pose in zip(scans, poses * scale, strict=True):
        _splat(field.cells, drawn, points / _CELL, pose, x, y, _LIKELIHOODS)
    return field


def _empty_field(around: Points, margin: float) -> LikelihoodField:
    """Return a field of zeros that spans points and a margin."""
    x, y = around[:, 0], around[:, 1]
    low_x = math.floor((x.min() - margin) / _CELL) * _CELL
    low_y = math.floor((y.min() - margin) / _CELL) * _CELL
    cols = (math.ceil((x.max() + margin - low_x) / _CELL / _POOL) + 1) * _POOL
    rows = (math.ceil((y.max() + margin - low_y) / _CELL / _POOL) + 1) * _POOL
    return LikelihoodField(np.zeros((rows, cols), np.float32), low_x, low_y)


def refine(
    field: LikelihoodField,
    points: Points,
    guess: Transform,
    prior: npt.NDArray[np.float64] | None = None,
) -> Match:
    """Refine a guess to the nearest local optimum.

    Args:
        field: the field.
        points: (n, 2) metres, the scan in its own frame.
        guess: (3,) of the scan in the field's frame.
        prior: (3, 3) information of the guess, field's frame; None without a prior.
    """
    pose, score, hessian = _gauss_newton(
        field.cells,
        points / _CELL,
        np.array([(guess[0] - field.x) / _CELL, (guess[1] - field.y) / _CELL, guess[2]]),
        np.zeros((3, 3)) if prior is None else prior,
    )
    turn = np.eye(3)
    turn[:2, :2] = [
        [math.cos(pose[2]), -math.sin(pose[2])],
        [math.sin(pose[2]), math.cos(pose[2])],
    ]
    placed = np.array([pose[0] * _CELL + field.x, pose[1] * _CELL + field.y, pose[2]])
    return Match(placed, float(score), _INFORMATION_SHARE * turn.T @ hessian @ turn)


def search(
    field: LikelihoodField,
    points: Points,
    guess: Transform,
    *,
    window: float,
    turn: float,
    rival: bool = False,
) -> Match:
    """Find the best fit in a window around a guess.

    Args:
        field: the field; its margin should be no less than the window.
        points: (n, 2) metres, the scan in its own frame.
        guess: (3,) of the scan in the field's frame.
        window: metres to each side in x and y.
        turn: radians to each side.
        rival: also find the best fit in another place.
    """
    thin = points[::_EVERY]
    step = _POOL * _CELL
    far = max(float(np.percentile(np.hypot(*thin.T), 75)), 1.0)
    turn_step = step / far
    turns = np.arange(-math.ceil(turn / turn_step), math.ceil(turn / turn_step) + 1) * turn_step
    reach = math.ceil(window / step)
    local = np.array([guess[0] - field.x, guess[1] - field.y])
    scores = _window(_pooled(field.cells), thin / step, local / step, guess[2] + turns, reach)

    def refined(angle: int, dy: int, dx: int) -> Match:
        start = guess + np.array([(dx - reach) * step, (dy - reach) * step, turns[angle]])
        return refine(field, points, _nearby(field, thin, start, reach=_POOL // 2, turns=_TURNS))

    flat_scores = scores.ravel()
    count = min(3 * _PEAKS, flat_scores.size)
    highest = np.argpartition(flat_scores, flat_scores.size - count)[-count:]
    order = highest[np.argsort(-flat_scores[highest], kind="stable")]
    found: list[Match] = []
    tried: list[tuple[int, int, int]] = []
    for flat in order:
        at = _index(int(flat), scores.shape)
        if any(max(abs(a - b) for a, b in zip(at, other, strict=True)) <= 1 for other in tried):
            continue
        tried.append(at)
        found.append(refined(*at))
        if len(tried) == _PEAKS:
            break
    best = max(found, key=lambda match: match.score)
    if not rival:
        return best
    off = np.rint((best.pose - guess)[:2] / step).astype(int) + reach
    turned = np.abs(np.remainder(guess[2] + turns - best.pose[2] + math.pi, 2 * math.pi) - math.pi)
    side = np.arange(2 * reach + 1)
    elsewhere = (
        (turned[:, None, None] > _RIVAL_RAD)
        | (np.abs(side - off[1])[:, None] > _RIVAL_CELLS)
        | (np.abs(side - off[0]) > _RIVAL_CELLS)
    )
    if not elsewhere.any():
        return best
    other = refined(*_index(int(np.argmax(np.where(elsewhere, scores, -1.0))), scores.shape))
    return replace(best, rival=other.score)


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return turn, y and x of a flat index of the scores."""
    angle, dy, dx = np.unravel_index(flat, shape)
    return int(angle), int(dy), int(dx)


def _nearby(
    field: LikelihoodField,
    points: Points,
    guess: Transform,
    *,
    reach: int,
    turns: npt.NDArray[np.float64],
) -> Transform:
    """Find the best pose around a guess on the fine field, in steps of whole cells.

    Args:
        field: the field.
        points: (n, 2) metres, in their own frame.
        guess: (3,) of that frame in the field's.
        reach: cells to each side.
        turns: (m,) radians to try.
    """
    local = np.array([guess[0] - field.x, guess[1] - field.y])
    scores = _window(field.cells, points / _CELL, local / _CELL, guess[2] + turns, reach)
    angle, dy, dx = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return np.array(
        [
            guess[0] + (dx - reach) * _CELL,
            guess[1] + (dy - reach) * _CELL,
            guess[2] + turns[angle],
        ]
    )


@njit(cache=True, nogil=True)
def _splat(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    cells: Likelihood,
    drawn: npt.NDArray[np.uint16],
    points: Points,
    pose: Transform,
    x: float,
    y: float,
    table: Likelihood,
) -> None:
    """Raise the field around each point of a scan; all in cells, the field's corner at x and y.

    One point in each sixteenth of a cell is enough: `drawn` holds a bit for each that has one.
    """
    rows, cols = cells.shape
    reach = _REACH
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    for index in range(points.shape[0]):
        col = pose[0] - x + cos * points[index, 0] - sin * points[index, 1]
        row = pose[1] - y + sin * points[index, 0] + cos * points[index, 1]
        at_col, at_row = int(np.floor(col)), int(np.floor(row))
        if 0 <= at_row < rows and 0 <= at_col < cols:
            part = 1 << (_PARTS * int(_PARTS * (row - at_row)) + int(_PARTS * (col - at_col)))
            if drawn[at_row, at_col] & part:
                continue
            drawn[at_row, at_col] |= part
        first_col, last_col = max(at_col - reach, 0), min(at_col + reach + 1, cols)
        for to_row in range(max(at_row - reach, 0), min(at_row + reach + 1, rows)):
            across = (to_row + 0.5 - row) * (to_row + 0.5 - row)
            for to_col in range(first_col, last_col):
                along = to_col + 0.5 - col
                value = table[int((across + along * along) * _FINE)]
                cells[to_row, to_col] = max(cells[to_row, to_col], value)


@njit(cache=True, nogil=True)
def _pooled(cells: Likelihood) -> Likelihood:
    """Return the maximum of each block of fine cells."""
    rows, cols = cells.shape[0] // _POOL, cells.shape[1] // _POOL
    pooled = np.zeros((rows, cols), np.float32)
    for row in range(rows * _POOL):
        for col in range(cols * _POOL):
            value = cells[row, col]
            pooled[row // _POOL, col // _POOL] = max(pooled[row // _POOL, col // _POOL], value)
    return pooled


@njit(cache=True, nogil=True)
def _window(
    cells: Likelihood,
    points: Points,
    centre: npt.NDArray[np.float64],
    turns: npt.NDArray[np.float64],
    reach: int,
) -> npt.NDArray[np.float32]:
    """Return the mean likelihood for each turn and shift, (turns, y, x), shifts in whole cells."""
    rows, cols = cells.shape
    side = 2 * reach + 1
    scores = np.zeros((turns.size, side, side), np.float32)
    for angle in range(turns.size):
        cos, sin = np.cos(turns[angle]), np.sin(turns[angle])
        for index in range(points.shape[0]):
            x, y = points[index]
            col = int(np.floor(centre[0] + cos * x - sin * y)) - reach
            row = int(np.floor(centre[1] + sin * x + cos * y)) - reach
            for dy in range(max(0, -row), min(side, rows - row)):
                for dx in range(max(0, -col), min(side, cols - col)):
                    scores[angle, dy, dx] += cells[row + dy, col + dx]
    return scores / np.float32(points.shape[0])


@njit(cache=True, nogil=True)
def _terms(
    cells: Likelihood, points: Points, pose: Transform
) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the sum of likelihoods, its gradient and its curvature, in metres and radians.

    A point pulls along the slope of the field. Its squared distance, and with it the curvature, is
    that of a Gaussian, weighted by the point's likelihood (Welsch's weights).
    """
    rows, cols = cells.shape
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    total = 0.0
    gradient = np.zeros(3)
    hessian = np.zeros((3, 3))
    jacobian = np.zeros(3)
    for index in range(points.shape[0]):
        x = cos * points[index, 0] - sin * points[index, 1]
        y = sin * points[index, 0] + cos * points[index, 1]
        col, row = pose[0] + x - 0.5, pose[1] + y - 0.5
        at_col, at_row = int(np.floor(col)), int(np.floor(row))
        if at_col < 0 or at_row < 0 or at_col + 1 >= cols or at_row + 1 >= rows:
            continue
        right, up = col - at_col, row - at_row
        low, low_right = cells[at_row, at_col], cells[at_row, at_col + 1]
        high, high_right = cells[at_row + 1, at_col], cells[at_row + 1, at_col + 1]
        value = (low * (1 - right) + low_right * right) * (1 - up) + (
            high * (1 - right) + high_right * right
        ) * up
        if value < _MIN_LIKELIHOOD:
            continue
        total += value
        along = ((low_right - low) * (1 - up) + (high_right - high) * up) / _CELL
        across = ((high - low) * (1 - right) + (high_right - low_right) * right) / _CELL
        slope = np.hypot(along, across)
        if slope < _MIN_SLOPE:
            continue
        lever = (-along * y + across * x) * _CELL
        gradient[0] += along
        gradient[1] += across
        gradient[2] += lever
        jacobian[0], jacobian[1], jacobian[2] = along / slope, across / slope, lever / slope
        for first in range(3):
            for second in range(3):
                hessian[first, second] += (
                    value * jacobian[first] * jacobian[second] / (SIGMA * SIGMA)
                )
    return total, gradient, hessian


@njit(cache=True, nogil=True)
def _gauss_newton(
    cells: Likelihood, points: Points, start: Transform, prior: npt.NDArray[np.float64]
) -> tuple[Transform, float, npt.NDArray[np.float64]]:
    """Run Gauss-Newton with Levenberg-Marquardt damping; poses in cells, curvature in metres."""
    best, pose = start.copy(), start.copy()
    total, gradient, hessian = _terms(cells, points, start)
    pull = np.zeros(3)
    best_gain = total
    damping = 1e-3
    for _ in range(_MAX_STEPS):
        whole = hessian + prior
        for axis in range(3):
            whole[axis, axis] += damping * whole[axis, axis] + 1e-3
        step = np.linalg.solve(whole, gradient - pull)
        pose[0] = best[0] + step[0] / _CELL
        pose[1] = best[1] + step[1] / _CELL
        pose[2] = best[2] + step[2]
        off = pose - start
        off[0] *= _CELL
        off[1] *= _CELL
        new_total, new_gradient, new_hessian = _terms(cells, points, pose)
        gain = new_total - 0.5 * np.dot(off, prior @ off)
        if gain > best_gain:
            done = gain - best_gain < _MIN_GAIN
            best[:] = pose
            best_gain, total = gain, new_total
            gradient, hessian = new_gradient, new_hessian
            pull = prior @ off
            damping *= 0.2
            if done:
                break
        else:
            damping = max(10.0 * damping, 0.1)
            if damping > _MAX_DAMPING:
                break
    return best, total / points.shape[0], hessian
