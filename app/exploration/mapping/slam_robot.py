"""A `RobotDriver` that localizes itself by SLAM.

Between keyframes it relies on odometry; at each keyframe it matches its scan against its map. It
reports poses, paths and patches in the frame of that map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from app.exploration.driver import DriveReport, Point, Pose
from app.exploration.grid import GridFrame
from app.exploration.mapping.keyframes import Scan
from app.exploration.mapping.slam import SlamMap, warm_up
from app.exploration.mapping.submap_grid import SubmapGrid
from app.exploration.se2 import IDENTITY, Transform, compose, of_pose, to_pose, wrap

_WAYPOINT_TOLERANCE_M = 0.03  # a waypoint counts as reached within this distance


class MobileBase(Protocol):
    """A base that turns, drives and scans, and knows its motion only by odometry."""

    def move(self, turn: float, distance: float) -> tuple[Transform, bool]:
        """Turn on the spot, radians, and drive straight, metres.

        Returns:
            (3,) the motion by odometry, in the frame before it, and whether the base collided.
        """
        ...

    def scan(self) -> Scan:
        """Take one turn of the lidar."""
        ...


@dataclass(frozen=True, slots=True)
class SlamRobotSpec:
    """How a robot drives and when it takes keyframes.

    Attributes:
        speed: metres per simulated second; turning takes no time.
        step_m: metres between two readings of the odometry.
        keyframe_m: metres from keyframe to keyframe.
        keyframe_rad: radians from keyframe to keyframe.
        arrival_m: minimum metres since the last keyframe for one on arrival.
    """

    speed: float = 0.5
    step_m: float = 0.1
    keyframe_m: float = 0.5
    keyframe_rad: float = math.radians(20.0)
    arrival_m: float = 0.1


class SlamRobot:
    """A mobile base with a map and a grid drawn from it.

    Args:
        base: what drives and scans.
        frame: of the grid that the robot reports patches of, in the map's frame.
        spec: how it drives.

    Attributes:
        slam: the robot's map.
        time: mission seconds at the last barrier.
    """

    def __init__(
        self, base: MobileBase, frame: GridFrame, *, spec: SlamRobotSpec = SlamRobotSpec()
    ) -> None:
        self.slam = SlamMap()
        self.time = 0.0
        self._base = base
        self._grid = SubmapGrid(frame)
        self._spec = spec
        self._since_keyframe: Transform = IDENTITY
        self._driven_since = 0.0

    @property
    def pose(self) -> Pose:
        """The estimated pose."""
        return to_pose(self._here())

    def deploy(self, pose: Pose) -> DriveReport:
        """Scan; the pose is that of the first keyframe in the map, not the robot's true pose.

        All jitted code is compiled now, so that no order waits for it later.
        """
        warm_up()
        self.slam.begin(self._base.scan(), of_pose(pose))
        return self._report([self.pose], 0.0, 0)

    def drive(self, path: Sequence[Point], until: float) -> DriveReport:
        """Follow waypoints until the last one, an obstacle or the given mission second.

        Raises:
            ValueError: that second is in the past.
        """
        if until < self.time:
            raise ValueError(f"cannot drive until {until:g} s, it is {self.time:g} s")
        budget = (until - self.time) * self._spec.speed
        self.time = until
        driven = 0.0
        visited = [self.pose]
        reached = 0
        blocked = False
        while reached < len(path) and not blocked:
            x, y, heading = self._here()
            off_x, off_y = path[reached][0] - x, path[reached][1] - y
            left = math.hypot(off_x, off_y)
            if left <= _WAYPOINT_TOLERANCE_M:
                reached += 1
                visited.append(self.pose)
                continue
            distance = min(left, self._spec.step_m, budget - driven)
            if distance <= 0.0:
                break
            turn = wrap(math.atan2(off_y, off_x) - heading)
            motion, blocked = self._base.move(turn, distance)
            driven += distance
            self._driven_since += distance
            self._since_keyframe = compose(self._since_keyframe, motion)
            if (
                self._driven_since >= self._spec.keyframe_m
                or abs(self._since_keyframe[2]) >= self._spec.keyframe_rad
            ):
                self._take_keyframe()
        arrived = len(path) > 0 and reached == len(path)
        if blocked or (arrived and self._driven_since > self._spec.arrival_m):
            self._take_keyframe()
        return self._report(
            [*visited, self.pose], driven, reached, arrived=arrived, blocked=blocked
        )

    def recall(self) -> DriveReport:
        """Stop permanently, align all scans, and report everything that the robot saw."""
        self.slam.solve()
        return replace(self._report([self.pose], 0.0, 0), patch=self._grid.full_patch())

    def _here(self) -> Transform:
        return compose(self.slam.last, self._since_keyframe)

    def _take_keyframe(self) -> None:
        self.slam.add(self._base.scan(), self._since_keyframe)
        self._since_keyframe = IDENTITY
        self._driven_since = 0.0

    def _report(
        self,
        visited: Sequence[Pose],
        distance: float,
        reached: int,
        *,
        arrived: bool = False,
        blocked: bool = False,
    ) -> DriveReport:
        """Report what was driven and what changed in the map since the last report."""
        return DriveReport(
            time=self.time,
            pose=self.pose,
            distance=distance,
            path=tuple((pose.x, pose.y) for pose in visited),
            reached=reached,
            arrived=arrived,
            blocked=blocked,
            patch=self._grid.update(self.slam.keyframes, self.slam.poses),
        )
