"""Frontiers: known free cells next to unknown ones, clustered into goals for robots.

After Yamauchi, "A Frontier-Based Approach for Autonomous Exploration" (CIRA 1997). Cells are
(n, 2) int32 of row and column, in row-major order within each frontier.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from app.exploration.driver import Point
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Cells, Grid, GridFrame, Mask
from app.exploration.lidar import beam_angles, mark_visible

_BEAMS = 360


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """One connected piece of the boundary between free and unknown cells.

    Attributes:
        cells: (n, 2) int32, row and column.
    """

    cells: Cells

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def extent(self) -> int:
        """Cells along the longer side of its bounding box."""
        return int((self.cells.max(axis=0) - self.cells.min(axis=0)).max()) + 1


def frontier_cells(grid: Grid) -> Mask:
    """Find the free cells that share a side with an unknown cell.

    Args:
        grid: (rows, cols) int8 occupancy.

    Returns:
        (rows, cols) bool.
    """
    unknown = (grid == UNKNOWN).astype(np.uint8)
    near_unknown = cv2.dilate(unknown, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return cast("Mask", (grid == FREE) & (near_unknown > 0))


def cluster_frontiers(mask: Mask, *, min_cells: int, max_extent: int) -> list[Frontier]:
    """Cluster cells that touch by side or corner, and halve clusters too long for one robot.

    Args:
        mask: (rows, cols) bool, the frontier cells.
        min_cells: smaller clusters are left out.
        max_extent: cells; a cluster with a longer bounding box is halved, repeatedly.

    Returns:
        Frontiers in the order of their first cell.
    """
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    cells = np.argwhere(mask).astype(np.int32)
    label = labels[mask]
    enough = (np.bincount(label) >= min_cells)[label]
    cells, label = cells[enough], label[enough]
    if not len(cells):
        return []
    order = np.argsort(label, kind="stable")
    cells = cells[order]
    splits = np.flatnonzero(np.diff(label[order])) + 1
    starts = np.concatenate([[0], splits])
    extents = np.maximum.reduceat(cells, starts) - np.minimum.reduceat(cells, starts)
    parts: list[Cells] = []
    for cluster, extent in zip(np.split(cells, splits), extents.max(axis=1), strict=True):
        if extent < max_extent:
            parts.append(cluster)
        else:
            _halve(cluster, max_extent, parts)
    return [Frontier(part) for part in parts]


def _halve(cells: Cells, max_extent: int, parts: list[Cells]) -> None:
    """Append a cluster, cut across its longer side until no part is too long."""
    low, high = cells.min(axis=0), cells.max(axis=0)
    axis = int(np.argmax(high - low))
    if high[axis] - low[axis] < max_extent:
        parts.append(cells)
        return
    first = cells[:, axis] <= (low[axis] + high[axis]) // 2
    _halve(cells[first], max_extent, parts)
    _halve(cells[~first], max_extent, parts)


def coverage_in_sight(
    grid: Grid, frame: GridFrame, frontiers_left: Sequence[Point], range_m: float
) -> float:
    """Return the known area as a share of itself and the unknown area in sight of its frontiers.

    What no frontier has in sight cannot be counted, so that the share is an upper limit of the
    true coverage.
    """
    known = int(np.count_nonzero(grid != UNKNOWN))
    frontiers = [frame.cell(*point) for point in frontiers_left]
    if not known or not frontiers:
        return float(known > 0)
    seen = mark_visible(
        grid == OCCUPIED,
        np.array(frontiers, np.int64),
        beam_angles(_BEAMS),
        range_m / frame.resolution,
    )
    return known / (known + int(np.count_nonzero(seen & (grid == UNKNOWN))))
