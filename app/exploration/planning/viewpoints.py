"""Lookouts: the places from which something unknown beside a frontier is in sight.

They depend on the map alone, and not on who looks: they are found once for all robots, and stay
as they are for each frontier cell until the map changes within its reach.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import OCCUPIED, UNKNOWN, Grid, Mask
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.paths import UNREACHED, Cell, Cells, Field, _clear_length

_Indices = npt.NDArray[np.int64]
_Places = npt.NDArray[np.int32]
_NEWLY_SHOWN = 1  # no occupancy: what was not in the view before differs from all that may be


@dataclass(frozen=True, slots=True, eq=False)
class Lookouts:
    """From where frontiers can be looked at.

    Attributes:
        owner: (cells,) int64, the frontier that a cell is of.
        starts: (cells + 1,) int64, where in `places` each cell's begin.
        places: (n,) int32, flat indices of cells; those of one frontier cell in their order.
        anywhere: (m,) int32, the same, each once.
        count: how many frontiers.
    """

    owner: _Indices
    starts: _Indices
    places: _Places
    anywhere: _Places
    count: int

    def cheapest(self, field: Field) -> tuple[npt.NDArray[np.int32], Cells]:
        """Find the place of each frontier that costs a robot least.

        Args:
            field: (rows, cols) int32 way costs of the robot.

        Returns:
            (frontiers,) int32 way cost, UNREACHED without place, and (frontiers, 2) int32 cells;
            of equals the first place of the first cell.
        """
        costs, chosen = _cheapest(field.ravel(), self.owner, self.starts, self.places, self.count)
        return costs, np.column_stack(np.divmod(chosen, np.int32(field.shape[1])))


class LookoutMemory:
    """What was found for the frontiers that were asked for last.

    Args:
        reach: cells, how close to the frontier's cell the look must be.
        stride: only every so many cells is asked, in both directions.
    """

    def __init__(self, *, reach: int, stride: int) -> None:
        self._reach = reach
        self._stride = stride
        self._corner = (0, 0)
        self._grid: Grid = np.zeros((0, 0), np.int8)
        self._frontiers: Sequence[Frontier] = ()
        self._cells: Cells = np.zeros((0, 2), np.int32)
        none, nowhere = np.zeros(0, np.int64), np.zeros(0, np.int32)
        self._found = Lookouts(none, np.zeros(1, np.int64), nowhere, nowhere, 0)
        self._finding = threading.Lock()

    def find(self, grid: Grid, corner: Cell, frontiers: Sequence[Frontier]) -> Lookouts:
        """Find all lookouts; several threads may ask for the same.

        What must be in sight is an unknown cell beside one of the frontier's; a place that sees
        the frontier alone teaches nothing.

        Args:
            grid: (rows, cols) int8 occupancy; sight passes all but occupied cells.
            corner: where the grid's first cell lies in a frame that stays.
            frontiers: what to look at, at least one; no cell is of two.
        """
        with self._finding:
            if grid is self._grid and frontiers is self._frontiers:
                return self._found
            cells = np.concatenate([frontier.cells for frontier in frontiers])
            self._move(grid, corner)
            kept, found = self._kept(grid, cells), self._found
            if not np.array_equal(kept, np.arange(len(self._cells))):
                starts, places = _find(
                    *(grid, grid != OCCUPIED, cells, kept),
                    *(found.starts, found.places, self._reach, self._stride),
                )
                seeing = np.zeros(grid.size, np.bool_)
                seeing[places] = True
                anywhere = np.flatnonzero(seeing).astype(np.int32)
                found = replace(found, starts=starts, places=places, anywhere=anywhere)
            owner = np.repeat(np.arange(len(frontiers)), [frontier.size for frontier in frontiers])
            self._found = replace(found, owner=owner, count=len(frontiers))
            self._grid, self._cells, self._frontiers = grid, cells, frontiers
            return self._found

    def _move(self, grid: Grid, corner: Cell) -> None:
        """Bring what is remembered to a view that may have grown; of a smaller one forget it."""
        row, col = self._corner[0] - corner[0], self._corner[1] - corner[1]
        rows, cols = self._grid.shape
        self._corner = corner
        if row == col == 0 and self._grid.shape == grid.shape:
            return
        before = np.full(grid.shape, _NEWLY_SHOWN, np.int8)
        if min(row, col) < 0 or row + rows > grid.shape[0] or col + cols > grid.shape[1]:
            self._grid, self._cells = before, self._cells[:0]
            return
        before[row : row + rows, col : col + cols] = self._grid
        self._grid = before
        self._cells = self._cells + np.array((row, col), np.int32)

        def moved(places: _Places) -> _Places:
            at_row, at_col = np.divmod(places, max(cols, 1))
            return np.asarray((at_row + row) * grid.shape[1] + at_col + col, np.int32)

        found = self._found
        self._found = replace(found, places=moved(found.places), anywhere=moved(found.anywhere))

    def _kept(self, grid: Grid, cells: Cells) -> _Indices:
        """Return where among the remembered cells each one is whose lookouts still hold, or -1."""
        where = np.full(grid.shape, -1, np.int64)
        where[self._cells[:, 0], self._cells[:, 1]] = np.arange(len(self._cells))
        kept = where[cells[:, 0], cells[:, 1]]
        changed = grid != self._grid
        if not changed.any():
            return kept
        # The unknown cell that is looked at lies one beyond.
        low = np.maximum(cells - self._reach - 1, 0)
        high = np.minimum(cells + self._reach + 2, grid.shape)
        upto = cv2.integral(changed.view(np.uint8))
        changes = (
            upto[high[:, 0], high[:, 1]]
            - upto[low[:, 0], high[:, 1]]
            - upto[high[:, 0], low[:, 1]]
            + upto[low[:, 0], low[:, 1]]
        )
        return np.where(changes == 0, kept, -1)


@njit(cache=True, nogil=True)
def _find(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    grid: Grid,
    open_air: Mask,
    cells: Cells,
    kept: _Indices,
    old_starts: _Indices,
    old_places: _Places,
    reach: int,
    stride: int,
) -> tuple[_Indices, _Places]:
    """`LookoutMemory.find`: the lookouts of each cell, kept ones copied, others sought."""
    rows, cols = grid.shape
    across = 2 * reach // stride + 1
    starts = np.zeros(cells.shape[0] + 1, np.int64)
    places = np.empty(max(old_places.size + old_places.size // 4, across * across), np.int32)
    used = 0
    for index in range(cells.shape[0]):
        first, last = 0, across * across
        if kept[index] >= 0:
            first, last = old_starts[kept[index]], old_starts[kept[index] + 1]
        while used + last - first > places.size:
            larger = np.empty(2 * places.size, np.int32)
            larger[:used] = places[:used]
            places = larger
        if kept[index] >= 0:
            places[used : used + last - first] = old_places[first:last]
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
                    if _sees_unknown(grid, open_air, at_row, at_col, row, col):
                        places[used] = at_row * cols + at_col
                        used += 1
        starts[index + 1] = used
    return starts, places[:used]


@njit(cache=True, nogil=True)
def _sees_unknown(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    grid: Grid, open_air: Mask, at_row: int, at_col: int, row: int, col: int
) -> bool:
    """Tell whether an unknown cell beside the second cell is in sight of the first."""
    rows, cols = grid.shape
    for row_step, col_step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        to_row, to_col = row + row_step, col + col_step
        if (
            0 <= to_row < rows
            and 0 <= to_col < cols
            and grid[to_row, to_col] == UNKNOWN
            and _clear_length(open_air, at_row + 0.5, at_col + 0.5, to_row + 0.5, to_col + 0.5)
            == np.inf
        ):
            return True
    return False


@njit(cache=True, nogil=True)
def _cheapest(
    costs: npt.NDArray[np.int32], owner: _Indices, starts: _Indices, places: _Places, count: int
) -> tuple[npt.NDArray[np.int32], _Places]:
    """`Lookouts.cheapest`, of flat costs; flat places, 0 where there is none."""
    best = np.full(count, UNREACHED, np.int32)
    chosen = np.zeros(count, np.int32)
    for index in range(owner.size):
        frontier = owner[index]
        for at in range(starts[index], starts[index + 1]):
            cost = costs[places[at]]
            if cost < best[frontier]:
                best[frontier] = cost
                chosen[frontier] = places[at]
    return best, chosen
