"""A `RobotDriver` that finds out itself where it is.

Between keyframes it trusts its odometry, at each it asks its map. Poses, paths and patches that
it reports are in the frame of that map; when maps are joined it is given the joint one, and
reports everything anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.exploration.driver import Leg, Point, Pose
from app.exploration.grid import GridFrame
from app.exploration.mapping.slam import SlamMap
from app.exploration.mapping.submap_grid import Canvas
from app.exploration.se2 import IDENTITY, Transform, compose, of_pose, to_pose, wrap
from app.exploration.simulation.mobile_base import Body

_THERE = 0.03  # metres from a waypoint at which it counts as reached


@dataclass(frozen=True, slots=True)
class SlamRobotSpec:
    """How a robot drives and when it looks.

    Attributes:
        speed: metres a simulated second; turning takes no time.
        step_m: metres between two looks at the odometry, one turn of the lidar.
        update_m: metres from keyframe to keyframe.
        update_rad: radians likewise.
        arrival_m: metres after which a keyframe is taken on arrival.
    """

    speed: float = 0.5
    step_m: float = 0.1
    update_m: float = 0.5
    update_rad: float = math.radians(20.0)
    arrival_m: float = 0.1


class SlamRobot:
    """A robot with a body, a map that may be shared, and a grid drawn from it.

    Args:
        body: what drives and looks.
        slot: the robot's index in its mission.
        spec: how it drives.

    Attributes:
        slot: the robot's index.
        time: mission seconds at the last barrier.
    """

    def __init__(self, body: Body, *, slot: int, spec: SlamRobotSpec = SlamRobotSpec()) -> None:
        self.slot = slot
        self._body = body
        self._spec = spec
        self.time = 0.0
        self._since: Transform = IDENTITY
        self._way = 0.0

    def attach(self, slam: SlamMap, frame: GridFrame) -> None:
        """Take up a map, or a joint one that holds this robot's keyframes; all is drawn anew.

        Args:
            slam: the map.
            frame: of the grid that the robot reports patches of, in the map's frame.
        """
        self._map = slam
        self._canvas = Canvas(frame)

    @property
    def pose(self) -> Pose:
        """Where the robot thinks that it is."""
        return to_pose(self._here())

    def deploy(self, pose: Pose) -> Leg:
        """Look around; the pose is the first of the map, and not where the robot really is."""
        self._map.begin(self.slot, self._body.scan(), of_pose(pose))
        return self._report([self.pose], 0.0, 0)

    def drive(self, path: Sequence[Point], until: float) -> Leg:
        """Follow waypoints until the last one, an obstacle or the given mission second.

        Raises:
            ValueError: that second is in the past.
        """
        if until < self.time:
            raise ValueError(f"{until:g} s is past, it is {self.time:g} s")
        budget = (until - self.time) * self._spec.speed
        self.time = until
        driven = 0.0
        stations = [self.pose]
        reached = 0
        blocked = False
        while reached < len(path) and not blocked:
            x, y, heading = self._here()
            off_x, off_y = path[reached][0] - x, path[reached][1] - y
            left = math.hypot(off_x, off_y)
            if left <= _THERE:
                reached += 1
                stations.append(self.pose)
                continue
            way = min(left, self._spec.step_m, budget - driven)
            if way <= 0.0:
                break
            motion, blocked = self._body.move(wrap(math.atan2(off_y, off_x) - heading), way)
            driven += way
            self._way += way
            self._since = compose(self._since, motion)
            if self._way >= self._spec.update_m or abs(self._since[2]) >= self._spec.update_rad:
                self._update()
        arrived = len(path) > 0 and reached == len(path)
        if blocked or (arrived and self._way > self._spec.arrival_m):
            self._update()
        return self._report(
            [*stations, self.pose], driven, reached, arrived=arrived, blocked=blocked
        )

    def recall(self) -> Leg:
        """Stop for good and report all that the robot ever saw."""
        return replace(self._report([self.pose], 0.0, 0), patch=self._canvas.whole())

    def _here(self) -> Transform:
        return compose(self._map.last(self.slot), self._since)

    def _update(self) -> None:
        """Take a keyframe."""
        self._map.add(self.slot, self._body.scan(), self._since)
        self._since = IDENTITY
        self._way = 0.0

    def _report(
        self,
        stations: Sequence[Pose],
        distance: float,
        reached: int,
        *,
        arrived: bool = False,
        blocked: bool = False,
    ) -> Leg:
        """Close a leg: hand over what changed since the last one."""
        own = self._map.of_robot(self.slot)
        keyframes = [self._map.keyframes[index] for index in own]
        patch = self._canvas.follow(keyframes, self._map.poses[own])
        return Leg(
            time=self.time,
            pose=self.pose,
            distance=distance,
            path=tuple((pose.x, pose.y) for pose in stations),
            reached=reached,
            arrived=arrived,
            blocked=blocked,
            patch=patch,
        )
