"""The team's map at one barrier, cut to the known rectangle so that large maps stay cheap."""

import math
import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.exploration.clearance import Clearance, clearance_map, traversable
from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Box, Cell, Cells, Grid, GridFrame, Mask
from app.exploration.merging.evidence import occupancy
from app.exploration.planning.frontiers import frontier_cells
from app.exploration.planning.regions import (
    Components,
    ReachableRegion,
    connected_components,
    reachable_region,
)
from app.exploration.planning.sightings import SightingCache, Sightings

_MARGIN_M = 0.5  # unknown area kept around the known rectangle, more than any clearance in use
_MAX_CLEARANCE_M = 0.5  # larger clearances are cut to this, more than any clearance in use
_NEAR_ROBOT_M = 0.5  # around the robot its own clearance is enough


class MapCache:
    """Results of one planning map that stay valid for the next while the map is the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._components: dict[float, tuple[Mask, Components]] = {}
        self._sightings: dict[tuple[int, int], SightingCache] = {}

    def components(self, radius: float, passable: Mask) -> Components:
        """Return the connected components of the cells that are passable with a clearance."""
        with self._lock:
            known = self._components.get(radius)
            if known is None or not np.array_equal(known[0], passable):
                known = self._components[radius] = passable, connected_components(passable)
            return known[1]

    def sightings(self, reach: int, stride: int) -> SightingCache:
        """Return the cache of the sightings with a reach and stride, cells."""
        with self._lock:
            new = SightingCache(reach=reach, stride=stride)
            return self._sightings.setdefault((reach, stride), new)


@dataclass(frozen=True, slots=True, eq=False)
class PlanningMap:
    """The known rectangle of the mission's map; all arrays and cells are local to it.

    Attributes:
        row0: the row of its first cell in the mission's frame.
        col0: the column of its first cell in the mission's frame.
        resolution: metres per cell.
        grid: (rows, cols) int8 occupancy.
        clearance: (rows, cols) float32 metres to the nearest occupied cell, at most 0.5.
        frontier_mask: (rows, cols) bool, frontier cells, abandoned or not.
        traversable: (rows, cols) bool, free cells without a collision.
        cache: results of earlier planning maps.
    """

    row0: int
    col0: int
    resolution: float
    grid: Grid
    clearance: Clearance
    frontier_mask: Mask
    traversable: Mask
    cache: MapCache = field(default_factory=MapCache)
    _passable: dict[float, Mask] = field(default_factory=dict)

    @property
    def box(self) -> Box:
        """The rectangle in the mission's frame."""
        rows, cols = self.grid.shape
        return Box(self.row0, self.col0, self.row0 + rows, self.col0 + cols)

    def position(self, frame: GridFrame, x: float, y: float) -> tuple[float, float]:
        """Return the continuous local (row, col) of a point in the mission's frame."""
        row, col = frame.in_cells(x, y)
        return row - self.row0, col - self.col0

    def cell(self, frame: GridFrame, pose: Pose) -> Cell:
        """Return the local cell of a robot."""
        return self.cell_at(frame, pose.x, pose.y)

    def cell_at(self, frame: GridFrame, x: float, y: float) -> Cell:
        """Return the local cell of a point in the mission's frame."""
        row, col = frame.cell(x, y)
        return row - self.row0, col - self.col0

    def passable(self, clearance: float, robot: Cell) -> Mask:
        """Return where a robot may drive with some clearance.

        Near the robot, cells need no more clearance than the robot's own cell has: otherwise a
        robot next to a wall could never leave.

        Args:
            clearance: metres to keep from occupied cells.
            robot: the robot's cell.

        Returns:
            (rows, cols) bool.
        """
        mask = self._passable_to_all(clearance).copy()
        near = math.ceil(_NEAR_ROBOT_M / self.resolution)
        rows = slice(max(robot[0] - near, 0), robot[0] + near + 1)
        cols = slice(max(robot[1] - near, 0), robot[1] + near + 1)
        own = min(float(self.clearance[robot]), clearance)
        mask[rows, cols] |= self.traversable[rows, cols] & traversable(
            self.clearance[rows, cols], own
        )
        return mask

    def passable_if_free(self, clearance: float) -> Mask:
        """Return where a robot could drive if all unknown cells were free, (rows, cols) bool."""
        open_cells = self.traversable | (self.grid == UNKNOWN)
        return np.asarray(open_cells & traversable(self.clearance, clearance))

    def reachable(self, clearance: float, robot: Cell) -> ReachableRegion:
        """Find where a robot can get to over `passable` cells."""
        components = self.cache.components(clearance, self._passable_to_all(clearance))
        near = math.ceil(_NEAR_ROBOT_M / self.resolution)
        return reachable_region(self.passable(clearance, robot), components, robot, near=near)

    def sightings(self, cells: Cells, standing: Mask, *, reach: int, stride: int) -> Sightings:
        """Find the cells from which frontier cells can be seen for certain.

        Args:
            cells: (n, 2) int32, frontier cells of this map, each once.
            standing: (rows, cols) bool, cells that a robot can get to.
            reach: cells, maximum length of a line of sight.
            stride: spacing of the poses in both directions.
        """
        cache = self.cache.sightings(reach, stride)
        return cache.find(self.grid, (self.row0, self.col0), cells, standing)

    def _passable_to_all(self, clearance: float) -> Mask:
        """Return the cells with some clearance, wherever the robot is."""
        if clearance not in self._passable:
            self._passable[clearance] = self.traversable & traversable(self.clearance, clearance)
        return self._passable[clearance]


def build_planning_map(
    evidence: npt.NDArray[np.int16],
    collision_cells: Mask,
    known: Box,
    frame: GridFrame,
    *,
    before: PlanningMap | None = None,
) -> PlanningMap:
    """Build the planning map of the team's evidence.

    Args:
        evidence: (rows, cols) int16, the sum of all robots' log-odds units.
        collision_cells: (rows, cols) bool, cells that a robot could not enter.
        known: bounding box of all evidence.
        frame: the mission's frame.
        before: the mission's last planning map, whose results are reused where they still hold.
    """
    margin = math.ceil(_MARGIN_M / frame.resolution)
    rows = slice(max(known.row0 - margin, 0), min(known.row1 + margin, frame.rows))
    cols = slice(max(known.col0 - margin, 0), min(known.col1 + margin, frame.cols))
    grid = occupancy(evidence[rows, cols])
    same = _with_same_rectangle(before, rows.start, cols.start, grid)
    return PlanningMap(
        row0=rows.start,
        col0=cols.start,
        resolution=frame.resolution,
        grid=grid,
        clearance=_update_clearance(grid, frame.resolution, same),
        frontier_mask=frontier_cells(grid),
        traversable=(grid == FREE) & ~collision_cells[rows, cols],
        cache=before.cache if before else MapCache(),
    )


def _with_same_rectangle(
    before: PlanningMap | None, row0: int, col0: int, grid: Grid
) -> PlanningMap | None:
    """Return a planning map if it covers the same rectangle."""
    if before is None or (before.row0, before.col0) != (row0, col0):
        return None
    return before if before.grid.shape == grid.shape else None


def _update_clearance(grid: Grid, resolution: float, before: PlanningMap | None) -> Clearance:
    """Measure the clearance of every cell; measure again only around walls that changed."""
    walls = grid == OCCUPIED
    if before is None:
        return np.minimum(clearance_map(walls, resolution), np.float32(_MAX_CLEARANCE_M))
    changed = walls != (before.grid == OCCUPIED)
    rows, cols = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not rows.size:
        return before.clearance
    clearance = before.clearance.copy()
    far = math.ceil(_MAX_CLEARANCE_M / resolution)

    def around(cells: int) -> tuple[slice, slice]:
        return (
            slice(max(int(rows[0]) - cells, 0), int(rows[-1]) + cells + 1),
            slice(max(int(cols[0]) - cells, 0), int(cols[-1]) + cells + 1),
        )

    # Measure in twice the margin, so that no wall that counts is cut off.
    updated, measured = around(far), around(2 * far)
    new = clearance_map(walls[measured], resolution)
    top, left = (outer.start for outer in measured)
    height, width = clearance[updated].shape
    row, col = updated[0].start - top, updated[1].start - left
    np.minimum(
        new[row : row + height, col : col + width],
        np.float32(_MAX_CLEARANCE_M),
        out=clearance[updated],
    )
    return clearance
