"""A planar lidar: rays through a grid, and the evidence that their ranges give about its cells.

All traversals follow Amanatides and Woo, "A Fast Voxel Traversal Algorithm for Ray Tracing"
(Eurographics 1987). Evidence is log-odds (Moravec and Elfes 1985; Thrun, Burgard and Fox,
"Probabilistic Robotics", ch. 9) in fixed point, so that equal scans give equal bytes.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Box, GridFrame, LogOdds, Mask

LOG_ODDS_PER_UNIT = 0.05
"""Natural log-odds of one unit of the int8 evidence grid."""

# 24 and 17 are coprime: contradicting beams almost never sum to 0, which means never seen.
HIT_UNITS = 24
MISS_UNITS = 17
CLAMP_UNITS = 80

_TOUCH = 1e-9  # cells; a ray with a shorter chord in a cell only touches its corner

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LidarSpec:
    """A lidar.

    Attributes:
        beams: number of beams per turn.
        max_range: metres; a beam that meets nothing within it returns infinity.
        range_noise: standard deviation of a range, metres.
        noise_share: standard deviation as a share of the range; the larger of the two applies.
        min_range: metres; nearer obstacles give no reading.
        dropout: share of the beams that fail at random.
        rate_hz: turns per second.
    """

    beams: int = 360
    max_range: float = 8.0
    range_noise: float = 0.01
    noise_share: float = 0.0
    min_range: float = 0.0
    dropout: float = 0.0
    rate_hz: float = 5.0


def beam_angles(beams: int, phase: float = 0.0) -> Floats:
    """Spread beams evenly over a turn, (beams,) float64 radians, starting at the phase."""
    return phase + 2.0 * math.pi / beams * np.arange(beams, dtype=np.float64)


def cast_rays(
    blocked: Mask,
    frame: GridFrame,
    at: tuple[float, float],
    angles: Floats,
    *,
    reach: float,
    chord_share: float = 0.5,
) -> Floats:
    """Measure the distance from a point to the nearest blocked cell along each ray.

    In the middle of its chord through the blocked cell, small noise keeps a return in the cell that
    caused it. But a straight wall is then bent: where rays meet it at a right angle it seems half a
    cell farther away than where they graze it. Cells outside the grid block.

    Args:
        blocked: (rows, cols) bool, cells that stop a ray.
        frame: the grid's frame.
        at: (x, y) in metres, map frame.
        angles: (beams,) float64, radians from the x axis, map frame.
        reach: metres.
        chord_share: share of the ray's chord through the blocked cell at which a range ends; 0 is the
            surface.

    Returns:
        (beams,) float64 ranges in metres, infinite if no cell blocks within reach.

    Raises:
        ValueError: the point lies outside the grid.
    """
    row, col = _inside(frame, at)
    return (
        _cast(blocked, row, col, angles, reach / frame.resolution, chord_share) * frame.resolution
    )


def integrate(
    evidence: LogOdds,
    frame: GridFrame,
    at: tuple[float, float],
    angles: Floats,
    ranges: Floats,
    *,
    reach: float,
) -> Box | None:
    """Add one scan to an evidence grid, in place: misses along each ray, a hit at its end.

    Args:
        evidence: (rows, cols) int8 log-odds units, contiguous, changed in place.
        frame: the grid's frame.
        at: (x, y) in metres, map frame.
        angles: (beams,) float64, radians, map frame.
        ranges: (beams,) float64 metres, infinite for a beam without return.
        reach: metres up to which a beam without return marks cells as free.

    Returns:
        The bounding box of the cells whose value changed, or None.

    Raises:
        ValueError: the point lies outside the grid.
    """
    row, col = _inside(frame, at)
    row0, col0, row1, col1 = _integrate(
        evidence, row, col, angles, ranges / frame.resolution, reach / frame.resolution
    )
    return Box(row0, col0, row1, col1) if row0 < row1 else None


def _inside(frame: GridFrame, at: tuple[float, float]) -> tuple[float, float]:
    """Return a point's continuous row and column.

    Raises:
        ValueError: the point lies outside the grid; the compiled traversals do not check that.
    """
    if not frame.contains(*frame.cell(*at)):
        raise ValueError(f"no scan from ({at[0]:.2f}, {at[1]:.2f}): it lies outside the grid")
    return frame.in_cells(*at)


@njit(cache=True, nogil=True)
def _first_crossing(position: float, direction: float) -> tuple[int, float, float]:
    """Return the step along an axis, the distance to the first border, and between borders."""
    if direction > 0.0:
        return 1, (np.floor(position) + 1.0 - position) / direction, 1.0 / direction
    if direction < 0.0:
        return -1, (np.floor(position) - position) / direction, -1.0 / direction
    return 0, np.inf, np.inf


@njit(cache=True, nogil=True)
def _steps_left(at: int, step: int, size: int) -> int:
    """Return how many steps along one axis stay inside the grid."""
    return size - 1 - at if step > 0 else at


@njit(cache=True, nogil=True)
def _cast(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    blocked: Mask, row: float, col: float, angles: Floats, reach: float, chord_share: float
) -> Floats:
    """Implement `cast_rays` in cells.

    Which border comes next is unpredictable for the processor: selections instead of branches make
    the traversal several times faster.
    """
    rows, cols = blocked.shape
    cells = blocked.ravel()
    ranges = np.full(angles.size, np.inf)
    first_row, first_col = int(np.floor(row)), int(np.floor(col))
    for beam in range(angles.size):
        row_step, row_next, row_delta = _first_crossing(row, np.sin(angles[beam]))
        col_step, col_next, col_delta = _first_crossing(col, np.cos(angles[beam]))
        rows_left = _steps_left(first_row, row_step, rows)
        cols_left = _steps_left(first_col, col_step, cols)
        jump = row_step * cols
        at = first_row * cols + first_col
        while True:
            along = row_next < col_next
            entry = row_next if along else col_next
            if entry > reach:
                break
            at += jump if along else col_step
            rows_left -= 1 if along else 0
            cols_left -= 0 if along else 1
            row_next = row_next + row_delta if along else row_next
            col_next = col_next if along else col_next + col_delta
            outside = (rows_left | cols_left) < 0
            if outside or cells[at]:
                leaving = min(row_next, col_next)
                if outside or leaving - entry > _TOUCH:
                    ranges[beam] = min((1.0 - chord_share) * entry + chord_share * leaving, reach)
                    break
    return ranges


@njit(cache=True, nogil=True)
def _integrate(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    evidence: LogOdds, row: float, col: float, angles: Floats, ranges: Floats, reach: float
) -> tuple[int, int, int, int]:
    """Implement `integrate` in cells, with the traversal of `_cast`.

    A ray is monotonic along both axes, so its first and last change span all its changes.
    """
    rows, cols = evidence.shape
    cells = evidence.ravel()
    row0, col0, row1, col1 = rows, cols, 0, 0
    first_row, first_col = int(np.floor(row)), int(np.floor(col))
    for beam in range(angles.size):
        row_step, row_next, row_delta = _first_crossing(row, np.sin(angles[beam]))
        col_step, col_next, col_delta = _first_crossing(col, np.cos(angles[beam]))
        rows_left = _steps_left(first_row, row_step, rows)
        cols_left = _steps_left(first_col, col_step, cols)
        jump = row_step * cols
        at = first_row * cols + first_col
        returned = np.isfinite(ranges[beam])
        end = ranges[beam] if returned else reach
        first = last = -1
        entry = 0.0
        while entry <= end and (rows_left | cols_left) >= 0:
            along = row_next < col_next
            leaving = row_next if along else col_next
            before = cells[at]
            hit = returned and leaving > end
            after = min(before + HIT_UNITS, CLAMP_UNITS) if hit else before - MISS_UNITS
            after = max(after, -CLAMP_UNITS)
            if after != before and leaving - entry > _TOUCH:
                cells[at] = after
                first = at if first < 0 else first
                last = at
            entry = leaving
            at += jump if along else col_step
            rows_left -= 1 if along else 0
            cols_left -= 0 if along else 1
            row_next = row_next + row_delta if along else row_next
            col_next = col_next if along else col_next + col_delta
        if first >= 0:
            for changed in (first, last):
                row0, row1 = min(row0, changed // cols), max(row1, changed // cols + 1)
                col0, col1 = min(col0, changed % cols), max(col1, changed % cols + 1)
    return row0, col0, row1, col1


def mark_visible(
    blocked: Mask, viewpoints: npt.NDArray[np.int64], angles: Floats, reach: float
) -> Mask:
    """Mark every cell that a ray crosses from any of several viewpoints, without noise.

    Args:
        blocked: (rows, cols) bool, cells that stop a ray.
        viewpoints: (n, 2) int64, row and column; rays start at the cells' centres.
        angles: (beams,) float64, radians.
        reach: cells.

    Returns:
        (rows, cols) bool, the blocked cell at a ray's end included.
    """
    return _mark_visible(blocked, viewpoints, angles, reach)


@njit(cache=True, nogil=True)
def _mark_visible(
    blocked: Mask, viewpoints: npt.NDArray[np.int64], angles: Floats, reach: float
) -> Mask:
    """Implement `mark_visible`."""
    rows, cols = blocked.shape
    seen = np.zeros((rows, cols), np.bool_)
    for viewpoint in range(viewpoints.shape[0]):
        row, col = viewpoints[viewpoint, 0] + 0.5, viewpoints[viewpoint, 1] + 0.5
        for beam in range(angles.size):
            row_step, row_next, row_delta = _first_crossing(row, np.sin(angles[beam]))
            col_step, col_next, col_delta = _first_crossing(col, np.cos(angles[beam]))
            at_row, at_col = viewpoints[viewpoint, 0], viewpoints[viewpoint, 1]
            entry = 0.0
            while entry <= reach and 0 <= at_row < rows and 0 <= at_col < cols:
                seen[at_row, at_col] = True
                if blocked[at_row, at_col]:
                    break
                entry = min(row_next, col_next)
                if row_next < col_next:
                    row_next += row_delta
                    at_row += row_step
                else:
                    col_next += col_delta
                    at_col += col_step
    return seen
