"""Reachability of cells without path costs.

Most frontiers that remain at the end of an exploration are out of reach. Connected components,
which all robots share, are enough to find that out; no distance field is needed.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Cell, Mask

Components = npt.NDArray[np.int32]
"""The connected component of each cell, (rows, cols) int32, 0 for none."""


@dataclass(frozen=True, slots=True, eq=False)
class ReachableRegion:
    """The cells that one robot can get to.

    Attributes:
        components: connected components of the cells that are passable to all robots.
        reached: (components + 1,) bool, those that the robot can get to.
        row0: first row of the robot's surroundings.
        col0: first column of the robot's surroundings.
        near: (rows, cols) bool, the cells of its surroundings that it can get to.
    """

    components: Components
    reached: Mask
    row0: int
    col0: int
    near: Mask

    @property
    def mask(self) -> Mask:
        """The cells that the robot can get to, (rows, cols) bool."""
        mask: Mask = self.reached[self.components]
        rows, cols = self.near.shape
        mask[self.row0 : self.row0 + rows, self.col0 : self.col0 + cols] |= self.near
        return mask


def connected_components(passable: Mask) -> Components:
    """Label the connected components of cells; as paths cut no corner, corners do not connect."""
    _, labels = cv2.connectedComponents(passable.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    return np.asarray(labels, np.int32)


def reachable_region(
    passable: Mask, components: Components, robot: Cell, *, near: int
) -> ReachableRegion:
    """Find the cells that a robot can get to.

    Args:
        passable: (rows, cols) bool, for this robot; its own cell counts as passable.
        components: connected components of a mask that equals `passable` beyond `near`.
        robot: the robot's cell.
        near: cells along either axis.
    """
    # One cell more on each side, where the surroundings meet the cells that all robots share.
    row0, col0 = max(robot[0] - near - 1, 0), max(robot[1] - near - 1, 0)
    around = (slice(row0, robot[0] + near + 2), slice(col0, robot[1] + near + 2))
    reached = np.zeros(int(components.max()) + 1, np.bool_)
    filled = _flood_fill(
        passable[around], components[around], robot[0] - row0, robot[1] - col0, reached
    )
    return ReachableRegion(components, reached, row0, col0, filled)


@njit(cache=True, nogil=True)
def _flood_fill(passable: Mask, components: Components, row: int, col: int, reached: Mask) -> Mask:
    """Return the cells that are reachable from one cell, and mark the components reached.

    A component that is reached at one cell is reached at all its cells.
    """
    rows, cols = passable.shape
    inside = np.zeros((rows, cols), np.bool_)
    inside[row, col] = True
    reached[components[row, col]] = components[row, col] > 0
    grown = True
    while grown:
        grown = False
        for at_row in range(rows):
            for at_col in range(cols):
                if inside[at_row, at_col] or not passable[at_row, at_col]:
                    continue
                component = components[at_row, at_col]
                if (
                    reached[component]
                    or (at_row > 0 and inside[at_row - 1, at_col])
                    or (at_row + 1 < rows and inside[at_row + 1, at_col])
                    or (at_col > 0 and inside[at_row, at_col - 1])
                    or (at_col + 1 < cols and inside[at_row, at_col + 1])
                ):
                    inside[at_row, at_col] = True
                    reached[component] = component > 0
                    grown = True
    return inside
