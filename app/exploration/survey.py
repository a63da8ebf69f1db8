"""What the team knows at one moment, cut to the known rectangle so that large maps stay cheap."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.exploration.driver import Pose
from app.exploration.frontiers import frontier_cells
from app.exploration.grid import FREE, OCCUPIED, Box, Grid, GridFrame, Mask
from app.exploration.merging import occupancy
from app.exploration.planning import Cell, Clearance, clearance, fits

_MARGIN_M = 0.5  # unknown ground kept around the known, more than any clearance asked for
_OWN_ROOM_M = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """The known rectangle of the mission's map; all arrays and cells are local to it.

    Attributes:
        row0: the row of its first cell in the mission's frame.
        col0: its column.
        resolution: metres a cell.
        grid: (rows, cols) int8 occupancy.
        room: (rows, cols) float32 metres to the nearest cell known to be occupied.
        border: (rows, cols) bool, frontier cells, given up or not.
        ground: (rows, cols) bool, known free and never found impassable by a robot.
    """

    row0: int
    col0: int
    resolution: float
    grid: Grid
    room: Clearance
    border: Mask
    ground: Mask
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
        row, col = frame.cell(pose.x, pose.y)
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
        if radius not in self._passable:
            self._passable[radius] = self.ground & fits(self.room, radius)
        mask = self._passable[radius].copy()
        near = math.ceil(_OWN_ROOM_M / self.resolution)
        rows = slice(max(robot[0] - near, 0), robot[0] + near + 1)
        cols = slice(max(robot[1] - near, 0), robot[1] + near + 1)
        own = min(float(self.room[robot]), radius)
        mask[rows, cols] |= self.ground[rows, cols] & fits(self.room[rows, cols], own)
        return mask


def survey(evidence: npt.NDArray[np.int16], bumped: Mask, known: Box, frame: GridFrame) -> Survey:
    """Look at the team's map.

    Args:
        evidence: (rows, cols) int16, the team's summed log-odds units.
        bumped: (rows, cols) bool, cells that a robot refused to enter.
        known: a box around all evidence.
        frame: the mission's frame.
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
        room=clearance(grid == OCCUPIED, frame.resolution),
        border=frontier_cells(grid),
        ground=(grid == FREE) & ~bumped[rows, cols],
    )
