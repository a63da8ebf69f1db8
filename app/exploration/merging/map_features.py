"""The features of a map that registration compares: walls, their normals, free points."""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.clearance import clearance_map
from app.exploration.grid import FREE, OCCUPIED, Grid, GridFrame, Mask
from app.exploration.se2 import Points

_INNER = 0.3  # metres from every wall at which a free cell is certainly free
_THIN = 0.1  # metres between free points
_NORMAL_SIGMA = 0.15  # metres over which free cells are smoothed to find a wall's normal

Metres = npt.NDArray[np.float32]
"""(rows, cols) float32 metres."""


@dataclass(frozen=True, slots=True, eq=False)
class MapFeatures:
    """A map cut to its known rectangle, and its features.

    Attributes:
        frame: where it lies.
        grid: (rows, cols) int8 occupancy.
        walls: (n, 2) metres, occupied cells next to free ones.
        normals: (n, 2) unit vectors, from each wall towards its free side.
        metres_per_wall: metres of wall that each wall cell represents.
        nearest_wall: (rows, cols) int32, index of the nearest wall, approximately.
        free_points: (m, 2) metres, free cells away from walls, thinned.
        free: (rows, cols) bool.
        distance_to_wall: (rows, cols) float32 metres to the nearest occupied cell.
        free_clearance: (rows, cols) float32 metres to the nearest cell that is not free.
        free_gradient: (rows, cols, 2) float32, the direction in which free space increases.
    """

    frame: GridFrame
    grid: Grid
    walls: Points
    normals: Points
    metres_per_wall: float
    nearest_wall: npt.NDArray[np.int32]
    free_points: Points
    free: Mask
    distance_to_wall: Metres
    free_clearance: Metres
    free_gradient: npt.NDArray[np.float32]

    @property
    def free_area_m2(self) -> float:
        """Free area, square metres."""
        return int(np.count_nonzero(self.free)) * self.frame.resolution**2


def extract_features(grid: Grid, frame: GridFrame) -> MapFeatures | None:
    """Cut a map to its known rectangle and extract its features; None if it shows no wall."""
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
    # Only walls next to free cells count: a stray return behind a wall is not evidence.
    near_free = cv2.dilate(free.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    walls = occupied & near_free
    if not walls.any():
        return None
    distance_to_wall = cv2.distanceTransform(
        (~occupied).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ) * np.float32(resolution)
    step = max(1, round(_THIN / resolution))
    thin = np.zeros_like(free)
    thin[::step, ::step] = True
    soft = cv2.GaussianBlur(free.astype(np.float32), (0, 0), _NORMAL_SIGMA / resolution)
    free_gradient = np.dstack(
        [cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)]
    )
    normals = free_gradient[walls].astype(np.float64)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    _, labels = cv2.distanceTransformWithLabels(
        (~walls).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    wall_of = np.zeros(int(labels.max()) + 1, np.int32)
    wall_of[labels[walls]] = np.arange(np.count_nonzero(walls))
    return MapFeatures(
        cut,
        grid,
        cell_centres(cut, walls),
        normals,
        resolution,
        wall_of[labels],
        cell_centres(cut, free & thin & (distance_to_wall > _INNER)),
        free,
        np.ascontiguousarray(distance_to_wall, np.float32),
        clearance_map(~free, resolution),
        np.ascontiguousarray(free_gradient),
    )


def cell_centres(frame: GridFrame, mask: Mask) -> Points:
    """Return the centres of a mask's cells, (n, 2) metres."""
    rows, cols = np.nonzero(mask)
    return np.column_stack(
        [
            frame.origin_x + (cols + 0.5) * frame.resolution,
            frame.origin_y + (rows + 0.5) * frame.resolution,
        ]
    )


def to_cells(frame: GridFrame, points: Points) -> Points:
    """Return points, (n, 2) metres, as continuous column and row."""
    return cast("Points", (points - np.array([frame.origin_x, frame.origin_y])) / frame.resolution)
