"""Deployment of simulated robots with unknown poses: bases on a floor, robots with own frames.

The true starts follow from the seed, so that an evaluation of the mission can reproduce them.
"""

import math

from app.exploration.driver import Pose
from app.exploration.grid import FloorMap, GridFrame
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.simulation.simulated_base import SimulatedBase
from app.exploration.simulation.start_poses import base_random, random_heading, true_starts

_MARGIN_M = 1.0  # of a robot's frame beyond the floor


def place_bases(floor: FloorMap, robots: int, seed: int) -> list[SimulatedBase]:
    """Place the bases of a team at their true starts, by slot.

    Raises:
        StartError: the floor has not enough space for the robots.
    """
    return [
        _base(floor, start, seed, slot)
        for slot, start in enumerate(true_starts(floor, robots, seed))
    ]


def own_frame(floor: FloorMap) -> GridFrame:
    """Return a frame around a robot's start that holds the floor wherever the robot started.

    Of the floor, only its resolution and its size are used.
    """
    resolution = floor.frame.resolution
    extent = math.hypot(floor.frame.rows, floor.frame.cols) * resolution + _MARGIN_M
    side = 2 * math.ceil(extent / resolution)
    return GridFrame(side, side, resolution, -side / 2 * resolution, -side / 2 * resolution)


def deploy_slam_robot(floor: FloorMap, *, slot: int, robots: int, seed: int) -> SlamRobot:
    """Make one robot of a team, with its own map in `own_frame`.

    Raises:
        StartError: the floor has not enough space for the robots.
    """
    start = true_starts(floor, robots, seed)[slot]
    return SlamRobot(_base(floor, start, seed, slot), own_frame(floor))


def _base(floor: FloorMap, start: Pose, seed: int, slot: int) -> SimulatedBase:
    random = base_random(seed, slot)
    random_heading(random)  # the start has used this draw
    return SimulatedBase(floor, start, random)
