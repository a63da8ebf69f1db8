"""Sightings: from which cells a frontier cell can be seen for certain.

A frontier cell counts as seen from a cell if the line to one of its unknown neighbours crosses
known free cells only, and is so short that neighbouring beams of the lidar cannot pass it on both
sides. Such a view cannot fail: the neighbour becomes known. A line through unknown cells, which
`viewpoints` allows, is a guess, and most guesses at the end of an exploration are wrong.

Sightings depend only on the map and on where robots can get to: they stay valid for a frontier
cell until one of these changes within reach.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.clearance import clear_length_cells, is_near
from app.exploration.grid import FREE, UNKNOWN, Cell, Cells, Grid, Mask

Indices = npt.NDArray[np.int64]
_RAYS = 360  # 1 degree apart
_OFFSETS = ((0.5, 0.5), (0.1, 0.5), (0.9, 0.5), (0.5, 0.1), (0.5, 0.9))  # points of a cell


@dataclass(frozen=True, slots=True, eq=False)
class Sightings:
    """Which frontier cells are seen from which cells.

    Attributes:
        targets: (n, 2) int32, the frontier cells.
        poses: (m, 2) int32, the cells from which any of them is seen, each once.
        target: (k,) int64, for each sighting the index of its frontier cell, ascending.
        pose: (k,) int64, for each sighting the index of its pose.
    """

    targets: Cells
    poses: Cells
    target: Indices
    pose: Indices

    def of(self, chosen: Mask) -> "Sightings":
        """Return the sightings of chosen frontier cells, (n,) bool; indices stay the same."""
        kept = chosen[self.target]
        return Sightings(self.targets, self.poses, self.target[kept], self.pose[kept])


class SightingCache:
    """The sightings of the last frontier cells.

    Args:
        reach: cells, maximum length of a line.
        stride: spacing of the poses in both directions.
    """

    def __init__(self, *, reach: int, stride: int) -> None:
        self._reach = reach
        self._stride = stride
        self._corner = (0, 0)
        self._grid: Grid = np.zeros((0, 0), np.int8)
        self._standing: Mask = np.zeros((0, 0), np.bool_)
        self._poses: dict[int, Indices] = {}

    def find(self, grid: Grid, corner: Cell, targets: Cells, standing: Mask) -> Sightings:
        """Find the cells from which frontier cells can be seen for certain.

        Args:
            grid: (rows, cols) int8 occupancy.
            corner: the grid's first cell in a frame that does not change.
            targets: (n, 2) int32, the frontier cells, each once.
            standing: (rows, cols) bool, cells that a robot can get to.
        """
        self._drop_changed(grid, corner, standing)
        keys = (targets[:, 0].astype(np.int64) * grid.shape[1] + targets[:, 1]).tolist()
        new = [index for index, key in enumerate(keys) if key not in self._poses]
        if new:
            found = find_sightings(
                grid, targets[new], standing, reach=self._reach, stride=self._stride
            )
            flat = (found.poses[:, 0].astype(np.int64) * grid.shape[1] + found.poses[:, 1])[
                found.pose
            ]
            ends = np.searchsorted(found.target, np.arange(1, len(new)))
            for index, poses in zip(new, np.split(flat, ends), strict=True):
                self._poses[keys[index]] = poses
        parts = [self._poses[key] for key in keys]
        target = np.repeat(np.arange(len(parts)), [part.size for part in parts])
        flat = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return _sightings_of(targets, target, flat, grid.shape[1])

    def _drop_changed(self, grid: Grid, corner: Cell, standing: Mask) -> None:
        """Drop the cells within whose reach something changed since the last call."""
        before_grid, before_standing = self._grid, self._standing
        same = corner == self._corner and grid.shape == before_grid.shape
        self._grid, self._standing, self._corner = grid, standing, corner
        if not same:
            # The poses lie on a lattice of the grid: if its corner moves, they move too.
            self._poses.clear()
            return
        changed = (grid != before_grid) | (standing != before_standing)
        if not changed.any():
            return
        keys = np.array(list(self._poses), np.int64)
        cells = np.column_stack(np.divmod(keys, grid.shape[1]))
        # One cell beyond the reach lies the unknown cell that must be in sight.
        for key in keys[is_near(changed, cells, self._reach + 1)].tolist():
            del self._poses[key]


def find_sightings(
    grid: Grid, targets: Cells, standing: Mask, *, reach: int, stride: int
) -> Sightings:
    """Find the cells from which frontier cells can be seen for certain.

    Args:
        grid: (rows, cols) int8 occupancy.
        targets: (n, 2) int32, the frontier cells.
        standing: (rows, cols) bool, cells that a robot can get to.
        reach: cells, maximum length of a line.
        stride: spacing of the poses in both directions. A frontier cell that no such pose sees is
            looked at from all cells.
    """
    free = grid == FREE
    target, flat = _sightings(grid, free, targets, standing, reach, stride)
    missed = np.flatnonzero(np.bincount(target, minlength=len(targets)) == 0)
    if stride > 1 and missed.size:
        fine_target, fine_flat = _narrow_sightings(grid, free, targets[missed], standing, reach)
        target = np.concatenate([target, missed[fine_target]])
        flat = np.concatenate([flat, fine_flat])
        order = np.argsort(target, kind="stable")
        target, flat = target[order], flat[order]
    return _sightings_of(targets, target, flat, grid.shape[1])


def seen_from(grid: Grid, pose: Cell, targets: Cells, *, reach: int) -> Mask:
    """Return which frontier cells are seen for certain from a pose, (n,) bool.

    Args:
        grid: (rows, cols) int8 occupancy.
        pose: row and column.
        targets: (n, 2) int32, the frontier cells.
        reach: cells, maximum length of a line.
    """
    near = np.hypot(*(targets - pose).T) <= reach
    seen: Mask = near & _seen_from(grid, grid == FREE, *pose, targets)
    return seen


@njit(cache=True, nogil=True)
def _seen_from(grid: Grid, free: Mask, row: int, col: int, targets: Cells) -> Mask:
    seen = np.zeros(targets.shape[0], np.bool_)
    for index in range(targets.shape[0]):
        seen[index] = _sees(grid, free, row, col, targets[index, 0], targets[index, 1], 5)
    return seen


def _sightings_of(targets: Cells, target: Indices, flat: Indices, cols: int) -> Sightings:
    """Return sightings from the index of a target and the flat cell of a pose for each."""
    distinct, pose = np.unique(flat, return_inverse=True)
    poses = np.column_stack(np.divmod(distinct, cols)).astype(np.int32)
    return Sightings(targets, poses, target, pose.astype(np.int64))


@njit(cache=True, nogil=True)
def _sightings(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    grid: Grid, free: Mask, targets: Cells, standing: Mask, reach: int, stride: int
) -> tuple[Indices, Indices]:
    """Return the index of a target and the flat cell of a pose for each sighting."""
    rows, cols = grid.shape
    found = np.empty((4096, 2), np.int64)
    used = 0
    for index in range(targets.shape[0]):
        row, col = targets[index]
        first_row = max(row - reach, 0)
        first_col = max(col - reach, 0)
        # Poses lie on one lattice for all targets, so that they can share them.
        first_row += -first_row % stride
        first_col += -first_col % stride
        for at_row in range(first_row, min(row + reach + 1, rows), stride):
            for at_col in range(first_col, min(col + reach + 1, cols), stride):
                if not standing[at_row, at_col]:
                    continue
                if (at_row - row) ** 2 + (at_col - col) ** 2 > reach * reach:
                    continue
                if not _sees(grid, free, at_row, at_col, row, col, 1):
                    continue
                if used == found.shape[0]:
                    found = _with_more_room(found)
                found[used, 0] = index
                found[used, 1] = at_row * cols + at_col
                used += 1
    return found[:used, 0].copy(), found[:used, 1].copy()


@njit(cache=True, nogil=True)
def _narrow_sightings(
    grid: Grid, free: Mask, targets: Cells, standing: Mask, reach: int
) -> tuple[Indices, Indices]:
    """Return the same from all cells, those that a fan of rays from the unknown cells finds.

    What is seen only from a narrow place is mostly enclosed, so that its rays are short.
    """
    rows, cols = grid.shape
    found = np.empty((1024, 2), np.int64)
    used = 0
    looked_at = np.full(grid.shape, -1, np.int32)
    turn = 2.0 * np.pi / _RAYS
    for index in range(targets.shape[0]):
        row, col = targets[index]
        for row_step, col_step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            to_row, to_col = row + row_step, col + col_step
            if not (0 <= to_row < rows and 0 <= to_col < cols and grid[to_row, to_col] == UNKNOWN):
                continue
            for ray in range(5 * _RAYS):
                up, right = np.sin(ray * turn), np.cos(ray * turn)
                row_off, col_off = _OFFSETS[ray // _RAYS]
                for step in range(1, 2 * reach):
                    at_row = int(np.floor(to_row + row_off + 0.5 * step * up))
                    at_col = int(np.floor(to_col + col_off + 0.5 * step * right))
                    if not (0 <= at_row < rows and 0 <= at_col < cols):
                        break
                    if not free[at_row, at_col] and (at_row != to_row or at_col != to_col):
                        break
                    if looked_at[at_row, at_col] == index or not standing[at_row, at_col]:
                        continue
                    looked_at[at_row, at_col] = index
                    if not _sees(grid, free, at_row, at_col, row, col, 5):
                        continue
                    if used == found.shape[0]:
                        found = _with_more_room(found)
                    found[used, 0] = index
                    found[used, 1] = at_row * cols + at_col
                    used += 1
    return found[:used, 0].copy(), found[:used, 1].copy()


@njit(cache=True, nogil=True)
def _with_more_room(found: Indices) -> Indices:
    """Return a copy that is twice as long."""
    larger = np.empty((2 * found.shape[0], 2), np.int64)
    larger[: found.shape[0]] = found
    return larger


@njit(cache=True, nogil=True)
def _sees(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    grid: Grid, free: Mask, at_row: int, at_col: int, row: int, col: int, points: int
) -> bool:
    """Return whether an unknown neighbour of the second cell is in sight across free cells.

    The first of its points that are looked for is its centre.
    """
    rows, cols = grid.shape
    for row_step, col_step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        to_row, to_col = row + row_step, col + col_step
        if not (0 <= to_row < rows and 0 <= to_col < cols and grid[to_row, to_col] == UNKNOWN):
            continue
        # From the unknown cell, which is not checked: most lines are blocked close to it.
        for point in range(points):
            row_off, col_off = _OFFSETS[point]
            clear = clear_length_cells(
                free, to_row + row_off, to_col + col_off, at_row + 0.5, at_col + 0.5
            )
            if clear == np.inf:
                return True
    return False
