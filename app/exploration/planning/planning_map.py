"""What the team knows at one moment, cut to the known rectangle so that large maps stay cheap."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, Box, Grid, GridFrame, Mask
from app.exploration.merging.evidence import occupancy
from app.exploration.planning.frontiers import Frontier, frontier_cells
from app.exploration.planning.paths import Cell, Clearance, clearance, fits
from app.exploration.planning.regions import Pieces, Region, pieces_of, region
from app.exploration.planning.viewpoints import LookoutMemory, Lookouts

_MARGIN_M = 0.5  # unknown ground kept around the known, more than any clearance asked for
_ROOM_M = 0.5  # likewise
_OWN_ROOM_M = 0.5


class Memory:
    """What was found for one survey, and holds for the next where the map is the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: dict[float, tuple[Mask, Pieces]] = {}
        self._lookouts: dict[tuple[int, int], LookoutMemory] = {}

    def pieces(self, radius: float, ground: Mask) -> Pieces:
        """Return the connected pieces of the ground that has some metres of room."""
        with self._lock:
            known = self._pieces.get(radius)
            if known is None or not np.array_equal(known[0], ground):
                known = self._pieces[radius] = ground, pieces_of(ground)
            return known[1]

    def lookouts(self, reach: int, stride: int) -> LookoutMemory:
        """Return the memory of lookouts of a kind."""
        with self._lock:
            new = LookoutMemory(reach=reach, stride=stride)
            return self._lookouts.setdefault((reach, stride), new)


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """The known rectangle of the mission's map; all arrays and cells are local to it.

    Attributes:
        row0: the row of its first cell in the mission's frame.
        col0: its column.
        resolution: metres a cell.
        grid: (rows, cols) int8 occupancy.
        room: (rows, cols) float32 metres to the nearest cell known to be occupied, 0.5 at most.
        border: (rows, cols) bool, frontier cells, given up or not.
        ground: (rows, cols) bool, known free and never found impassable by a robot.
        memory: what was found for surveys before.
    """

    row0: int
    col0: int
    resolution: float
    grid: Grid
    room: Clearance
    border: Mask
    ground: Mask
    memory: Memory = field(default_factory=Memory)
    _passable: dict[float, Mask] = field(default_factory=dict)

    @property
    def open_air(self) -> Mask:
        """Cells that sight passes, (rows, cols) bool."""
        free: Mask = self.grid != OCCUPIED
        return free

    def position(self, frame: GridFrame, x: float, y: float) -> tuple[float, float]:
        """Return the continuous local (row, col) of a point in the mission's frame."""
        row, col = frame.in_cells(x, y)
        return row - self.row0, col - self.col0

    def cell(self, frame: GridFrame, pose: Pose) -> Cell:
        """Return the local cell that a robot stands in."""
        return self.cell_at(frame, pose.x, pose.y)

    def cell_at(self, frame: GridFrame, x: float, y: float) -> Cell:
        """Return the local cell of a point in the mission's frame."""
        row, col = frame.cell(x, y)
        return row - self.row0, col - self.col0

    def passable(self, radius: float, robot: Cell) -> Mask:
        """Tell where a robot may drive with some room around it.

        Near the robot any place will do that has no less room than the one where it stands;
        otherwise a robot that found itself beside a wall could never leave.

        Args:
            radius: metres of room.
            robot: the robot's cell.

        Returns:
            (rows, cols) bool.
        """
        mask = self._roomy(radius).copy()
        near = math.ceil(_OWN_ROOM_M / self.resolution)
        rows = slice(max(robot[0] - near, 0), robot[0] + near + 1)
        cols = slice(max(robot[1] - near, 0), robot[1] + near + 1)
        own = min(float(self.room[robot]), radius)
        mask[rows, cols] |= self.ground[rows, cols] & fits(self.room[rows, cols], own)
        return mask

    def region(self, radius: float, robot: Cell) -> Region:
        """Find where a robot can get to with some room around it, as `passable` tells."""
        pieces = self.memory.pieces(radius, self._roomy(radius))
        near = math.ceil(_OWN_ROOM_M / self.resolution)
        return region(self.passable(radius, robot), pieces, robot, near=near)

    def lookouts(self, frontiers: Sequence[Frontier], *, reach: int, stride: int) -> Lookouts:
        """Find from where frontiers can be looked at; several threads may ask.

        Args:
            frontiers: of this survey's cells.
            reach: cells, how close to the frontier's cell the look must be.
            stride: only every so many cells is asked, in both directions.
        """
        memory = self.memory.lookouts(reach, stride)
        return memory.find(self.grid, (self.row0, self.col0), frontiers)

    def _roomy(self, radius: float) -> Mask:
        """Tell where anybody may drive with some room around it."""
        if radius not in self._passable:
            self._passable[radius] = self.ground & fits(self.room, radius)
        return self._passable[radius]


def survey(
    evidence: npt.NDArray[np.int16],
    bumped: Mask,
    known: Box,
    frame: GridFrame,
    *,
    before: Survey | None = None,
) -> Survey:
    """Look at the team's map.

    Args:
        evidence: (rows, cols) int16, the team's summed log-odds units.
        bumped: (rows, cols) bool, cells that a robot refused to enter.
        known: a box around all evidence.
        frame: the mission's frame.
        before: the mission's last survey, if any: what was found for it and still holds is kept.
    """
    margin = math.ceil(_MARGIN_M / frame.resolution)
    rows = slice(max(known.row0 - margin, 0), min(known.row1 + margin, frame.rows))
    cols = slice(max(known.col0 - margin, 0), min(known.col1 + margin, frame.cols))
    grid = occupancy(evidence[rows, cols])
    return Survey(
        row0=rows.start,
        col0=cols.start,
        resolution=frame.resolution,
        grid=grid,
        room=_room(grid, frame.resolution, _same_view(before, rows.start, cols.start, grid)),
        border=frontier_cells(grid),
        ground=(grid == FREE) & ~bumped[rows, cols],
        memory=before.memory if before else Memory(),
    )


def _same_view(before: Survey | None, row0: int, col0: int, grid: Grid) -> Survey | None:
    """Return a survey if it shows the same rectangle."""
    if before is None or (before.row0, before.col0) != (row0, col0):
        return None
    return before if before.grid.shape == grid.shape else None


def _room(grid: Grid, resolution: float, before: Survey | None) -> Clearance:
    """Measure the room around every cell; only near walls that came or went is it another."""
    walls = grid == OCCUPIED
    if before is None:
        return np.minimum(clearance(walls, resolution), np.float32(_ROOM_M))
    changed = walls != (before.grid == OCCUPIED)
    rows, cols = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not rows.size:
        return before.room
    room = before.room.copy()
    far = math.ceil(_ROOM_M / resolution)

    def around(cells: int) -> tuple[slice, slice]:
        return (
            slice(max(int(rows[0]) - cells, 0), int(rows[-1]) + cells + 1),
            slice(max(int(cols[0]) - cells, 0), int(cols[-1]) + cells + 1),
        )

    # Twice as far, so that the edge of what is measured is no nearer than walls that count.
    other, measured = around(far), around(2 * far)
    new = clearance(walls[measured], resolution)
    top, left = (outer.start for outer in measured)
    height, width = room[other].shape
    row, col = other[0].start - top, other[1].start - left
    np.minimum(new[row : row + height, col : col + width], np.float32(_ROOM_M), out=room[other])
    return room
