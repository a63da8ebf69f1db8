"""A simulated robot with a known pose on a true floor.

The robot sees the floor only through its lidar and keeps its own evidence grid; the floor
determines ranges and collisions. Robots do not obstruct each other. `mapping.slam_robot` is a
robot whose pose is unknown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from app.exploration.clearance import clear_length, traversable_cells
from app.exploration.driver import (
    EMPTY_PATCH,
    DriveReport,
    LidarScan,
    Patch,
    Point,
    Pose,
    StartError,
)
from app.exploration.grid import FREE, Box, FloorMap, bounding_box
from app.exploration.lidar import Floats, LidarSpec, beam_angles, integrate
from app.exploration.simulation.lidar_simulation import simulate_scan

_SCANS_AT_GOAL = 3  # turns of the lidar at a goal, since beams 1 degree apart leave gaps
_BACK_OFF = 1e-3  # cells before a border, so that a robot never stands exactly on it


@dataclass(frozen=True, slots=True)
class RobotSpec:
    """A robot.

    Attributes:
        radius: of the robot, which is a disc, metres.
        speed: metres per simulated second; turning takes no time.
        scan_every: metres driven from scan to scan.
        lidar: its lidar.
    """

    radius: float = 0.2
    speed: float = 0.5
    scan_every: float = 0.2
    lidar: LidarSpec = field(default_factory=LidarSpec)


class DriveObserver(Protocol):
    """Sees what a simulated robot does while it does it, in the thread of the call.

    It may wait, and so let simulated time pass slowly, and may raise, which ends the call where the
    robot is.
    """

    def scanned(self, pose: Pose, phase: float, ranges: Floats) -> None:
        """Take one turn of the lidar: the first beam's angle on the map, NaN for failed beams."""
        ...

    def passed(self, waypoint: int) -> None:
        """Note that the waypoint of this index of the path was reached."""
        ...


class SimulatedRobot:
    """A `RobotDriver` on a true floor.

    All randomness comes from the seed and the slot, and time is the mission's: the same calls
    give the same reports, bit for bit, regardless of what else runs.

    Args:
        floor: the true floor; its frame is the mission's.
        slot: the robot's index in its mission, from 0.
        seed: the mission's seed.
        spec: the robot.
        observer: sees each scan and each waypoint.
    """

    def __init__(
        self,
        floor: FloorMap,
        *,
        slot: int,
        seed: int,
        spec: RobotSpec = RobotSpec(),
        observer: DriveObserver | None = None,
    ) -> None:
        self._observer = observer
        self._spec = spec
        self._frame = floor.frame
        self._name = floor.name
        self._blocked = floor.grid != FREE
        self._traversable = traversable_cells(floor, spec.radius)
        self._random = np.random.default_rng([seed, slot])
        self._evidence = np.zeros(floor.grid.shape, np.int8)
        self._pose = Pose(0.0, 0.0)
        self._time = 0.0
        self._since_scan = 0.0
        self._changed: Box | None = None
        self._last_scan: LidarScan | None = None

    @property
    def pose(self) -> Pose:
        """Where it is."""
        return self._pose

    @property
    def time(self) -> float:
        """The mission second up to which it has driven or waited."""
        return self._time

    def deploy(self, pose: Pose) -> DriveReport:
        """Start at a pose at time 0 and scan.

        Raises:
            StartError: the robot does not fit there.
        """
        row, col = self._frame.cell(pose.x, pose.y)
        if not self._frame.contains(row, col) or not self._traversable[row, col]:
            raise StartError(
                f"map {self._name!r}: a disc of {self._spec.radius:g} m does not fit at "
                f"({pose.x:.2f}, {pose.y:.2f})"
            )
        self._pose = pose
        self._scan()
        return self._report(path=[(pose.x, pose.y)], distance=0.0, reached=0)

    def drive(self, path: Sequence[Point], until: float) -> DriveReport:
        """Follow waypoints until the last one, an obstacle or the given mission second.

        Raises:
            ValueError: that second is in the past.
        """
        if until < self._time:
            raise ValueError(f"cannot drive until {until:g} s, it is {self._time:g} s")
        budget = (until - self._time) * self._spec.speed
        self._time = until
        driven = 0.0
        points = [(self._pose.x, self._pose.y)]
        reached = 0
        blocked = False
        while reached < len(path) and not blocked:
            length, blocked = self._drive_towards(path[reached], budget - driven)
            driven += length
            points.append((self._pose.x, self._pose.y))
            if (self._pose.x, self._pose.y) != path[reached]:
                break
            reached += 1
            if self._observer:
                self._observer.passed(reached - 1)
        arrived = len(path) > 0 and reached == len(path)
        if arrived or blocked:
            for _ in range(_SCANS_AT_GOAL):
                self._scan()
        return self._report(points, driven, reached, arrived=arrived, blocked=blocked)

    def recall(self) -> DriveReport:
        """Stop permanently, and report everything that the robot saw."""
        self._changed = bounding_box(self._evidence) or self._changed
        return self._report(path=[(self._pose.x, self._pose.y)], distance=0.0, reached=0)

    def _drive_towards(self, goal: Point, budget: float) -> tuple[float, bool]:
        """Drive straight to a point as far as the floor and the budget allow, with scans.

        Returns:
            The metres driven, and whether the robot did not fit further on.
        """
        start = self._pose
        whole = math.hypot(goal[0] - start.x, goal[1] - start.y)
        if whole == 0.0:
            return 0.0, False
        heading = math.atan2(goal[1] - start.y, goal[0] - start.x)
        clear = clear_length(
            self._traversable, self._frame.in_cells(start.x, start.y), self._frame.in_cells(*goal)
        )
        cell = self._frame.cell(*goal)
        if self._frame.contains(*cell) and not self._traversable[cell]:
            # A goal on the border of such a cell may count as clear by rounding.
            clear = min(clear, whole / self._frame.resolution)
        free = max(0.0, (clear - _BACK_OFF) * self._frame.resolution)
        length = min(whole, free, budget)
        blocked = free < min(whole, budget)
        done = 0.0
        while done < length:
            step = min(length - done, self._spec.scan_every - self._since_scan)
            done += step
            self._since_scan += step
            share = done / whole
            self._pose = Pose(
                start.x + share * (goal[0] - start.x),
                start.y + share * (goal[1] - start.y),
                heading,
            )
            if self._since_scan >= self._spec.scan_every:
                self._scan()
        if length == whole:
            self._pose = Pose(goal[0], goal[1], heading)
        elif length == 0.0:
            self._pose = Pose(start.x, start.y, heading)
        return length, blocked

    def _scan(self) -> None:
        """Take one turn of the lidar and add it to the evidence."""
        lidar = self._spec.lidar
        # A random phase, as of a spinning head: with a fixed one the same gaps stay unseen.
        phase = self._random.uniform(0.0, 2.0 * math.pi)
        angles = beam_angles(lidar.beams, phase)
        at = (self._pose.x, self._pose.y)
        ranges = simulate_scan(
            self._blocked, self._frame, at, angles, spec=lidar, random=self._random, chord_share=0.5
        )
        scanned = ranges
        valid = ~np.isnan(ranges)
        angles, ranges = angles[valid], ranges[valid]
        box = integrate(self._evidence, self._frame, at, angles, ranges, reach=lidar.max_range)
        self._since_scan = 0.0
        if box is not None and self._changed is not None:
            box = box.union(self._changed)
        self._changed = box or self._changed
        increment = 2.0 * math.pi / lidar.beams
        self._last_scan = LidarScan(self._pose, phase, increment, lidar.max_range, scanned)
        if self._observer:
            self._observer.scanned(self._pose, phase, scanned)

    def _report(
        self,
        path: Sequence[Point],
        distance: float,
        reached: int,
        *,
        arrived: bool = False,
        blocked: bool = False,
    ) -> DriveReport:
        """Report what was driven and what changed in the map since the last report."""
        box, self._changed = self._changed, None
        scan, self._last_scan = self._last_scan, None
        return DriveReport(
            time=self._time,
            pose=self._pose,
            distance=distance,
            path=tuple(path),
            reached=reached,
            arrived=arrived,
            blocked=blocked,
            patch=EMPTY_PATCH if box is None else Patch.cut(self._evidence, box),
            scan=scan,
        )
