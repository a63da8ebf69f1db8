"""Roads over known ground: room around a cell, distance fields, short paths.

The field is Dial's bucketed Dijkstra (Dial 1969, CACM algorithm 360) on eight neighbours with
costs 5 and 7 (Borgefors 1986, chamfer distances); a diagonal step never cuts a corner.
"""

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Mask

STRAIGHT = 5
DIAGONAL = 7
UNREACHED = np.iinfo(np.int32).max
BARRED = np.int32(-1)
NEVER = np.int32(UNREACHED)

Field = npt.NDArray[np.int32]
"""Cost of the way to each cell, (rows, cols) int32: 5 a straight step, UNREACHED without way."""

Clearance = npt.NDArray[np.float32]
"""Metres from each cell's centre to the nearest obstacle cell's centre, (rows, cols) float32."""

Cell = tuple[int, int]
Cells = npt.NDArray[np.int32]
"""Cells as (n, 2) int32 of row and column."""

_CORNER = 1e-9  # cells; nearer than that both sides of a cell are crossed at its corner
_TOUCH = 1e-5  # a cell at exactly the radius touches and does not overlap; float32 needs the slack


def clearance(obstacles: Mask, resolution: float) -> Clearance:
    """Measure the room around every cell; what lies outside the grid is an obstacle.

    Args:
        obstacles: (rows, cols) bool.
        resolution: metres a cell.

    Returns:
        (rows, cols) float32 metres, 0 on obstacles.
    """
    ground = np.pad((~obstacles).astype(np.uint8), 1)
    room = cv2.distanceTransform(ground, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return cast("Clearance", room[1:-1, 1:-1] * np.float32(resolution))


def fits(room: Clearance, radius: float) -> Mask:
    """Tell where a disc of the given radius (metres) stands without covering an obstacle's centre."""
    return room >= radius - _TOUCH


def distance_field(passable: Mask, start: Cell, *, limit: int = UNREACHED) -> Field:
    """Compute the cost of the shortest way from one cell to all others.

    Args:
        passable: (rows, cols) bool; the start counts as passable.
        start: row and column.
        limit: cells of a higher cost stay unreached, give or take a step.

    Returns:
        (rows, cols) int32 costs; times resolution / 5 they are metres.
    """
    field = np.full(passable.shape, UNREACHED, np.int32)
    # No way within the limit leads further.
    far = min(limit // STRAIGHT + 2, max(passable.shape))
    rows = slice(max(start[0] - far, 0), start[0] + far + 1)
    cols = slice(max(start[1] - far, 0), start[1] + far + 1)
    ground = np.pad(passable[rows, cols], 1)
    first = (start[0] - rows.start + 1) * ground.shape[1] + start[1] - cols.start + 1
    costs = _costs(ground.ravel(), ground.shape[1], first, limit).reshape(ground.shape)
    # BARRED without its sign is UNREACHED.
    np.bitwise_and(costs[1:-1, 1:-1], UNREACHED, out=field[rows, cols])
    return field


def path_to(
    field: Field, passable: Mask, position: tuple[float, float], target: Cell
) -> list[Cell]:
    """Follow a field from its start to a reached cell, in the fewest waypoints found greedily.

    Args:
        field: (rows, cols) int32 from `distance_field`.
        passable: the mask that the field was made of.
        position: where the robot really stands in the start cell, continuous row and column.
        target: the cell to reach.

    Returns:
        Waypoint cells without the start, at least one; the straight line to each runs over passable cells.

    Raises:
        ValueError: the target was not reached by the field.
    """
    if field[target] == UNREACHED:
        raise ValueError(f"cell {target} is not reached")
    cells = _descend(field, passable, target[0], target[1])
    corners = _shorten(cells, passable, position[0], position[1])
    return [(int(row), int(col)) for row, col in corners] or [target]


def clear_length(passable: Mask, start: tuple[float, float], end: tuple[float, float]) -> float:
    """Measure how far a straight way runs before it enters a cell that is not passable.

    The cell of the start is not asked. Positions are continuous rows and columns.

    Returns:
        Cells along the way, infinite when the whole of it is clear.
    """
    return float(_clear_length(passable, start[0], start[1], end[0], end[1]))


@njit(cache=True, nogil=True)
def in_sight(open_air: Mask, places: npt.NDArray[np.float64], reach: float) -> Mask:
    """Tell which places see which, (n, n) bool.

    Args:
        open_air: (rows, cols) bool, cells that sight passes.
        places: (n, 2) float64, continuous rows and columns.
        reach: cells; what lies further away is not seen.
    """
    many = places.shape[0]
    sees = np.ones((many, many), np.bool_)
    for one in range(many):
        for two in range(one):
            row, col = places[one]
            to_row, to_col = places[two]
            near = np.hypot(row - to_row, col - to_col) <= reach
            way = _clear_length(open_air, row, col, to_row, to_col) if near else 0.0
            sees[one, two] = sees[two, one] = way == np.inf
    return sees


@njit(cache=True, nogil=True)
def _offer(
    costs: Field, cell: np.uint64, cost: np.int32, bucket: npt.NDArray[np.int32], filled: np.uint64
) -> np.uint64:
    """Lower a cell's cost if it can be, and return how many the bucket holds then."""
    before = costs[cell]
    cheaper = cost < before
    costs[cell] = cost if cheaper else before
    bucket[filled] = cell
    return filled + np.uint64(cheaper)


@njit(cache=True, nogil=True)
def _costs(ground: npt.NDArray[np.bool_], row: int, start: int, limit: int) -> Field:
    """Spread from one cell over flat ground with an impassable rim, its rows of a given length.

    Eight buckets in a ring suffice, for no step costs more than seven. Whether a neighbour gets
    cheaper is as good as random to the processor: what is written regardless, and counted only
    if it does, takes less than half the time. Unsigned indices spare a test for negative ones.
    """
    costs = np.where(ground, NEVER, BARRED)
    costs[start] = 0
    buckets = np.empty((8, 1024), np.int32)
    buckets[0, 0] = start
    filled = np.zeros(8, np.int64)
    filled[0] = 1
    one, width = np.uint64(1), np.uint64(row)
    cost = np.int32(0)
    empty = 0
    while empty < 8 and cost <= limit:  # noqa: PLR2004, a whole ring
        ring, straight, diagonal = cost & 7, (cost + STRAIGHT) & 7, (cost + DIAGONAL) & 7
        most = max(filled[straight], filled[diagonal]) + 4 * filled[ring] + 1
        if most > buckets.shape[1]:
            larger = np.empty((8, 2 * most), np.int32)
            larger[:, : buckets.shape[1]] = buckets
            buckets = larger
        beside, across = buckets[straight], buckets[diagonal]
        sides, corners = np.uint64(filled[straight]), np.uint64(filled[diagonal])
        dearer, dearest = np.int32(cost + STRAIGHT), np.int32(cost + DIAGONAL)
        empty = 0 if filled[ring] else empty + 1
        for index in range(np.uint64(filled[ring])):
            cell = np.uint64(buckets[ring, index])
            if costs[cell] != cost:
                continue
            up, down, right, left = cell + width, cell - width, cell + one, cell - one
            # The sign alone tells a barred cell.
            above, below, east, west = costs[up], costs[down], costs[right], costs[left]
            sides = _offer(costs, up, dearer, beside, sides)
            sides = _offer(costs, down, dearer, beside, sides)
            sides = _offer(costs, right, dearer, beside, sides)
            sides = _offer(costs, left, dearer, beside, sides)
            for along, over in ((up, above), (down, below)):
                price = dearest if (over | east) >= 0 else NEVER
                corners = _offer(costs, along + one, price, across, corners)
                price = dearest if (over | west) >= 0 else NEVER
                corners = _offer(costs, along - one, price, across, corners)
        filled[straight], filled[diagonal] = sides, corners
        filled[ring] = 0
        cost += np.int32(1)
    return costs


@njit(cache=True, nogil=True)
def _descend(field: Field, passable: Mask, row: int, col: int) -> Cells:
    """Return the cells from the field's start to a cell, (n, 2) int32."""
    rows, cols = field.shape
    way = np.empty((field[row, col] // STRAIGHT + 1, 2), np.int32)
    used = 0
    way[0] = row, col
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
        way[used] = row, col
    return way[: used + 1][::-1].copy()


@njit(cache=True, nogil=True)
def _clear_length(
    passable: Mask, start_row: float, start_col: float, end_row: float, end_col: float
) -> float:
    """`clear_length`; the walk is that of the lidar's rays but at corners, which they touch."""
    length = np.hypot(end_row - start_row, end_col - start_col)
    if length == 0.0:
        return np.inf
    at_row, at_col = int(np.floor(start_row)), int(np.floor(start_col))
    row_way = length / abs(end_row - start_row) if end_row != start_row else np.inf
    col_way = length / abs(end_col - start_col) if end_col != start_col else np.inf
    row_step = 1 if end_row > start_row else -1
    col_step = 1 if end_col > start_col else -1
    row_next = col_next = np.inf
    if end_row != start_row:
        row_next = abs(at_row + (row_step > 0) - start_row) * row_way
    if end_col != start_col:
        col_next = abs(at_col + (col_step > 0) - start_col) * col_way
    while True:
        way = min(row_next, col_next)
        if way > length:
            return np.inf
        # A corner is met from both sides, or a way would be open one way and closed the other.
        both = abs(row_next - col_next) <= _CORNER
        if both and not (
            _is_clear(passable, at_row + row_step, at_col)
            and _is_clear(passable, at_row, at_col + col_step)
        ):
            return way
        if both or row_next < col_next:
            row_next += row_way
            at_row += row_step
        if both or col_next <= way:
            col_next += col_way
            at_col += col_step
        if not _is_clear(passable, at_row, at_col):
            return way


@njit(cache=True, nogil=True)
def _is_clear(passable: Mask, row: int, col: int) -> bool:
    """Tell whether a cell is there and passable."""
    rows, cols = passable.shape
    return 0 <= row < rows and 0 <= col < cols and bool(passable[row, col])


@njit(cache=True, nogil=True)
def _shorten(cells: Cells, passable: Mask, row: float, col: float) -> Cells:
    """Drop every waypoint that a straight clear line makes needless, from the front on."""
    corners = np.empty_like(cells)
    used = 0
    last = cells.shape[0] - 1
    at = 0
    while at < last:
        reach = at + 1
        while reach < last:
            far_row, far_col = cells[reach + 1, 0] + 0.5, cells[reach + 1, 1] + 0.5
            if _clear_length(passable, row, col, far_row, far_col) != np.inf:
                break
            reach += 1
        corners[used] = cells[reach]
        used += 1
        row, col = cells[reach, 0] + 0.5, cells[reach, 1] + 0.5
        at = reach
    return corners[:used].copy()
