"""Simulated robots that do not know where they start: bodies on a floor, frames of their own.

Where they really stand is drawn from the seed, so that whoever measures a mission can tell.
"""

import math

import numpy as np

from app.exploration.driver import Pose
from app.exploration.grid import FloorMap, GridFrame
from app.exploration.mapping.slam import SlamMap
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.simulation.mobile_base import SimulatedBody
from app.exploration.simulation.simulated_robot import start_poses

_CHANCE = 6  # keeps a body's chance apart from what else is drawn for its slot
_BEYOND_M = 1.0


def true_starts(floor: FloorMap, robots: int, seed: int) -> list[Pose]:
    """Return where a team starts, each robot looking into a direction of its own.

    Args:
        floor: the true floor.
        robots: how many.
        seed: equal seeds give equal poses.

    Raises:
        StartError: the floor has no room for the robots.
    """
    return [
        Pose(start.x, start.y, _heading(np.random.default_rng([seed, slot, _CHANCE])))
        for slot, start in enumerate(start_poses(floor, robots, seed))
    ]


def bodies_on(floor: FloorMap, robots: int, seed: int) -> list[SimulatedBody]:
    """Put a team of bodies at their true starts, by slot.

    Raises:
        StartError: the floor has no room for the robots.
    """
    return [
        _body(floor, start, seed, slot)
        for slot, start in enumerate(true_starts(floor, robots, seed))
    ]


def own_frame(floor: FloorMap) -> GridFrame:
    """Return a frame around a robot's start that holds the floor wherever it started.

    The floor's resolution is kept; its size is all that is taken from it.
    """
    resolution = floor.frame.resolution
    extent = math.hypot(floor.frame.rows, floor.frame.cols) * resolution + _BEYOND_M
    side = 2 * math.ceil(extent / resolution)
    return GridFrame(side, side, resolution, -side / 2 * resolution, -side / 2 * resolution)


def lone_robot(floor: FloorMap, *, slot: int, robots: int, seed: int) -> SlamRobot:
    """Make one robot of a team, with a map of its own in `own_frame`.

    Raises:
        StartError: the floor has no room for the robots.
    """
    start = true_starts(floor, robots, seed)[slot]
    robot = SlamRobot(_body(floor, start, seed, slot), slot=slot)
    robot.attach(SlamMap(), own_frame(floor))
    return robot


def _body(floor: FloorMap, start: Pose, seed: int, slot: int) -> SimulatedBody:
    random = np.random.default_rng([seed, slot, _CHANCE])
    _heading(random)  # drawn for the start already
    return SimulatedBody(floor, start, random)


def _heading(random: np.random.Generator) -> float:
    return float(random.uniform(-math.pi, math.pi))
