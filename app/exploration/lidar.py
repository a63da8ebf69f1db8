"""A planar lidar: rays through a floor, and what their ranges say about the cells they crossed.

Both walks are the grid traversal of Amanatides and Woo, "A Fast Voxel Traversal Algorithm for Ray
Tracing" (Eurographics 1987). Evidence is log-odds (Moravec and Elfes 1985; Thrun, Burgard and
Fox, "Probabilistic Robotics", ch. 9) in fixed point, so that equal scans give equal bytes.
"""

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Box, GridFrame, LogOdds, Mask

LOG_ODDS_PER_UNIT = 0.05
"""Natural log-odds of one unit of the int8 evidence grid."""

# With 24 and 17, which share no factor, contradicting beams practically never sum to zero, the
# value of a cell that was never seen.
HIT_UNITS = 24
MISS_UNITS = 17
CLAMP_UNITS = 80

_TOUCH = 1e-9  # cells; a ray that has no longer way in a cell only touches its corner

Floats = npt.NDArray[np.float64]


def beam_angles(beams: int, phase: float = 0.0) -> Floats:
    """Spread beams evenly over a turn, (beams,) float64 radians from the phase on."""
    return phase + 2.0 * math.pi / beams * np.arange(beams, dtype=np.float64)


def cast_rays(
    blocked: Mask, frame: GridFrame, at: tuple[float, float], angles: Floats, *, reach: float
) -> Floats:
    """Measure the distance from a point to the nearest blocked cell along each ray.

    The surface stands in the middle of the ray's way through the blocked cell, so that small
    noise leaves a return in the cell that caused it. What lies outside the grid blocks.

    Args:
        blocked: (rows, cols) bool, cells that stop a ray.
        frame: the grid's frame.
        at: (x, y) in metres, map frame.
        angles: (beams,) float64, radians from the x axis, map frame.
        reach: metres.

    Returns:
        (beams,) float64 ranges in metres, infinite where nothing is met within reach.

    Raises:
        ValueError: the point lies outside the grid.
    """
    row, col = _inside(frame, at)
    return _cast(blocked, row, col, angles, reach / frame.resolution) * frame.resolution


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
        reach: metres, how far such a beam speaks for free cells.

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
    """Return a point's row and column; the walks start inside the grid or read foreign memory."""
    if not frame.contains(*frame.cell(*at)):
        raise ValueError(f"no scan from ({at[0]:.2f}, {at[1]:.2f}): it lies outside the grid")
    return frame.in_cells(*at)


@njit(cache=True, nogil=True)
def _first_crossing(position: float, direction: float) -> tuple[int, float, float]:
    """Return the step of one axis, the way to its first cell border and from border to border."""
    if direction > 0.0:
        return 1, (np.floor(position) + 1.0 - position) / direction, 1.0 / direction
    if direction < 0.0:
        return -1, (np.floor(position) - position) / direction, -1.0 / direction
    return 0, np.inf, np.inf


@njit(cache=True, nogil=True)
def _steps_left(at: int, step: int, size: int) -> int:
    """Return how many steps along one axis stay inside."""
    return size - 1 - at if step > 0 else at


@njit(cache=True, nogil=True)
def _cast(blocked: Mask, row: float, col: float, angles: Floats, reach: float) -> Floats:
    """`cast_rays` in cells.

    Which border comes next is as good as random to the processor: choices instead of branches
    make the walk several times faster.
    """
    rows, cols = blocked.shape
    cells = blocked.ravel()
    ranges = np.full(angles.size, np.inf)
    first_row, first_col = int(np.floor(row)), int(np.floor(col))
    for beam in range(angles.size):
        row_step, row_next, row_way = _first_crossing(row, np.sin(angles[beam]))
        col_step, col_next, col_way = _first_crossing(col, np.cos(angles[beam]))
        rows_left = _steps_left(first_row, row_step, rows)
        cols_left = _steps_left(first_col, col_step, cols)
        jump = row_step * cols
        at = first_row * cols + first_col
        while True:
            along = row_next < col_next
            way = row_next if along else col_next
            if way > reach:
                break
            at += jump if along else col_step
            rows_left -= 1 if along else 0
            cols_left -= 0 if along else 1
            row_next = row_next + row_way if along else row_next
            col_next = col_next if along else col_next + col_way
            outside = (rows_left | cols_left) < 0
            if outside or cells[at]:
                leave = min(row_next, col_next)
                if outside or leave - way > _TOUCH:
                    ranges[beam] = min(0.5 * (way + leave), reach)
                    break
    return ranges


@njit(cache=True, nogil=True)
def _integrate(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    evidence: LogOdds, row: float, col: float, angles: Floats, ranges: Floats, reach: float
) -> tuple[int, int, int, int]:
    """`integrate` in cells, walked as in `_cast`.

    A ray never turns back, so its first and its last change span all that it changed.
    """
    rows, cols = evidence.shape
    cells = evidence.ravel()
    row0, col0, row1, col1 = rows, cols, 0, 0
    first_row, first_col = int(np.floor(row)), int(np.floor(col))
    for beam in range(angles.size):
        row_step, row_next, row_way = _first_crossing(row, np.sin(angles[beam]))
        col_step, col_next, col_way = _first_crossing(col, np.cos(angles[beam]))
        rows_left = _steps_left(first_row, row_step, rows)
        cols_left = _steps_left(first_col, col_step, cols)
        jump = row_step * cols
        at = first_row * cols + first_col
        returned = np.isfinite(ranges[beam])
        end = ranges[beam] if returned else reach
        first = last = -1
        way = 0.0
        while way <= end and (rows_left | cols_left) >= 0:
            along = row_next < col_next
            leave = row_next if along else col_next
            before = cells[at]
            hit = returned and leave > end
            after = min(before + HIT_UNITS, CLAMP_UNITS) if hit else before - MISS_UNITS
            after = max(after, -CLAMP_UNITS)
            if after != before and leave - way > _TOUCH:
                cells[at] = after
                first = at if first < 0 else first
                last = at
            way = leave
            at += jump if along else col_step
            rows_left -= 1 if along else 0
            cols_left -= 0 if along else 1
            row_next = row_next + row_way if along else row_next
            col_next = col_next if along else col_next + col_way
        if first >= 0:
            for changed in (first, last):
                row0, row1 = min(row0, changed // cols), max(row1, changed // cols + 1)
                col0, col1 = min(col0, changed % cols), max(col1, changed % cols + 1)
    return row0, col0, row1, col1


def mark_visible(
    blocked: Mask, places: npt.NDArray[np.int64], angles: Floats, reach: float
) -> Mask:
    """Mark every cell that a ray crosses from any of several cells' centres, without noise.

    Args:
        blocked: (rows, cols) bool, cells that stop a ray.
        places: (n, 2) int64, row and column.
        angles: (beams,) float64, radians.
        reach: cells.

    Returns:
        (rows, cols) bool, the blocked cell at a ray's end included.
    """
    return _mark_visible(blocked, places, angles, reach)


@njit(cache=True, nogil=True)
def _mark_visible(
    blocked: Mask, places: npt.NDArray[np.int64], angles: Floats, reach: float
) -> Mask:
    """`mark_visible`."""
    rows, cols = blocked.shape
    seen = np.zeros((rows, cols), np.bool_)
    for place in range(places.shape[0]):
        row, col = places[place, 0] + 0.5, places[place, 1] + 0.5
        for beam in range(angles.size):
            row_step, row_next, row_way = _first_crossing(row, np.sin(angles[beam]))
            col_step, col_next, col_way = _first_crossing(col, np.cos(angles[beam]))
            at_row, at_col = places[place, 0], places[place, 1]
            way = 0.0
            while way <= reach and 0 <= at_row < rows and 0 <= at_col < cols:
                seen[at_row, at_col] = True
                if blocked[at_row, at_col]:
                    break
                way = min(row_next, col_next)
                if row_next < col_next:
                    row_next += row_way
                    at_row += row_step
                else:
                    col_next += col_way
                    at_col += col_step
    return seen
