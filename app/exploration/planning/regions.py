"""Regions: where a robot can get to, without what it costs.

Most of what is left at the end of an exploration nobody can get to; telling so takes no field.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Mask
from app.exploration.planning.paths import Cell

Pieces = npt.NDArray[np.int32]
"""The connected piece of ground that a cell is of, (rows, cols) int32, 0 for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where one robot can get to.

    Attributes:
        pieces: of the ground that all robots share.
        reached: (pieces + 1,) bool, those that the robot gets to.
        row0: the first row of its surroundings.
        col0: their first column.
        near: (rows, cols) bool, the cells of its surroundings that it gets to.
    """

    pieces: Pieces
    reached: Mask
    row0: int
    col0: int
    near: Mask

    def holds_any(self, cells: npt.NDArray[np.int32]) -> bool:
        """Tell whether the robot gets to any of some cells, (n,) int32 flat indices."""
        return bool(_holds_any(self.pieces, self.reached, self.row0, self.col0, self.near, cells))


def pieces_of(ground: Mask) -> Pieces:
    """Number the connected pieces of the ground; as no corner is cut, corners do not connect."""
    _, pieces = cv2.connectedComponents(ground.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    return np.asarray(pieces, np.int32)


def region(passable: Mask, pieces: Pieces, robot: Cell, *, near: int) -> Region:
    """Find where a robot can get to.

    Args:
        passable: (rows, cols) bool, for this robot; its own cell counts as passable.
        pieces: of ground that differs from that by no cell further away than `near`.
        robot: its cell.
        near: cells, along either axis.
    """
    # One more on each side, where the surroundings meet the ground that all share.
    row0, col0 = max(robot[0] - near - 1, 0), max(robot[1] - near - 1, 0)
    place = (slice(row0, robot[0] + near + 2), slice(col0, robot[1] + near + 2))
    reached = np.zeros(int(pieces.max()) + 1, np.bool_)
    around = _flood(passable[place], pieces[place], robot[0] - row0, robot[1] - col0, reached)
    return Region(pieces, reached, row0, col0, around)


@njit(cache=True, nogil=True)
def _flood(passable: Mask, pieces: Pieces, row: int, col: int, reached: Mask) -> Mask:
    """Return the cells that are got to from one of them, and mark the pieces that are.

    A piece that is got to anywhere is got to wherever it comes in.
    """
    rows, cols = passable.shape
    inside = np.zeros((rows, cols), np.bool_)
    inside[row, col] = True
    reached[pieces[row, col]] = pieces[row, col] > 0
    more = True
    while more:
        more = False
        for at_row in range(rows):
            for at_col in range(cols):
                if inside[at_row, at_col] or not passable[at_row, at_col]:
                    continue
                piece = pieces[at_row, at_col]
                if (
                    reached[piece]
                    or (at_row > 0 and inside[at_row - 1, at_col])
                    or (at_row + 1 < rows and inside[at_row + 1, at_col])
                    or (at_col > 0 and inside[at_row, at_col - 1])
                    or (at_col + 1 < cols and inside[at_row, at_col + 1])
                ):
                    inside[at_row, at_col] = True
                    reached[piece] = piece > 0
                    more = True
    return inside


@njit(cache=True, nogil=True)
def _holds_any(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    pieces: Pieces,
    reached: Mask,
    row0: int,
    col0: int,
    near: Mask,
    cells: npt.NDArray[np.int32],
) -> bool:
    """`Region.holds_any`."""
    width = pieces.shape[1]
    rows, cols = near.shape
    flat = pieces.ravel()
    for cell in cells:
        if reached[flat[cell]]:
            return True
        if row0 * width <= cell < (row0 + rows) * width:
            row, col = cell // width - row0, cell % width - col0
            if 0 <= col < cols and near[row, col]:
                return True
    return False
