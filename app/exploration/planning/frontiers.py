"""Frontiers: known free cells beside unknown ones, in pieces that a robot can be sent to.

After Yamauchi, "A Frontier-Based Approach for Autonomous Exploration" (CIRA 1997). Cells are
(n, 2) int32 of row and column, in row-major order wherever they come from here.
"""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from app.exploration.grid import FREE, UNKNOWN, Grid, Mask
from app.exploration.planning.paths import Cells


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """One piece of the border to the unknown.

    Attributes:
        cells: (n, 2) int32, row and column.
    """

    cells: Cells

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def centroid(self) -> tuple[float, float]:
        """Mean row and column."""
        row, col = self.cells.mean(axis=0)
        return float(row), float(col)


def frontier_cells(grid: Grid) -> Mask:
    """Find the free cells that share a side with an unknown one.

    Args:
        grid: (rows, cols) int8 occupancy.

    Returns:
        (rows, cols) bool.
    """
    unknown = (grid == UNKNOWN).astype(np.uint8)
    beside = cv2.dilate(unknown, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return cast("Mask", (grid == FREE) & (beside > 0))


def cluster(mask: Mask, *, least: int, longest: int) -> list[Frontier]:
    """Group cells that touch, by side or corner, and halve what is too long for one robot.

    Args:
        mask: (rows, cols) bool.
        least: groups of fewer cells are left out.
        longest: cells; a group whose bounding box is longer is halved at its middle, repeatedly.

    Returns:
        Frontiers in the order of their first cell.
    """
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    cells = np.argwhere(mask).astype(np.int32)
    label = labels[mask]
    enough = (np.bincount(label) >= least)[label]
    cells, label = cells[enough], label[enough]
    if not len(cells):
        return []
    order = np.argsort(label, kind="stable")
    cells = cells[order]
    borders = np.flatnonzero(np.diff(label[order])) + 1
    starts = np.concatenate([[0], borders])
    spans = np.maximum.reduceat(cells, starts) - np.minimum.reduceat(cells, starts)
    pieces: list[Cells] = []
    for group, span in zip(np.split(cells, borders), spans.max(axis=1), strict=True):
        if span < longest:
            pieces.append(group)
        else:
            _halve(group, longest, pieces)
    return [Frontier(piece) for piece in pieces]


def _halve(cells: Cells, longest: int, pieces: list[Cells]) -> None:
    """Append a group, cut across its longer side until no piece is longer than allowed."""
    low, high = cells.min(axis=0), cells.max(axis=0)
    axis = int(np.argmax(high - low))
    if high[axis] - low[axis] < longest:
        pieces.append(cells)
        return
    first = cells[:, axis] <= (low[axis] + high[axis]) // 2
    _halve(cells[first], longest, pieces)
    _halve(cells[~first], longest, pieces)
