"""A mission's mind for robots that know only where they are in their own maps."""

import math

import numpy as np
import pytest

from app.exploration.driver import DriveReport, Patch, Pose
from app.exploration.evaluation.map_quality import accuracy, coverage, observable
from app.exploration.grid import FloorMap, LogOdds
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.merging.joint_map import joint_maps, project_onto_floor
from app.exploration.planning.rendezvous import RendezvousPlanner
from app.exploration.planning.team_planner import PlannerState
from app.exploration.se2 import between, compose, of_pose, to_pose
from app.exploration.simulation.deployment import deploy_slam_robot, own_frame, place_bases
from app.exploration.simulation.halls_and_caves import draw_cave
from app.exploration.simulation.simulated_base import SimulatedBase
from app.exploration.simulation.start_poses import true_starts

CAVE = draw_cave(5, width=12.0, height=10.0)
OTHER = draw_cave(11, width=12.0, height=10.0)
FRAME = own_frame(CAVE)
START = Pose(0.0, 0.0)


def team(floors: list[FloorMap], seed: int) -> list[SlamRobot]:
    """Robots that do not know where they are, each on its floor."""
    return [
        deploy_slam_robot(floor, slot=slot, robots=len(floors), seed=seed)
        for slot, floor in enumerate(floors)
    ]


def run(
    planner: RendezvousPlanner, robots: list[SlamRobot], barriers: int = 10**6
) -> RendezvousPlanner:
    """Let robots do what they are told, to the end or for so many barriers."""
    for _ in range(barriers):
        orders = planner.decide()
        if not orders:
            break
        for slot, order in orders.items():
            planner.observe(slot, robots[slot].drive(order.path, order.until))
    return planner


def deployed(robots: list[SlamRobot]) -> RendezvousPlanner:
    """A mind that has heard from all of them."""
    planner = RendezvousPlanner(FRAME, len(robots))
    for slot, robot in enumerate(robots):
        planner.observe(slot, robot.deploy(START))
    return planner


def test_two_robots_find_that_they_share_a_floor_and_bring_back_one_map() -> None:
    """Their parties become one, and their maps, laid over the floor, are right."""
    robots = team([CAVE, CAVE], 1)
    starts = true_starts(CAVE, 2, 1)

    planner = run(deployed(robots), robots)

    assert planner.clusters == [[0, 1]]
    here, there = (of_pose(pose) for pose in planner.poses)
    reports = planner.state().reports
    truth = [
        compose(of_pose(start), of_pose(report.pose))
        for start, report in zip(starts, reports, strict=True)
    ]
    off = between(between(here, there), between(*truth))
    assert math.hypot(off[0], off[1]) < 0.15
    layers = [robot.recall().patch for robot in robots]
    (joint,) = joint_maps([filled(patch) for patch in layers], FRAME)
    assert joint.members == (0, 1)
    measured = project_onto_floor(joint, of_pose(starts[0]), CAVE.frame)
    assert coverage(measured, CAVE, observable(CAVE, starts[0])) > 0.98
    assert accuracy(measured, CAVE) > 0.93


def filled(patch: Patch) -> LogOdds:
    """A layer of one patch."""
    layer = np.zeros((FRAME.rows, FRAME.cols), np.int8)
    rows, cols = patch.cells.shape
    layer[patch.row0 : patch.row0 + rows, patch.col0 : patch.col0 + cols] = patch.cells
    return layer


def test_robots_in_two_buildings_stay_apart() -> None:
    """Two floors, two parties, two maps."""
    robots = team([CAVE, OTHER], 2)

    planner = run(deployed(robots), robots)

    assert planner.clusters == [[0], [1]]
    joint = joint_maps([filled(robot.recall().patch) for robot in robots], FRAME)
    assert sorted(one.members for one in joint) == [(0,), (1,)]


def test_whoever_takes_over_goes_on_from_what_the_robots_tell() -> None:
    """A mind made of a state and newer reports ends with everything known and one party."""
    robots = team([CAVE, CAVE], 1)
    planner = run(deployed(robots), robots, barriers=12)
    state = planner.state()
    fresh: dict[int, DriveReport] = {1: state.reports[1]}

    taken = run(RendezvousPlanner.recover(FRAME, state, fresh), robots)

    assert taken.rounds > 12
    assert taken.clusters == [[0, 1]]
    assert taken.fraction_known >= planner.fraction_known


def test_a_lost_robot_takes_no_part_but_what_it_saw_stays() -> None:
    """The other one goes on alone, and the lost one is refused."""
    robots = team([CAVE, CAVE], 1)
    planner = run(deployed(robots), robots, barriers=12)
    saved = planner.state().reports[1].patch.cells.size

    planner.remove(1)
    run(planner, robots)

    assert planner.active == [0]
    state: PlannerState = planner.state()
    assert state.lost == (1,)
    assert state.reports[1].patch.cells.size == saved
    with pytest.raises(ValueError, match="takes no part"):
        planner.observe(1, state.reports[1])


def test_the_same_seed_gives_the_same_orders() -> None:
    """All chance comes from the seed, and the order of events from mission time alone."""
    first, again = (team([CAVE, CAVE], 3) for _ in range(2))

    one, two = run(deployed(first), first, 20), run(deployed(again), again, 20)

    assert one.paths == two.paths


def test_bodies_start_where_the_seed_says() -> None:
    """What is told of the start afterwards is where a body was put."""
    bodies: list[SimulatedBase] = place_bases(CAVE, 2, 7)

    assert [to_pose(body.truth) for body in bodies] == true_starts(CAVE, 2, 7)
