"""Whole explorations by robots that know neither their own pose nor the others'."""

import numpy as np
import pytest

from app.exploration.driver import Pose, StartError
from app.exploration.evaluation.fidelity import trajectory_error
from app.exploration.grid import FloorMap
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.simulation.deployment import own_frame
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.halls_and_caves import draw_cave
from app.exploration.simulation.simulate_unknown_poses import (
    UnknownPoseExploration,
    simulate_unknown_poses,
)
from app.exploration.simulation.simulated_base import SimulatedBase
from app.exploration.simulation.start_poses import base_random, start_poses, true_starts

CAVE = draw_cave(5, width=12.0, height=10.0)
ROOMS = draw_rooms(2)


def explore(
    floors: list[FloorMap], seed: int
) -> tuple[UnknownPoseExploration, list[SimulatedBase]]:
    """Explore with one robot on each floor, at a random heading."""
    bases = [
        SimulatedBase(floor, true_starts(floor, len(floors), seed)[slot], base_random(seed, slot))
        for slot, floor in enumerate(floors)
    ]
    frame = own_frame(CAVE)
    return simulate_unknown_poses([SlamRobot(base, frame) for base in bases], frame), bases


def test_two_robots_return_one_map() -> None:
    """Despite drifting odometry and unknown starts, both tracks are accurate in one map."""
    outcome, bases = explore([CAVE, CAVE], 1)

    assert outcome.status == "completed"
    estimated = np.vstack([outcome.trajectory(slot) for slot in (0, 1)])
    truth = np.vstack([base.track for base in bases])
    assert trajectory_error(estimated, truth) < 0.10
    assert [joint.members for joint in outcome.joint_maps()] == [(0, 1)]


def test_maps_of_different_floors_are_not_merged() -> None:
    """Two robots on two floors return two maps, and the status says so."""
    outcome, _ = explore([CAVE, ROOMS], 2)

    assert outcome.status == "partial"
    assert outcome.clusters == [[0], [1]]
    assert sorted(joint.members for joint in outcome.joint_maps()) == [(0,), (1,)]


def test_equal_seeds_give_equal_explorations() -> None:
    """All randomness comes from the seed, that of the solver included."""
    (first, _), (again, _) = explore([ROOMS], 3), explore([ROOMS], 3)

    assert first.trajectory(0).tobytes() == again.trajectory(0).tobytes()
    assert first.seconds == again.seconds


def test_a_base_in_a_wall_is_rejected() -> None:
    """A base cannot be placed where it does not fit."""
    with pytest.raises(StartError, match="does not fit"):
        SimulatedBase(CAVE, Pose(0.05, 0.05), np.random.default_rng(0))


def test_wheels_stop_with_the_base() -> None:
    """A base that drives at a wall stops before it, reports it, and counts only what it drove."""
    start = start_poses(CAVE, 1, 0)[0]
    base = SimulatedBase(CAVE, start, np.random.default_rng(0))

    driven, collided = 0.0, False
    while not collided:
        motion, collided = base.move(0.0, 0.5)
        driven += float(np.hypot(motion[0], motion[1]))

    assert driven < 30.0
    assert base.move(0.0, 0.5)[0][0] < 0.05
