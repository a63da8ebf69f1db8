"""A map made ready for being compared with another: its walls, their faces, its free ground."""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.grid import FREE, OCCUPIED, Grid, GridFrame, Mask
from app.exploration.planning.paths import clearance
from app.exploration.se2 import Points

_INNER = 0.3  # metres from every wall at which ground is free beyond doubt
_THIN = 0.1  # metres between points of the ground
_FACING = 0.15  # metres over which it is felt to which side of a wall the ground is free

Metres = npt.NDArray[np.float32]
"""(rows, cols) float32 metres."""


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """A map cut to what is known.

    Attributes:
        frame: where it lies.
        grid: (rows, cols) int8 occupancy.
        walls: (n, 2) metres, occupied cells beside free ground.
        facing: (n, 2) unit vectors, to which side of each the ground is free.
        wall_m: metres of wall that each of them stands for.
        nearest: (rows, cols) int32, index of the wall that lies nearest, give or take a little.
        ground: (m, 2) metres, free ground away from walls, thinned.
        free: (rows, cols) bool.
        away: metres to the nearest wall.
        depth: metres to the nearest cell that is not free.
        slope: (rows, cols, 2) float32, the direction in which free ground grows.
    """

    frame: GridFrame
    grid: Grid
    walls: Points
    facing: Points
    wall_m: float
    nearest: npt.NDArray[np.int32]
    ground: Points
    free: Mask
    away: Metres
    depth: Metres
    slope: npt.NDArray[np.float32]

    @property
    def ground_m2(self) -> float:
        """Square metres of free ground."""
        return int(np.count_nonzero(self.free)) * self.frame.resolution**2


def sheet(grid: Grid, frame: GridFrame) -> Sheet | None:
    """Cut a map to what is known, and measure what is needed of it; None if it shows no wall."""
    known = grid >= 0
    if not known.any():
        return None
    rows, cols = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    grid = grid[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    resolution = frame.resolution
    cut = GridFrame(
        grid.shape[0],
        grid.shape[1],
        resolution,
        frame.origin_x + int(cols[0]) * resolution,
        frame.origin_y + int(rows[0]) * resolution,
    )
    free, occupied = grid == FREE, grid == OCCUPIED
    # A wall counts where it borders free ground: a return that strayed behind it says nothing.
    beside = cv2.dilate(free.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    walls = occupied & beside
    if not walls.any():
        return None
    away = cv2.distanceTransform(
        (~occupied).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ) * np.float32(resolution)
    step = max(1, round(_THIN / resolution))
    thin = np.zeros_like(free)
    thin[::step, ::step] = True
    soft = cv2.GaussianBlur(free.astype(np.float32), (0, 0), _FACING / resolution)
    slope = np.dstack([cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)])
    facing = slope[walls].astype(np.float64)
    facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
    _, labels = cv2.distanceTransformWithLabels(
        (~walls).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    wall_of = np.zeros(int(labels.max()) + 1, np.int32)
    wall_of[labels[walls]] = np.arange(np.count_nonzero(walls))
    return Sheet(
        cut,
        grid,
        points_of(cut, walls),
        facing,
        resolution,
        wall_of[labels],
        points_of(cut, free & thin & (away > _INNER)),
        free,
        np.ascontiguousarray(away, np.float32),
        clearance(~free, resolution),
        np.ascontiguousarray(slope),
    )


def points_of(frame: GridFrame, mask: Mask) -> Points:
    """Return the centres of cells, (n, 2) metres."""
    rows, cols = np.nonzero(mask)
    return np.column_stack(
        [
            frame.origin_x + (cols + 0.5) * frame.resolution,
            frame.origin_y + (rows + 0.5) * frame.resolution,
        ]
    )


def in_cells(frame: GridFrame, points: Points) -> Points:
    """Return points as continuous column and row."""
    return cast("Points", (points - np.array([frame.origin_x, frame.origin_y])) / frame.resolution)
