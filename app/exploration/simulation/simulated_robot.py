"""A simulated robot on a true floor, and where a team of them starts.

The robot sees the floor through its lidar alone and keeps its own evidence grid; the floor is
used for ranges and for collisions. Robots do not hinder each other. Its pose is known to it;
`slam.robot` is one whose pose is not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from app.exploration.driver import Leg, Patch, Point, Pose
from app.exploration.grid import FREE, Box, FloorMap, Mask
from app.exploration.lidar import beam_angles, integrate
from app.exploration.planning.paths import clear_length, clearance, distance_field, fits
from app.exploration.simulation.lidar_sensor import LidarSpec, measure

_START_SPACING = 0.6  # metres between robots at the start, so that bodies of 0.2 m stand apart
_TURNS_THERE = 3  # of the lidar where it was sent: beams 1 degree apart leave gaps
_BACK_OFF = 1e-3  # cells short of a border, so that a robot never stands on one
_NOTHING = Patch(0, 0, np.zeros((0, 0), np.int8))


class StartError(ValueError):
    """Robots cannot start where, or as many as, they were asked to."""


@dataclass(frozen=True, slots=True)
class RobotSpec:
    """A robot's body.

    Attributes:
        radius: of the disc that the robot is, metres.
        speed: metres a simulated second; turning takes no time.
        scan_every: metres driven from scan to scan.
        lidar: what it sees with.
    """

    radius: float = 0.2
    speed: float = 0.5
    scan_every: float = 0.2
    lidar: LidarSpec = field(default_factory=LidarSpec)


def standing_room(floor: FloorMap, radius: float) -> Mask:
    """Tell where on the true floor a disc stands, (rows, cols) bool; unknown cells are solid."""
    return fits(clearance(floor.grid != FREE, floor.frame.resolution), radius)


def start_poses(
    floor: FloorMap, robots: int, seed: int, *, radius: float = 0.2, scattered: bool = False
) -> list[Pose]:
    """Choose where a team starts: together, around one entry point, each able to reach the others.

    The entry lies in the largest part of the floor that a disc can move in; the seed chooses it.
    A scattered team stands wherever the mission before has left it: each robot at a place of that
    part that the seed chooses, all places being equally likely. The first is the entry either way.

    Args:
        floor: the true floor.
        robots: how many.
        seed: equal seeds give equal poses.
        radius: of a robot, metres.
        scattered: each robot at a place of its own instead of all together.

    Returns:
        One pose a robot, by slot.

    Raises:
        StartError: there is no room for one robot, or too little for all.
    """
    if robots < 1:
        raise StartError(f"map {floor.name!r}: a team needs at least one robot, not {robots}")
    room = standing_room(floor, radius)
    count, labels = cv2.connectedComponents(room.astype(np.uint8), connectivity=4)
    if count == 1:
        raise StartError(f"map {floor.name!r}: no place where a disc of {radius:g} m fits")
    largest = 1 + int(np.argmax(np.bincount(labels.ravel(), minlength=count)[1:]))
    places = np.argwhere(labels == largest)
    random = np.random.default_rng(seed)
    entry = places[random.integers(len(places))]
    if scattered:
        near = np.vstack([entry[None], random.permutation(places)])
    else:
        ways = distance_field(labels == largest, (int(entry[0]), int(entry[1])))
        near = places[np.argsort(ways[places[:, 0], places[:, 1]], kind="stable")]
    spacing = _START_SPACING / floor.frame.resolution
    chosen = near[:0]
    while len(chosen) < robots and len(near) > 0:
        chosen = np.vstack([chosen, near[:1]])
        near = near[np.hypot(*(near - near[0]).T) >= spacing]
    if len(chosen) < robots:
        raise StartError(
            f"map {floor.name!r}: room to start for {len(chosen)} robots, not for {robots}"
        )
    return [Pose(*floor.frame.centre(int(row), int(col))) for row, col in chosen]


class SimulatedRobot:
    """A `RobotDriver` in a true floor.

    All chance comes from the seed and the slot, and time is the mission's: the same calls give
    the same reports, bit for bit, whatever else runs.

    Args:
        floor: the true floor; its frame is the mission's.
        slot: the robot's index in its mission, from 0.
        seed: the mission's.
        spec: the robot's body.
    """

    def __init__(
        self, floor: FloorMap, *, slot: int, seed: int, spec: RobotSpec = RobotSpec()
    ) -> None:
        self._spec = spec
        self._frame = floor.frame
        self._name = floor.name
        self._blocked = floor.grid != FREE
        self._room = standing_room(floor, spec.radius)
        self._random = np.random.default_rng([seed, slot])
        self._evidence = np.zeros(floor.grid.shape, np.int8)
        self._pose = Pose(0.0, 0.0)
        self._time = 0.0
        self._since_scan = 0.0
        self._changed: Box | None = None

    def deploy(self, pose: Pose) -> Leg:
        """Take up a pose at time 0 and look around.

        Raises:
            StartError: the robot does not fit there.
        """
        row, col = self._frame.cell(pose.x, pose.y)
        if not self._frame.contains(row, col) or not self._room[row, col]:
            raise StartError(
                f"map {self._name!r}: a disc of {self._spec.radius:g} m does not fit at "
                f"({pose.x:.2f}, {pose.y:.2f})"
            )
        self._pose = pose
        self._scan()
        return self._report(path=[(pose.x, pose.y)], distance=0.0, reached=0)

    def drive(self, path: Sequence[Point], until: float) -> Leg:
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
            length, blocked = self._towards(path[reached], budget - driven)
            driven += length
            points.append((self._pose.x, self._pose.y))
            if (self._pose.x, self._pose.y) != path[reached]:
                break
            reached += 1
        arrived = len(path) > 0 and reached == len(path)
        if arrived or blocked:
            for _ in range(_TURNS_THERE):
                self._scan()
        return self._report(points, driven, reached, arrived=arrived, blocked=blocked)

    def recall(self) -> Leg:
        """Stop for good and report all that the robot ever saw."""
        rows = np.flatnonzero(self._evidence.any(axis=1))
        cols = np.flatnonzero(self._evidence.any(axis=0))
        if rows.size:
            self._changed = Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
        return self._report(path=[(self._pose.x, self._pose.y)], distance=0.0, reached=0)

    def _towards(self, goal: Point, budget: float) -> tuple[float, bool]:
        """Drive straight to a point as far as ground and budget allow, scanning on the way.

        Returns:
            The metres driven, and whether the body did not fit further on.
        """
        start = self._pose
        whole = math.hypot(goal[0] - start.x, goal[1] - start.y)
        if whole == 0.0:
            return 0.0, False
        heading = math.atan2(goal[1] - start.y, goal[0] - start.x)
        clear = clear_length(
            self._room, self._frame.in_cells(start.x, start.y), self._frame.in_cells(*goal)
        )
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
        """Take one turn of the lidar where the robot stands and add it to its evidence."""
        lidar = self._spec.lidar
        # A turning head starts anywhere; with a fixed phase the same gaps would stay unseen.
        angles = beam_angles(lidar.beams, self._random.uniform(0.0, 2.0 * math.pi))
        at = (self._pose.x, self._pose.y)
        ranges = measure(self._blocked, self._frame, at, angles, spec=lidar, random=self._random)
        works = ~np.isnan(ranges)
        angles, ranges = angles[works], ranges[works]
        box = integrate(self._evidence, self._frame, at, angles, ranges, reach=lidar.max_range)
        self._since_scan = 0.0
        if box is not None and self._changed is not None:
            box = box.union(self._changed)
        self._changed = box or self._changed

    def _report(
        self,
        path: Sequence[Point],
        distance: float,
        reached: int,
        *,
        arrived: bool = False,
        blocked: bool = False,
    ) -> Leg:
        """Close a leg: hand over what changed since the last one."""
        box = self._changed
        self._changed = None
        patch = _NOTHING
        if box is not None:
            cells = self._evidence[box.row0 : box.row1, box.col0 : box.col1].copy()
            patch = Patch(box.row0, box.col0, cells)
        return Leg(
            time=self._time,
            pose=self._pose,
            distance=distance,
            path=tuple(path),
            reached=reached,
            arrived=arrived,
            blocked=blocked,
            patch=patch,
        )
