"""A simulated mobile base on a true floor: odometry and lidar with errors, walls that stop it.

Only the base knows its true pose; evaluations read it.
"""

import math

import numpy as np

from app.exploration.clearance import clear_length, traversable_cells
from app.exploration.driver import Pose, StartError
from app.exploration.grid import FREE, FloorMap
from app.exploration.lidar import LidarSpec, beam_angles
from app.exploration.mapping.keyframes import Scan
from app.exploration.se2 import Transform, of_pose, wrap
from app.exploration.simulation.lidar_simulation import LDS_02, simulate_scan
from app.exploration.simulation.odometry_simulation import (
    SMALL_BASE,
    OdometrySpec,
    WheelOdometry,
)

_BACK_OFF = 1e-3  # cells before a border, so that a base never stands exactly on it


class SimulatedBase:
    """A `MobileBase` on a true floor.

    Args:
        floor: the true floor.
        pose: true pose of the base, map frame of the floor.
        random: the only source of randomness.
        radius: of the base, which is a disc, metres.
        lidar: its lidar.
        odometry: the errors of its odometry.

    Attributes:
        truth: (3,) true pose, map frame of the floor.
        track: (3,) true pose at each scan, in order.

    Raises:
        StartError: the base does not fit at the pose.
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
        self._traversable = traversable_cells(floor, radius)
        cell = floor.frame.cell(pose.x, pose.y)
        if not floor.frame.contains(*cell) or not self._traversable[cell]:
            raise StartError(
                f"map {floor.name!r}: a disc of {radius:g} m does not fit at "
                f"({pose.x:.2f}, {pose.y:.2f})"
            )
        self._lidar = lidar
        self._random = random
        self._wheels = WheelOdometry(odometry, random)
        self.truth: Transform = of_pose(pose)
        self.track: list[Transform] = []

    def move(self, turn: float, distance: float) -> tuple[Transform, bool]:
        """Turn and drive as the odometry shows, up to a wall; the wheels stop with the base."""
        first, length, last = self._wheels.move(turn, distance)
        x, y, heading = self.truth
        heading += first
        end = x + length * math.cos(heading), y + length * math.sin(heading)
        start = self._frame.in_cells(x, y)
        clear = clear_length(self._traversable, start, self._frame.in_cells(*end))
        free = max(0.0, (clear - _BACK_OFF) * self._frame.resolution)
        collided = free < length
        share = free / length if collided else 1.0
        self.truth = np.array(
            [
                x + share * length * math.cos(heading),
                y + share * length * math.sin(heading),
                wrap(heading + share * last),
            ]
        )
        distance *= share
        motion = np.array([distance * math.cos(turn), distance * math.sin(turn), turn])
        return motion, collided

    def scan(self) -> Scan:
        """Take one turn of the lidar."""
        self.track.append(self.truth)
        x, y, heading = (float(value) for value in self.truth)
        # A random phase, as of a spinning head: with a fixed one the same gaps stay unseen.
        phase = self._random.uniform(0.0, 2.0 * math.pi / self._lidar.beams)
        angles = beam_angles(self._lidar.beams, phase)
        ranges = simulate_scan(
            self._blocked,
            self._frame,
            (x, y),
            angles + heading,
            spec=self._lidar,
            random=self._random,
            chord_share=0.0,  # straight walls are straight
        )
        valid = ~np.isnan(ranges)
        return Scan(angles[valid], ranges[valid], self._lidar.max_range)
