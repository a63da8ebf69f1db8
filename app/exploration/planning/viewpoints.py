"""Viewpoints: the cells from which something unknown at a frontier is in line of sight.

They are the candidates of a next best view. They depend only on the map, not on the robot: they
are found once for all robots, and stay valid for a frontier cell until the map changes within its
reach.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.clearance import clear_length_cells, is_near
from app.exploration.grid import OCCUPIED, UNKNOWN, Cell, Cells, Grid, Mask
from app.exploration.planning.frontiers import Frontier
from app.exploration.shortest_paths import UNREACHED, DistanceField

_Indices = npt.NDArray[np.int64]
_FlatCells = npt.NDArray[np.int32]
_OUTSIDE = 1  # no occupancy value: cells outside the last map differ from any value


@dataclass(frozen=True, slots=True, eq=False)
class Viewpoints:
    """The viewpoints of frontiers.

    Attributes:
        owner: (cells,) int64, the index of each frontier cell's frontier.
        starts: (cells + 1,) int64, where the viewpoints of each frontier cell start in `flat`.
        flat: (n,) int32, flat cell indices of the viewpoints, in order of the frontier cells.
        distinct: (m,) int32, the same, each once.
        count: number of frontiers.
    """

    owner: _Indices
    starts: _Indices
    flat: _FlatCells
    distinct: _FlatCells
    count: int

    def cheapest(self, field: DistanceField) -> tuple[npt.NDArray[np.int32], Cells]:
        """Find the viewpoint of each frontier with the lowest path cost.

        Args:
            field: (rows, cols) int32 path costs of the robot.

        Returns:
            (frontiers,) int32 path costs, UNREACHED without a viewpoint, and (frontiers, 2) int32
            cells; of equal costs, the first viewpoint of the first cell.
        """
        costs, chosen = _cheapest(field.ravel(), self.owner, self.starts, self.flat, self.count)
        return costs, np.column_stack(np.divmod(chosen, np.int32(field.shape[1])))


class ViewpointCache:
    """The viewpoints of the last frontiers.

    Args:
        reach: cells, maximum distance from a viewpoint to its frontier cell.
        stride: spacing of the candidate cells in both directions.
    """

    def __init__(self, *, reach: int, stride: int) -> None:
        self._reach = reach
        self._stride = stride
        self._corner = (0, 0)
        self._grid: Grid = np.zeros((0, 0), np.int8)
        self._frontiers: Sequence[Frontier] = ()
        self._cells: Cells = np.zeros((0, 2), np.int32)
        no_indices, no_cells = np.zeros(0, np.int64), np.zeros(0, np.int32)
        self._found = Viewpoints(no_indices, np.zeros(1, np.int64), no_cells, no_cells, 0)
        self._lock = threading.Lock()

    def find(self, grid: Grid, corner: Cell, frontiers: Sequence[Frontier]) -> Viewpoints:
        """Find the viewpoints of frontiers; safe to call from several threads.

        A viewpoint must see an unknown cell next to the frontier cell: seeing only the frontier
        cell reveals nothing.

        Args:
            grid: (rows, cols) int8 occupancy; only occupied cells block the line of sight.
            corner: the grid's first cell in a frame that does not change.
            frontiers: the frontiers, at least one, without common cells.
        """
        with self._lock:
            if grid is self._grid and frontiers is self._frontiers:
                return self._found
            cells = np.concatenate([frontier.cells for frontier in frontiers])
            self._shift_to(grid, corner)
            unchanged, found = self._unchanged(grid, cells), self._found
            if not np.array_equal(unchanged, np.arange(len(self._cells))):
                starts, flat = _find(
                    *(grid, grid != OCCUPIED, cells, unchanged),
                    *(found.starts, found.flat, self._reach, self._stride),
                )
                is_viewpoint = np.zeros(grid.size, np.bool_)
                is_viewpoint[flat] = True
                distinct = np.flatnonzero(is_viewpoint).astype(np.int32)
                found = replace(found, starts=starts, flat=flat, distinct=distinct)
            owner = np.repeat(np.arange(len(frontiers)), [frontier.size for frontier in frontiers])
            self._found = replace(found, owner=owner, count=len(frontiers))
            self._grid, self._cells, self._frontiers = grid, cells, frontiers
            return self._found

    def _shift_to(self, grid: Grid, corner: Cell) -> None:
        """Shift the cache to a map that may have grown; drop it if the map shrank."""
        row, col = self._corner[0] - corner[0], self._corner[1] - corner[1]
        rows, cols = self._grid.shape
        self._corner = corner
        if row == col == 0 and self._grid.shape == grid.shape:
            return
        before = np.full(grid.shape, _OUTSIDE, np.int8)
        if min(row, col) < 0 or row + rows > grid.shape[0] or col + cols > grid.shape[1]:
            self._grid, self._cells = before, self._cells[:0]
            return
        before[row : row + rows, col : col + cols] = self._grid
        self._grid = before
        self._cells = self._cells + np.array((row, col), np.int32)

        def shifted(flat: _FlatCells) -> _FlatCells:
            at_row, at_col = np.divmod(flat, max(cols, 1))
            return np.asarray((at_row + row) * grid.shape[1] + at_col + col, np.int32)

        found = self._found
        self._found = replace(found, flat=shifted(found.flat), distinct=shifted(found.distinct))

    def _unchanged(self, grid: Grid, cells: Cells) -> _Indices:
        """Return the cached index of each cell whose viewpoints still hold, -1 for the others."""
        where = np.full(grid.shape, -1, np.int64)
        where[self._cells[:, 0], self._cells[:, 1]] = np.arange(len(self._cells))
        cached = where[cells[:, 0], cells[:, 1]]
        changed = grid != self._grid
        if not changed.any():
            return cached
        # One cell beyond the reach lies the unknown cell that must be in sight.
        return np.where(is_near(changed, cells, self._reach + 1), -1, cached)


@njit(cache=True, nogil=True)
def _find(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    grid: Grid,
    see_through_mask: Mask,
    cells: Cells,
    unchanged: _Indices,
    old_starts: _Indices,
    old_flat: _FlatCells,
    reach: int,
    stride: int,
) -> tuple[_Indices, _FlatCells]:
    """Find the viewpoints of each cell: copy those of unchanged cells, search the others."""
    rows, cols = grid.shape
    across = 2 * reach // stride + 1
    starts = np.zeros(cells.shape[0] + 1, np.int64)
    flat = np.empty(max(old_flat.size + old_flat.size // 4, across * across), np.int32)
    used = 0
    for index in range(cells.shape[0]):
        first, last = 0, across * across
        if unchanged[index] >= 0:
            first, last = old_starts[unchanged[index]], old_starts[unchanged[index] + 1]
        while used + last - first > flat.size:
            larger = np.empty(2 * flat.size, np.int32)
            larger[:used] = flat[:used]
            flat = larger
        if unchanged[index] >= 0:
            flat[used : used + last - first] = old_flat[first:last]
            used += last - first
        else:
            row, col = cells[index]
            for row_step in range(-reach, reach + 1, stride):
                for col_step in range(-reach, reach + 1, stride):
                    at_row, at_col = row + row_step, col + col_step
                    if not (0 <= at_row < rows and 0 <= at_col < cols):
                        continue
                    if row_step * row_step + col_step * col_step > reach * reach:
                        continue
                    if _sees_unknown(grid, see_through_mask, at_row, at_col, row, col):
                        flat[used] = at_row * cols + at_col
                        used += 1
        starts[index + 1] = used
    return starts, flat[:used]


@njit(cache=True, nogil=True)
def _sees_unknown(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    grid: Grid, see_through_mask: Mask, at_row: int, at_col: int, row: int, col: int
) -> bool:
    """Return whether an unknown neighbour of the second cell is in sight of the first."""
    rows, cols = grid.shape
    for row_step, col_step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        to_row, to_col = row + row_step, col + col_step
        if (
            0 <= to_row < rows
            and 0 <= to_col < cols
            and grid[to_row, to_col] == UNKNOWN
            and clear_length_cells(
                see_through_mask, at_row + 0.5, at_col + 0.5, to_row + 0.5, to_col + 0.5
            )
            == np.inf
        ):
            return True
    return False


@njit(cache=True, nogil=True)
def _cheapest(
    costs: npt.NDArray[np.int32], owner: _Indices, starts: _Indices, flat: _FlatCells, count: int
) -> tuple[npt.NDArray[np.int32], _FlatCells]:
    """Implement `Viewpoints.cheapest` on flat costs; flat cells, 0 without a viewpoint."""
    best = np.full(count, UNREACHED, np.int32)
    chosen = np.zeros(count, np.int32)
    for index in range(owner.size):
        frontier = owner[index]
        for at in range(starts[index], starts[index + 1]):
            cost = costs[flat[at]]
            if cost < best[frontier]:
                best[frontier] = cost
                chosen[frontier] = flat[at]
    return best, chosen
