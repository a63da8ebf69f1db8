"""A simulated robot collides with its floor, sees by its lidar, and can be repeated."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.exploration.clearance import traversable_cells
from app.exploration.driver import DriveReport, Pose, RobotDriver, StartError
from app.exploration.grid import FREE, OCCUPIED, FloorMap
from app.exploration.simulation.floor_plans import draw_office, draw_rooms
from app.exploration.simulation.simulated_robot import SimulatedRobot
from app.exploration.simulation.start_poses import start_poses

ROOMS = draw_rooms(2)
FIRST = Pose(1.65, 1.65)  # the middle of the first room; the door is 1.5 m to its right


def deployed(floor: FloorMap = ROOMS, pose: Pose = FIRST, *, seed: int = 1) -> SimulatedRobot:
    """Deploy a robot on a floor."""
    robot = SimulatedRobot(floor, slot=0, seed=seed)
    robot.deploy(pose)
    return robot


def same(one: DriveReport, other: DriveReport) -> bool:
    """Return whether two reports are equal to the byte."""
    return (
        np.array_equal(one.patch.cells, other.patch.cells)
        and (one.patch.row0, one.patch.col0) == (other.patch.row0, other.patch.col0)
        and (one.pose, one.path, one.time) == (other.pose, other.path, other.time)
    )


def test_the_simulated_robot_is_a_driver() -> None:
    """It implements the interface that a real robot would."""
    driver: RobotDriver = SimulatedRobot(ROOMS, slot=0, seed=1)

    assert driver.deploy(FIRST).pose == FIRST


def test_a_robot_drives_half_a_metre_a_second() -> None:
    """At the barrier it is as far as its speed allows, and has not arrived."""
    report = deployed().drive([(2.65, 1.65), (4.0, 1.65)], 3.0)

    assert report.distance == pytest.approx(1.5)
    assert (report.pose.x, report.pose.y) == pytest.approx((3.15, 1.65))
    assert (report.time, report.reached, report.arrived, report.blocked) == (3.0, 1, False, False)
    assert report.path == ((1.65, 1.65), (2.65, 1.65), (report.pose.x, report.pose.y))


def test_a_robot_that_arrives_early_waits_for_the_barrier() -> None:
    """The report says that it arrived, and has the time of the barrier."""
    report = deployed().drive([(2.15, 1.65)], 4.0)

    assert (report.pose.x, report.pose.y) == (2.15, 1.65)
    assert (report.time, report.reached, report.arrived, report.blocked) == (4.0, 1, True, False)


def test_a_drive_in_two_parts_ends_where_a_single_one_does() -> None:
    """Barriers do not move a robot off its path."""
    whole, halves = deployed(), deployed()

    once = whole.drive([(2.65, 1.65), (2.65, 2.2)], 3.0)
    halves.drive([(2.65, 1.65), (2.65, 2.2)], 1.3)
    twice = halves.drive([(2.65, 1.65), (2.65, 2.2)], 3.0)

    assert (once.pose.x, once.pose.y) == pytest.approx((twice.pose.x, twice.pose.y))


def test_a_robot_without_a_path_stands_still() -> None:
    """Waiting costs time and nothing else, and is no arrival."""
    report = deployed().drive([], 4.0)

    assert (report.pose, report.distance, report.arrived, report.blocked) == (
        FIRST,
        0.0,
        False,
        False,
    )
    assert report.patch.cells.size == 0


def test_a_robot_stops_before_a_wall() -> None:
    """It stops its radius before the wall, reports that it is blocked, and faces the wall."""
    report = deployed().drive([(1.65, 3.2)], 10.0)

    assert report.blocked
    assert not report.arrived
    assert report.pose.y == pytest.approx(2.95, abs=0.06)
    assert report.pose.heading == pytest.approx(math.pi / 2)


@settings(max_examples=25, deadline=None)
@given(
    goals=st.lists(st.tuples(st.floats(-0.5, 7.0), st.floats(-0.5, 4.0)), min_size=1, max_size=6)
)
@example(goals=[(3.0, 3.5), (1.5, 3.0)])  # on the border of a cell, by rounding on either side
def test_no_order_moves_a_robot_where_it_does_not_fit(goals: list[tuple[float, float]]) -> None:
    """For any order, the robot never overlaps a wall."""
    fits = traversable_cells(ROOMS, 0.2)
    robot = deployed()

    for index, goal in enumerate(goals):
        report = robot.drive([goal], 3.0 * (index + 1))

        for x, y in report.path:
            assert fits[ROOMS.frame.cell(x, y)]


def test_time_does_not_run_backwards() -> None:
    """A barrier in the past is an error."""
    robot = deployed()
    robot.drive([], 5.0)

    with pytest.raises(ValueError, match="cannot drive until 4 s, it is 5 s"):
        robot.drive([], 4.0)


def test_a_robot_cannot_be_deployed_in_a_wall() -> None:
    """A start where the robot does not fit is rejected with the position."""
    with pytest.raises(StartError, match=r"does not fit at \(1.65, 0.20\)"):
        SimulatedRobot(ROOMS, slot=0, seed=1).deploy(Pose(1.65, 0.2))


def test_all_patches_together_are_the_whole_map() -> None:
    """The patches of all reports make up the final report."""
    robot = SimulatedRobot(ROOMS, slot=0, seed=3)
    reports = [robot.deploy(FIRST)]
    reports += [robot.drive([(4.8, 1.65)], 2.0), robot.drive([(4.8, 1.65)], 8.0), robot.recall()]
    pasted = np.zeros(ROOMS.grid.shape, np.int8)
    whole = np.zeros(ROOMS.grid.shape, np.int8)

    for target, some in ((pasted, reports[:-1]), (whole, reports[-1:])):
        for report in some:
            rows, cols = report.patch.cells.shape
            patch = (
                slice(report.patch.row0, report.patch.row0 + rows),
                slice(report.patch.col0, report.patch.col0 + cols),
            )
            target[patch] = report.patch.cells

    assert pasted.any()
    assert np.array_equal(pasted, whole)


def test_a_patch_does_not_change_after_the_report() -> None:
    """A report is a value: further driving does not change it."""
    robot = SimulatedRobot(ROOMS, slot=0, seed=3)
    report = robot.deploy(FIRST)
    before = report.patch.cells.copy()

    robot.drive([(4.8, 1.65)], 8.0)

    assert np.array_equal(report.patch.cells, before)


def test_evidence_agrees_with_the_floor() -> None:
    """Despite noise nearly all evidence of a scan of a room is right."""
    report = deployed(seed=5).recall()

    rows, cols = report.patch.cells.shape
    true = ROOMS.grid[report.patch.row0 :, report.patch.col0 :][:rows, :cols]
    seen = report.patch.cells
    right = ((seen > 0) & (true == OCCUPIED)) | ((seen < 0) & (true == FREE))
    assert right.sum() / np.count_nonzero(seen) > 0.97


def test_seed_and_slot_determine_the_reports() -> None:
    """Equal ones give equal bytes; another slot or seed has other noise."""
    reports = [
        SimulatedRobot(ROOMS, slot=slot, seed=seed).deploy(FIRST)
        for slot, seed in ((0, 7), (0, 7), (1, 7), (0, 8))
    ]

    assert [same(reports[0], report) for report in reports] == [True, True, False, False]


@pytest.mark.parametrize("robots", [1, 2, 5, 12])
def test_a_team_starts_together_in_reach_of_each_other(robots: int) -> None:
    """Starts do not overlap, are near the first one, and each robot fits."""
    floor = draw_office(3)

    poses = start_poses(floor, robots, seed=11)

    places = np.array([(pose.x, pose.y) for pose in poses])
    gaps = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert len(poses) == robots
    assert (gaps[~np.eye(robots, dtype=np.bool_)] >= 0.59).all()
    assert gaps[0].max() < 4.0
    for slot, pose in enumerate(poses):
        assert SimulatedRobot(floor, slot=slot, seed=0).deploy(pose).pose == pose


def test_a_scattered_team_starts_all_over_the_floor() -> None:
    """The seed draws the places, each robot fits, and the first starts at the entry."""
    floor = draw_office(3)

    poses = start_poses(floor, 8, seed=11, scattered=True)

    places = np.array([(pose.x, pose.y) for pose in poses])
    gaps = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert gaps.max() > 8.0
    assert (gaps[~np.eye(8, dtype=np.bool_)] >= 0.59).all()
    assert poses[0] == start_poses(floor, 8, seed=11)[0]
    assert poses == start_poses(floor, 8, seed=11, scattered=True)
    assert poses != start_poses(floor, 8, seed=12, scattered=True)
    for slot, pose in enumerate(poses):
        assert SimulatedRobot(floor, slot=slot, seed=0).deploy(pose).pose == pose


def test_the_seed_chooses_the_entry() -> None:
    """Equal seeds start at the same place, others elsewhere."""
    starts = [start_poses(ROOMS, 1, seed=seed)[0] for seed in (1, 1, 2)]

    assert starts[0] == starts[1]
    assert starts[0] != starts[2]


def test_a_start_is_in_the_largest_part_of_the_floor() -> None:
    """No team starts in a sealed cupboard."""
    floor = draw_rooms(3)
    grid = floor.grid.copy()
    wall = floor.frame.cell(3.2, 0.0)[1]
    grid[:, wall] = OCCUPIED

    starts = [start_poses(FloorMap("sealed", grid, floor.frame), 1, seed)[0] for seed in range(12)]

    assert all(start.x > 3.2 for start in starts)


def test_a_team_too_large_for_the_floor_is_rejected_with_numbers() -> None:
    """The error says how many robots would fit."""
    with pytest.raises(
        StartError, match=r"map 'rooms': space to start for \d+ robots, not for 400"
    ):
        start_poses(ROOMS, 400, seed=1)


def test_a_floor_without_space_is_rejected() -> None:
    """Without a place that a disc fits on, no team starts."""
    floor = FloorMap("slit", np.zeros((5, 100), np.int8), draw_rooms(1).frame)

    with pytest.raises(StartError, match=r"map 'slit': no place where a disc of 0.2 m fits"):
        start_poses(floor, 1, seed=1)


@pytest.mark.parametrize("robots", [0, -1])
def test_a_team_without_robots_is_rejected(robots: int) -> None:
    """A mission needs a robot."""
    with pytest.raises(StartError, match="at least one robot"):
        start_poses(ROOMS, robots, seed=1)
