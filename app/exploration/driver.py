"""What the mission asks of a robot, and the small values that cross that border.

A simulated robot stands behind it today; a real one can, for nothing here knows of a simulation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.exploration.grid import LogOdds

Point = tuple[float, float]
"""(x, y) in metres, map frame."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a robot stands: metres and radians from the x axis, map frame."""

    x: float
    y: float
    heading: float = 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a robot is to do until the next barrier.

    Attributes:
        path: waypoints in driving order, without the place where the robot stands; empty to wait.
        until: the barrier, mission seconds.
    """

    path: tuple[Point, ...]
    until: float


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A rectangle of a robot's own evidence, to be laid over what was known of it.

    Attributes:
        row0: the row of the rectangle's first cell in the mission's frame.
        col0: its column.
        cells: (rows, cols) int8 log-odds units, see `lidar`; 0 by 0 where nothing changed.
    """

    row0: int
    col0: int
    cells: LogOdds


@dataclass(frozen=True, slots=True, eq=False)
class Leg:
    """What a robot reports when a leg ends.

    Attributes:
        time: mission seconds at the end; a robot that is there early stands until the barrier.
        pose: where it stands now.
        distance: metres driven in this leg.
        path: the points driven through, the first and the last included.
        reached: how many of the ordered waypoints lie behind.
        arrived: it reached the last waypoint.
        blocked: it refused to go on, for its body would not fit; it stands before that place and
            faces it.
        patch: what changed in its map.
    """

    time: float
    pose: Pose
    distance: float
    path: tuple[Point, ...]
    reached: int
    arrived: bool
    blocked: bool
    patch: Patch


class RobotDriver(Protocol):
    """A robot that can be sent along a path and asked for what it saw. Calls block."""

    def deploy(self, pose: Pose) -> Leg:
        """Take up a pose at time 0 and look around; the report holds the first scan."""
        ...

    def drive(self, path: Sequence[Point], until: float) -> Leg:
        """Follow waypoints until the last one, an obstacle or the given mission second."""
        ...

    def recall(self) -> Leg:
        """Stop for good; the patch of this last report is all that the robot ever saw."""
        ...
