"""Shortest paths over passable cells: distance fields, and paths with few waypoints.

A distance field is Dial's bucketed Dijkstra (Dial 1969, CACM algorithm 360) on eight neighbours
with costs 5 and 7 (chamfer distances, Borgefors 1986). A diagonal step never cuts a corner.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.clearance import clear_length_cells
from app.exploration.grid import Cell, Cells, Mask

STRAIGHT = 5
DIAGONAL = 7
UNREACHED = np.iinfo(np.int32).max
BARRED = np.int32(-1)
NEVER = np.int32(UNREACHED)

DistanceField = npt.NDArray[np.int32]
"""Path cost of each cell, (rows, cols) int32: 5 per straight step, UNREACHED without a path."""


def distance_field(passable: Mask, start: Cell) -> DistanceField:
    """Compute the cost of the shortest path from one cell to all others.

    Args:
        passable: (rows, cols) bool; the start counts as passable.
        start: row and column.

    Returns:
        (rows, cols) int32 costs; multiply them by resolution / 5 for metres.
    """
    padded = np.pad(passable, 1)
    first = (start[0] + 1) * padded.shape[1] + start[1] + 1
    costs = _costs(padded.ravel(), padded.shape[1], first).reshape(padded.shape)
    # BARRED without its sign bit is UNREACHED.
    field: DistanceField = np.bitwise_and(costs[1:-1, 1:-1], UNREACHED)
    return field


def path_to(
    field: DistanceField, passable: Mask, position: tuple[float, float], target: Cell
) -> list[Cell]:
    """Return a shortest path from a field's start to a cell, with greedily few waypoints.

    Args:
        field: (rows, cols) int32 from `distance_field`.
        passable: the mask that the field was computed on.
        position: the robot's exact position in the start cell, continuous row and column.
        target: the cell to reach.

    Returns:
        Waypoint cells without the start, at least one; the straight line to each crosses passable
        cells only.

    Raises:
        ValueError: the field does not reach the target.
    """
    if field[target] == UNREACHED:
        raise ValueError(f"cell {target} is not reached")
    cells = _descend(field, passable, target[0], target[1])
    waypoints = _shorten(cells, passable, position[0], position[1])
    return [(int(row), int(col)) for row, col in waypoints] or [target]


@njit(cache=True, nogil=True)
def _offer(
    costs: DistanceField,
    cell: np.uint64,
    cost: np.int32,
    bucket: npt.NDArray[np.int32],
    filled: np.uint64,
) -> np.uint64:
    """Lower a cell's cost if the new one is lower, and return the new size of its bucket."""
    before = costs[cell]
    cheaper = cost < before
    costs[cell] = cost if cheaper else before
    bucket[filled] = cell
    return filled + np.uint64(cheaper)


@njit(cache=True, nogil=True)
def _costs(passable: npt.NDArray[np.bool_], width: int, start: int) -> DistanceField:
    """Compute path costs over a flat mask with an impassable rim and rows of a given width.

    Eight buckets in a ring suffice, since no step costs more than seven. Whether a neighbour gets
    cheaper is unpredictable for the processor: always writing, and counting only cheaper
    neighbours, takes less than half the time of a branch. Unsigned indices avoid a check for
    negative ones.
    """
    costs = np.where(passable, NEVER, BARRED)
    costs[start] = 0
    buckets = np.empty((8, 1024), np.int32)
    buckets[0, 0] = start
    filled = np.zeros(8, np.int64)
    filled[0] = 1
    one, row = np.uint64(1), np.uint64(width)
    cost = np.int32(0)
    empty = 0
    while empty < 8:  # noqa: PLR2004, a whole ring
        ring, straight, diagonal = cost & 7, (cost + STRAIGHT) & 7, (cost + DIAGONAL) & 7
        most = max(filled[straight], filled[diagonal]) + 4 * filled[ring] + 1
        if most > buckets.shape[1]:
            larger = np.empty((8, 2 * most), np.int32)
            larger[:, : buckets.shape[1]] = buckets
            buckets = larger
        straight_bucket, diagonal_bucket = buckets[straight], buckets[diagonal]
        sides, corners = np.uint64(filled[straight]), np.uint64(filled[diagonal])
        straight_cost, diagonal_cost = np.int32(cost + STRAIGHT), np.int32(cost + DIAGONAL)
        empty = 0 if filled[ring] else empty + 1
        for index in range(np.uint64(filled[ring])):
            cell = np.uint64(buckets[ring, index])
            if costs[cell] != cost:
                continue
            up, down, right, left = cell + row, cell - row, cell + one, cell - one
            # Only barred cells have a sign bit.
            above, below, east, west = costs[up], costs[down], costs[right], costs[left]
            sides = _offer(costs, up, straight_cost, straight_bucket, sides)
            sides = _offer(costs, down, straight_cost, straight_bucket, sides)
            sides = _offer(costs, right, straight_cost, straight_bucket, sides)
            sides = _offer(costs, left, straight_cost, straight_bucket, sides)
            for along, over in ((up, above), (down, below)):
                price = diagonal_cost if (over | east) >= 0 else NEVER
                corners = _offer(costs, along + one, price, diagonal_bucket, corners)
                price = diagonal_cost if (over | west) >= 0 else NEVER
                corners = _offer(costs, along - one, price, diagonal_bucket, corners)
        filled[straight], filled[diagonal] = sides, corners
        filled[ring] = 0
        cost += np.int32(1)
    return costs


@njit(cache=True, nogil=True)
def _descend(field: DistanceField, passable: Mask, row: int, col: int) -> Cells:
    """Return the cells of a shortest path from the field's start to a cell, (n, 2) int32."""
    rows, cols = field.shape
    path = np.empty((field[row, col] // STRAIGHT + 1, 2), np.int32)
    used = 0
    path[0] = row, col
    while field[row, col] > 0:
        found = False
        for row_step in range(-1, 2):
            for col_step in range(-1, 2):
                to_row, to_col = row + row_step, col + col_step
                if found or not (0 <= to_row < rows and 0 <= to_col < cols):
                    continue
                step = STRAIGHT
                if row_step != 0 and col_step != 0:
                    if not (passable[row, to_col] and passable[to_row, col]):
                        continue
                    step = DIAGONAL
                if field[to_row, to_col] == field[row, col] - step:
                    found = True
                    next_row, next_col = to_row, to_col
        row, col = next_row, next_col
        used += 1
        path[used] = row, col
    return path[: used + 1][::-1].copy()


@njit(cache=True, nogil=True)
def _shorten(cells: Cells, passable: Mask, row: float, col: float) -> Cells:
    """Drop every cell that a clear straight line can skip, beginning at the start of the path."""
    waypoints = np.empty_like(cells)
    used = 0
    last = cells.shape[0] - 1
    at = 0
    while at < last:
        reach = at + 1
        while reach < last:
            far_row, far_col = cells[reach + 1, 0] + 0.5, cells[reach + 1, 1] + 0.5
            if clear_length_cells(passable, row, col, far_row, far_col) != np.inf:
                break
            reach += 1
        waypoints[used] = cells[reach]
        used += 1
        row, col = cells[reach, 0] + 0.5, cells[reach, 1] + 0.5
        at = reach
    return waypoints[:used].copy()
