"""A simulated body on a true floor: wheels that err, a lidar that errs, walls that stop it.

The body alone knows where it really is, and keeps that for whoever measures the outcome.
"""

import math
from typing import Protocol

import numpy as np

from app.exploration.driver import Pose
from app.exploration.grid import FREE, FloorMap
from app.exploration.lidar import beam_angles
from app.exploration.mapping.keyframes import Scan
from app.exploration.planning.paths import clear_length
from app.exploration.se2 import Transform, of_pose, wrap
from app.exploration.simulation.lidar_sensor import LDS_02, LidarSpec, measure
from app.exploration.simulation.odometry import SMALL_BASE, OdometrySpec, Wheels
from app.exploration.simulation.simulated_robot import StartError, standing_room

_BACK_OFF = 1e-3  # cells short of a border, so that a body never stands on one


class Body(Protocol):
    """What turns, drives and looks, and tells of its motion by odometry alone."""

    def move(self, turn: float, way: float) -> tuple[Transform, bool]:
        """Turn on the spot and drive straight.

        Returns:
            (3,) the motion by odometry, in the frame before it, and whether something was hit.
        """
        ...

    def scan(self) -> Scan:
        """Take one turn of the lidar."""
        ...


class SimulatedBody:
    """A `Body` on a true floor.

    Args:
        floor: the true floor.
        pose: where it stands, map frame of the floor.
        random: the only source of chance.
        radius: of the disc that it is, metres.
        lidar: what it sees with.
        odometry: how its wheels err.

    Attributes:
        truth: (3,) where it really is, map frame of the floor.
        track: (3,) where it was at each scan, in order.

    Raises:
        StartError: it does not fit there.
    """

    def __init__(
        self,
        floor: FloorMap,
        pose: Pose,
        random: np.random.Generator,
        *,
        radius: float = 0.2,
        lidar: LidarSpec = LDS_02,
        odometry: OdometrySpec = SMALL_BASE,
    ) -> None:
        self._frame = floor.frame
        self._blocked = floor.grid != FREE
        self._room = standing_room(floor, radius)
        cell = floor.frame.cell(pose.x, pose.y)
        if not floor.frame.contains(*cell) or not self._room[cell]:
            raise StartError(
                f"map {floor.name!r}: a disc of {radius:g} m does not fit at "
                f"({pose.x:.2f}, {pose.y:.2f})"
            )
        self._lidar = lidar
        self._random = random
        self._wheels = Wheels(odometry, random)
        self.truth: Transform = of_pose(pose)
        self.track: list[Transform] = []

    def move(self, turn: float, way: float) -> tuple[Transform, bool]:
        """Turn and drive as the odometry says, until a wall; wheels stand when the body does."""
        first, length, last = self._wheels.move(turn, way)
        x, y, heading = self.truth
        heading += first
        end = x + length * math.cos(heading), y + length * math.sin(heading)
        start = self._frame.in_cells(x, y)
        clear = clear_length(self._room, start, self._frame.in_cells(*end))
        free = max(0.0, (clear - _BACK_OFF) * self._frame.resolution)
        hit = free < length
        share = free / length if hit else 1.0
        self.truth = np.array(
            [
                x + share * length * math.cos(heading),
                y + share * length * math.sin(heading),
                wrap(heading + share * last),
            ]
        )
        way *= share
        return np.array([way * math.cos(turn), way * math.sin(turn), turn]), hit

    def scan(self) -> Scan:
        """Take one turn of the lidar."""
        self.track.append(self.truth)
        x, y, heading = (float(value) for value in self.truth)
        # A turning head starts anywhere; with a fixed phase the same gaps would stay unseen.
        phase = self._random.uniform(0.0, 2.0 * math.pi / self._lidar.beams)
        angles = beam_angles(self._lidar.beams, phase)
        ranges = measure(
            self._blocked,
            self._frame,
            (x, y),
            angles + heading,
            spec=self._lidar,
            random=self._random,
        )
        works = ~np.isnan(ranges)
        return Scan(angles[works], ranges[works], self._lidar.max_range)
