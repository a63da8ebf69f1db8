"""The driver interface: what a mission asks of a robot, and the values that they exchange.

Nothing here depends on a simulation: a real robot can implement the interface too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from app.exploration.grid import Box, GridFrame, LogOdds

Point = tuple[float, float]
"""(x, y) in metres, map frame."""


class StartError(ValueError):
    """Robots cannot start at the given pose, or not as many of them as requested."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Position and heading of a robot: metres and radians from the x axis, map frame."""

    x: float
    y: float
    heading: float = 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a robot must do until the next barrier.

    Attributes:
        path: waypoints in driving order, without the robot's own position; empty to wait.
        until: the barrier, mission seconds.
    """

    path: tuple[Point, ...]
    until: float


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A rectangle of a robot's own evidence; it replaces earlier evidence of that robot.

    Attributes:
        row0: the row of its first cell in the mission's frame.
        col0: the column of its first cell in the mission's frame.
        cells: (rows, cols) int8 log-odds units, see `lidar`; 0 by 0 if nothing changed.
    """

    row0: int
    col0: int
    cells: LogOdds

    @classmethod
    def cut(cls, evidence: LogOdds, box: Box) -> Self:
        """Copy a rectangle of an evidence grid, (rows, cols) int8; empty if the box is."""
        cells = evidence[box.slices].copy()
        return cls(box.row0, box.col0, cells) if cells.size else cls(0, 0, cells[:0, :0])

    @property
    def box(self) -> Box:
        """The rectangle in the mission's frame."""
        rows, cols = self.cells.shape
        return Box(self.row0, self.col0, self.row0 + rows, self.col0 + cols)

    def lies_in(self, frame: GridFrame) -> bool:
        """Return whether the rectangle lies inside a frame."""
        box = self.box
        return min(box.row0, box.col0) >= 0 and box.row1 <= frame.rows and box.col1 <= frame.cols


EMPTY_PATCH = Patch(0, 0, np.zeros((0, 0), np.int8))


@dataclass(frozen=True, slots=True, eq=False)
class LidarScan:
    """One turn of a lidar, as it is shown to people; maps are made of all turns on the robot.

    Attributes:
        pose: of the lidar, map frame.
        angle_min: of the first beam, radians from the map's x axis.
        angle_increment: from beam to beam, radians.
        range_max: metres.
        ranges: (beams,) float64 metres, infinite without return, NaN for a beam that failed.
    """

    pose: Pose
    angle_min: float
    angle_increment: float
    range_max: float
    ranges: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DriveReport:
    """What a robot reports after each call.

    Attributes:
        time: mission seconds at the end; a robot that arrives early waits until the barrier.
        pose: where it stands now.
        distance: metres driven since the last report.
        path: points driven through since the last report, first and last included.
        reached: number of ordered waypoints that it has passed.
        arrived: it reached the last waypoint.
        blocked: it stopped because its body would not fit; it stands in front of that place and
            faces it.
        patch: what changed in its map.
        scan: the last turn of its lidar since the last report, if its pose is known.
    """

    time: float
    pose: Pose
    distance: float
    path: tuple[Point, ...]
    reached: int
    arrived: bool
    blocked: bool
    patch: Patch
    scan: LidarScan | None = None


class RobotDriver(Protocol):
    """A robot that drives along paths and reports what it sees. Calls block."""

    def deploy(self, pose: Pose) -> DriveReport:
        """Start at a pose at time 0 and scan; the report holds the first scan."""
        ...

    def drive(self, path: Sequence[Point], until: float) -> DriveReport:
        """Follow waypoints until the last one, an obstacle or the given mission second."""
        ...

    def recall(self) -> DriveReport:
        """Stop permanently; the patch of this last report is everything that the robot saw."""
        ...
