"""Clearance of cells, and straight lines over a grid: where a disc fits, and what sees what."""

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import FREE, Cells, FloorMap, Mask

Clearance = npt.NDArray[np.float32]
"""Metres from each cell's centre to the nearest obstacle cell's centre, (rows, cols) float32."""

_TOUCH = 1e-5  # metres; an obstacle at exactly the radius does not overlap; float32 needs slack
_CORNER = 1e-9  # cells; a line this close to a corner crosses both sides of the cell there


def is_near(marked: Mask, cells: Cells, reach: int) -> Mask:
    """Return which cells have a marked cell within a reach in both directions, (n,) bool.

    Args:
        marked: (rows, cols) bool.
        cells: (n, 2) row and column.
        reach: cells.
    """
    low = np.maximum(cells - reach, 0)
    high = np.minimum(cells + reach + 1, marked.shape)
    integral = cv2.integral(marked.view(np.uint8))
    found: Mask = (
        integral[high[:, 0], high[:, 1]]
        - integral[low[:, 0], high[:, 1]]
        - integral[high[:, 0], low[:, 1]]
        + integral[low[:, 0], low[:, 1]]
    ) > 0
    return found


def clearance_map(obstacles: Mask, resolution: float) -> Clearance:
    """Measure the clearance of every cell; cells outside the grid are obstacles.

    Args:
        obstacles: (rows, cols) bool.
        resolution: metres per cell.

    Returns:
        (rows, cols) float32 metres, 0 on obstacles.
    """
    free = np.pad((~obstacles).astype(np.uint8), 1)
    clearance = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return cast("Clearance", clearance[1:-1, 1:-1] * np.float32(resolution))


def traversable(clearance: Clearance, radius: float) -> Mask:
    """Return where a disc of a radius, metres, covers no obstacle's centre."""
    return clearance >= radius - _TOUCH


def traversable_cells(floor: FloorMap, radius: float) -> Mask:
    """Return where a disc fits on the true floor, (rows, cols) bool; unknown cells are solid.

    Args:
        floor: the true floor.
        radius: of the disc, metres.
    """
    return traversable(clearance_map(floor.grid != FREE, floor.frame.resolution), radius)


def clear_length(passable: Mask, start: tuple[float, float], end: tuple[float, float]) -> float:
    """Measure how far a straight line runs before it enters a cell that is not passable.

    The start's own cell is not checked.

    Args:
        passable: (rows, cols) bool.
        start: continuous row and column.
        end: continuous row and column.

    Returns:
        Cells along the line, infinite when all of it is clear.
    """
    return float(clear_length_cells(passable, start[0], start[1], end[0], end[1]))


@njit(cache=True, nogil=True)
def clear_length_cells(
    passable: Mask, start_row: float, start_col: float, end_row: float, end_col: float
) -> float:
    """Implement `clear_length` for compiled callers.

    The traversal is that of `lidar.cast_rays` except at corners, which a lidar ray may touch.
    """
    length = np.hypot(end_row - start_row, end_col - start_col)
    if length == 0.0:
        return np.inf
    at_row, at_col = int(np.floor(start_row)), int(np.floor(start_col))
    row_delta = length / abs(end_row - start_row) if end_row != start_row else np.inf
    col_delta = length / abs(end_col - start_col) if end_col != start_col else np.inf
    row_step = 1 if end_row > start_row else -1
    col_step = 1 if end_col > start_col else -1
    row_next = col_next = np.inf
    if end_row != start_row:
        row_next = abs(at_row + (row_step > 0) - start_row) * row_delta
    if end_col != start_col:
        col_next = abs(at_col + (col_step > 0) - start_col) * col_delta
    while True:
        entry = min(row_next, col_next)
        if entry > length:
            return np.inf
        # Check the cells on both sides of a corner, so that both directions give the same answer.
        both = abs(row_next - col_next) <= _CORNER
        if both and not (
            _is_passable(passable, at_row + row_step, at_col)
            and _is_passable(passable, at_row, at_col + col_step)
        ):
            return entry
        if both or row_next < col_next:
            row_next += row_delta
            at_row += row_step
        if both or col_next <= entry:
            col_next += col_delta
            at_col += col_step
        if not _is_passable(passable, at_row, at_col):
            return entry


@njit(cache=True, nogil=True)
def _is_passable(passable: Mask, row: int, col: int) -> bool:
    """Return whether a cell lies inside the grid and is passable."""
    rows, cols = passable.shape
    return 0 <= row < rows and 0 <= col < cols and bool(passable[row, col])
