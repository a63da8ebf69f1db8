"""Robots with unknown relative poses explore apart until their maps match."""

import math
from dataclasses import replace

import numpy as np
import pytest

from app.exploration.driver import DriveReport, Patch, Pose
from app.exploration.evaluation.map_quality import accuracy, coverage, observable
from app.exploration.grid import UNKNOWN, FloorMap, LogOdds
from app.exploration.lidar import CLAMP_UNITS
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.merging.joint_map import joint_maps, project_onto_floor
from app.exploration.planning.map_clusters import build_cluster, realign_cluster
from app.exploration.planning.rendezvous import RendezvousPlanner
from app.exploration.planning.robot_history import PlannerState, RobotHistory
from app.exploration.planning.settings import UNKNOWN_POSE_SETTINGS
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.se2 import between, compose, inverse, of_pose, to_pose
from app.exploration.simulation.deployment import deploy_slam_robot, own_frame, place_bases
from app.exploration.simulation.halls_and_caves import draw_cave
from app.exploration.simulation.simulated_base import SimulatedBase
from app.exploration.simulation.start_poses import true_starts

CAVE = draw_cave(5, width=12.0, height=10.0)
OTHER = draw_cave(11, width=12.0, height=10.0)
FRAME = own_frame(CAVE)
START = Pose(0.0, 0.0)


def team(floors: list[FloorMap], seed: int) -> list[SlamRobot]:
    """Deploy robots with unknown poses, each on its floor."""
    return [
        deploy_slam_robot(floor, slot=slot, robots=len(floors), seed=seed)
        for slot, floor in enumerate(floors)
    ]


def run(
    planner: RendezvousPlanner, robots: list[SlamRobot], barriers: int = 10**6
) -> RendezvousPlanner:
    """Drive robots by their orders, to the end or for a number of barriers."""
    for _ in range(barriers):
        orders = planner.decide()
        if not orders:
            break
        for slot, order in orders.items():
            planner.observe(slot, robots[slot].drive(order.path, order.until))
    return planner


def deployed(robots: list[SlamRobot]) -> RendezvousPlanner:
    """Make a planner to which all robots have reported."""
    planner = RendezvousPlanner(FRAME, len(robots))
    for slot, robot in enumerate(robots):
        planner.observe(slot, robot.deploy(START))
    return planner


def test_two_robots_on_one_floor_return_one_map() -> None:
    """Their map clusters merge, and the merged map is right on the floor."""
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


def test_a_map_cluster_is_realigned_and_keeps_its_collisions() -> None:
    """An error of its transforms is corrected by what the robots saw since."""
    robots = team([CAVE, CAVE], 1)
    planner = run(deployed(robots), robots)
    histories = [RobotHistory.at(START, FRAME) for _ in robots]
    for history, report in zip(histories, planner.state().reports, strict=True):
        history.add(report)
    poses = [of_pose(pose) for pose in planner.poses]
    owns = [of_pose(history.pose) for history in histories]
    transforms = np.array(
        [compose(pose, inverse(own)) for pose, own in zip(poses, owns, strict=True)]
    )
    wrong = transforms.copy()
    wrong[1] += (0.06, -0.04, 0.01)
    cluster = build_cluster([0, 1], wrong, histories, FRAME, UNKNOWN_POSE_SETTINGS)
    collision_cells = cluster.planner.state().collision_cells
    collision_cells[7, 9] = True
    state = replace(cluster.planner.state(), collision_cells=collision_cells)
    cluster.planner = TeamPlanner.recover(FRAME, state, {}, UNKNOWN_POSE_SETTINGS)

    found = realign_cluster(cluster, histories, FRAME, UNKNOWN_POSE_SETTINGS)

    assert np.hypot(*(found.transforms[1] - transforms[1])[:2]) < 0.03
    assert found.planner.state().collision_cells[7, 9]
    assert realign_cluster(found, histories, FRAME, UNKNOWN_POSE_SETTINGS) is found


def test_maps_that_disagree_leave_no_unknown_cells() -> None:
    """Where one map is saturated free and another saturated occupied, the cell stays known."""
    histories = [RobotHistory.at(START, FRAME) for _ in range(3)]
    for history, units in zip(histories, (-CLAMP_UNITS, CLAMP_UNITS, -CLAMP_UNITS), strict=True):
        cells = np.full((40, 40), units, np.int8)
        patch = Patch(FRAME.rows // 2, FRAME.cols // 2, cells)
        history.add(DriveReport(0.0, START, 0.0, (), 0, arrived=False, blocked=False, patch=patch))
    shift = np.array([0.0, 0.0, 0.0]), np.array([0.5, 0.5, 0.0]), np.array([1.0, 1.0, 0.0])

    for members in ([0, 1], [1, 2]):
        transforms = np.array([shift[slot] for slot in members])
        cluster = build_cluster(members, transforms, histories, FRAME, UNKNOWN_POSE_SETTINGS)

        row, col = FRAME.cell(1.25, 1.25)
        assert cluster.planner.team_grid()[row, col] != UNKNOWN


def filled(patch: Patch) -> LogOdds:
    """Return the layer of one patch."""
    layer = np.zeros((FRAME.rows, FRAME.cols), np.int8)
    rows, cols = patch.cells.shape
    layer[patch.row0 : patch.row0 + rows, patch.col0 : patch.col0 + cols] = patch.cells
    return layer


def test_robots_on_two_floors_stay_apart() -> None:
    """Two floors give two map clusters and two maps."""
    robots = team([CAVE, OTHER], 2)

    planner = run(deployed(robots), robots)

    assert planner.clusters == [[0], [1]]
    joint = joint_maps([filled(robot.recall().patch) for robot in robots], FRAME)
    assert sorted(one.members for one in joint) == [(0,), (1,)]


def test_a_recovered_planner_continues_from_the_robots_reports() -> None:
    """A planner of a saved state and newer reports ends with one cluster and a complete map."""
    undisturbed = team([CAVE, CAVE], 1)
    whole = run(deployed(undisturbed), undisturbed)
    robots = team([CAVE, CAVE], 1)
    planner = run(deployed(robots), robots, barriers=12)
    state = planner.state()
    fresh: dict[int, DriveReport] = {1: state.reports[1]}

    taken = run(RendezvousPlanner.recover(FRAME, state, fresh), robots)

    assert taken.rounds > 12
    assert taken.clusters == [[0, 1]]
    known, all_known = (np.count_nonzero(one.team_grid() != UNKNOWN) for one in (taken, whole))
    assert known >= 0.95 * all_known


def test_the_evidence_of_a_lost_robot_stays() -> None:
    """The other robot continues alone, and reports of the lost one are rejected."""
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


def test_equal_seeds_give_equal_orders() -> None:
    """All randomness comes from the seed, and the order of events from mission time alone."""
    first, again = (team([CAVE, CAVE], 3) for _ in range(2))

    one, two = run(deployed(first), first, 20), run(deployed(again), again, 20)

    assert one.paths == two.paths


def test_bases_start_at_the_true_starts() -> None:
    """The seed reproduces the start of each base afterwards."""
    bases: list[SimulatedBase] = place_bases(CAVE, 2, 7)

    assert [to_pose(base.truth) for base in bases] == true_starts(CAVE, 2, 7)
