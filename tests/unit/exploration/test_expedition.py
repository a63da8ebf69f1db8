"""Robots that know neither where they are nor where the others are."""

import math

import numpy as np
import pytest

from app.exploration.driver import Pose
from app.exploration.evaluation.fidelity import trajectory_error
from app.exploration.grid import FloorMap
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.simulation.expedition import Expedition, explore
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.halls_and_caves import draw_cave
from app.exploration.simulation.mobile_base import SimulatedBody
from app.exploration.simulation.simulated_robot import StartError, start_poses

CAVE = draw_cave(5, width=12.0, height=10.0)
ROOMS = draw_rooms(2)


def expedition(floors: list[FloorMap], seed: int) -> tuple[Expedition, list[SimulatedBody]]:
    """Explore, each robot on a floor of its own or on a common one, in any direction."""
    bodies = []
    for slot, floor in enumerate(floors):
        start = start_poses(floor, len(floors), seed)[slot]
        random = np.random.default_rng([seed, slot])
        pose = Pose(start.x, start.y, float(random.uniform(-math.pi, math.pi)))
        bodies.append(SimulatedBody(floor, pose, random))
    robots = [SlamRobot(body, slot=slot) for slot, body in enumerate(bodies)]
    return explore(robots, extent_m=24.0), bodies


def test_two_robots_bring_back_one_map() -> None:
    """From drifting odometry and unknown starts comes one map, and both tracks lie right in it."""
    outcome, bodies = expedition([CAVE, CAVE], 1)

    assert outcome.status == "completed"
    (party,) = outcome.parties
    estimated = np.vstack([party.slam.poses[party.slam.of_robot(slot)] for slot in party.slots])
    truth = np.vstack([bodies[slot].track for slot in party.slots])
    assert trajectory_error(estimated, truth) < 0.10


def test_what_never_met_is_not_merged() -> None:
    """Two robots in two buildings end with two maps, and the outcome says so."""
    outcome, _ = expedition([CAVE, ROOMS], 2)

    assert outcome.status == "partial"
    assert [party.slots for party in outcome.parties] == [[0], [1]]


def test_the_same_seed_gives_the_same_expedition() -> None:
    """All chance comes from the seed, the solver's included."""
    (first, _), (again, _) = expedition([ROOMS], 3), expedition([ROOMS], 3)

    assert first.parties[0].slam.poses.tobytes() == again.parties[0].slam.poses.tobytes()
    assert first.seconds == again.seconds


def test_a_body_in_a_wall_is_refused() -> None:
    """A robot is not put where it does not fit."""
    with pytest.raises(StartError, match="does not fit"):
        SimulatedBody(CAVE, Pose(0.05, 0.05), np.random.default_rng(0))


def test_wheels_stand_when_the_body_does() -> None:
    """A body that drives at a wall stops before it, says so, and counts only what it drove."""
    start = start_poses(CAVE, 1, 0)[0]
    body = SimulatedBody(CAVE, start, np.random.default_rng(0))

    way, hit = 0.0, False
    while not hit:
        motion, hit = body.move(0.0, 0.5)
        way += float(np.hypot(motion[0], motion[1]))

    assert way < 30.0
    assert body.move(0.0, 0.5)[0][0] < 0.05
