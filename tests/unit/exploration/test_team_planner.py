"""The planner's contract with its caller."""

import itertools
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from app.exploration.clearance import clear_length
from app.exploration.driver import DriveReport, Order, Patch, Point, Pose
from app.exploration.grid import OCCUPIED, UNKNOWN, GridFrame
from app.exploration.merging.evidence import merge_layers
from app.exploration.planning import team_planner
from app.exploration.planning.goals import Goal, RobotState
from app.exploration.planning.robot_history import PlannerState
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.simulated_robot import SimulatedRobot
from app.exploration.simulation.start_poses import start_poses

FLOOR = draw_rooms(3)


class Mission:
    """A team and its planner, one barrier at a time."""

    def __init__(self, robots: int, seed: int = 4) -> None:
        poses = start_poses(FLOOR, robots, seed)
        self.team = [SimulatedRobot(FLOOR, slot=slot, seed=seed) for slot in range(robots)]
        self.planner = TeamPlanner(FLOOR.frame, poses)
        self.reports = {slot: self.team[slot].deploy(pose) for slot, pose in enumerate(poses)}

    def step(self, *, backwards: bool = False) -> dict[int, Order]:
        """Observe all reports, decide, and drive the orders."""
        for slot in sorted(self.reports, reverse=backwards):
            self.planner.observe(slot, self.reports[slot])
        orders = self.planner.decide()
        self.reports = {
            slot: self.team[slot].drive(order.path, order.until) for slot, order in orders.items()
        }
        return orders

    def run(self) -> "Mission":
        """Explore to the end."""
        while self.step():
            pass
        return self


def report_at(pose: Pose, patch: Patch) -> DriveReport:
    """Make the report of a robot that stands."""
    return DriveReport(
        0.0, pose, 0.0, ((pose.x, pose.y),), 0, arrived=False, blocked=False, patch=patch
    )


def test_all_orders_end_at_one_barrier_within_bounds() -> None:
    """Every robot gets an order, and all end at the same second, 1 to 4 s away."""
    mission = Mission(2)

    barriers = [0.0]
    while orders := mission.step():
        assert sorted(orders) == [0, 1]
        assert len({order.until for order in orders.values()}) == 1
        barriers.append(orders[0].until)

    steps = np.diff(barriers)
    assert steps.min() >= 1.0 - 1e-9
    assert steps.max() <= 4.0 + 1e-9


def test_reports_may_come_in_any_order() -> None:
    """The timing of processes does not change the mission."""
    forth, back = Mission(3), Mission(3)

    for _ in itertools.count():
        orders = forth.step()
        assert back.step(backwards=True) == orders
        if not orders:
            break

    assert np.array_equal(forth.planner.team_grid(), back.planner.team_grid())


def test_the_first_goals_spread_the_team() -> None:
    """Robots that start together get different goals."""
    orders = Mission(2).step()

    assert orders[0].path[-1] != orders[1].path[-1]


def test_an_exploration_ends_by_itself_with_nothing_left() -> None:
    """At the end no frontier is left, no order is given, and the team has driven."""
    planner = Mission(2).run().planner

    assert planner.done
    assert planner.frontiers_left == []
    assert sum(planner.distances) > 3.0


def test_the_figures_add_up() -> None:
    """Time, distances and poses are those of the robots' reports."""
    mission = Mission(2)
    last = dict(mission.reports)
    driven = [0.0, 0.0]
    while mission.step():
        last = dict(mission.reports)
        driven = [path + last[slot].distance for slot, path in enumerate(driven)]

    planner = mission.planner
    assert planner.distances == pytest.approx(driven)
    assert planner.poses == [last[0].pose, last[1].pose]
    assert planner.time == last[0].time
    assert [path[-1] for path in planner.paths] == [
        (report.pose.x, report.pose.y) for report in last.values()
    ]
    known = np.count_nonzero(planner.team_grid() != -1)
    assert planner.fraction_known == pytest.approx(known / FLOOR.grid.size)


def test_a_robots_layer_is_its_whole_map() -> None:
    """All patches together equal the patch of the recall."""
    mission = Mission(2).run()

    for slot, layer in enumerate(mission.planner.layers()):
        patch = mission.team[slot].recall().patch
        whole = np.zeros_like(layer)
        rows, cols = patch.cells.shape
        whole[patch.row0 : patch.row0 + rows, patch.col0 : patch.col0 + cols] = patch.cells
        assert np.array_equal(layer, whole)


def test_routes_are_planned_with_what_each_robot_has_driven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The price of a detour depends on it."""
    mission = Mission(2)
    for _ in range(3):
        mission.step()
    seen: list[float] = []

    def spy(robots: Sequence[RobotState], *rest: Any) -> list[Goal | None]:
        seen.extend(robot.driven_m for robot in robots)
        return [None] * len(robots)

    monkeypatch.setattr(team_planner, "route_views", spy)
    while not seen and mission.step():
        pass

    assert min(seen) > 1.0
    assert seen[:2] == mission.planner.distances


def test_the_others_finish_what_a_lost_robot_leaves() -> None:
    """A removed robot gets no orders and reserves nothing, and its evidence stays."""
    mission = Mission(3)
    for _ in range(3):
        mission.step()
    mission.planner.remove(1)
    mission.reports.pop(1)
    seen = np.count_nonzero(mission.planner.layers()[1])

    while orders := mission.step():
        assert 1 not in orders

    assert mission.planner.frontiers_left == []
    assert np.count_nonzero(mission.planner.layers()[1]) == seen


def test_newer_evidence_replaces_a_robots_older_one() -> None:
    """A patch replaces a robot's earlier evidence instead of being added to it."""
    mission = Mission(1)
    mission.step()
    pose = mission.planner.poses[0]
    row, col = FLOOR.frame.cell(pose.x, pose.y)
    before = int(mission.planner.layers()[0][row + 3, col])

    mission.planner.observe(
        0, replace(mission.reports[0], patch=Patch(row + 3, col, np.array([[24]], np.int8)))
    )
    mission.planner.decide()

    assert before < -24
    assert mission.planner.team_grid()[row + 3, col] == OCCUPIED
    assert np.array_equal(mission.planner.team_grid(), merge_layers(mission.planner.layers()))


GAPPED = np.full((41, 41), -80, np.int8)  # a room of 2 m, all known, with one gap in its wall
GAPPED[:, [0, -1]] = GAPPED[[0, -1]] = 80
GAPPED[18:23, -1] = -80
MIDDLE = Pose(*FLOOR.frame.centre(40, 40))


def test_no_path_leads_through_a_collision_cell() -> None:
    """The place before a blocked robot is avoided, although the map shows it free."""
    planner = TeamPlanner(FLOOR.frame, [MIDDLE])
    report = report_at(MIDDLE, Patch(20, 20, GAPPED))
    planner.observe(0, report)
    x, y = planner.decide()[0].path[0]
    heading = math.atan2(y - MIDDLE.y, x - MIDDLE.x)
    stopped = Pose(*FLOOR.frame.centre(40, 44), heading)

    planner.observe(0, replace(report, pose=stopped, blocked=True, time=1.0))
    path = planner.decide()[0].path

    passable = np.ones(FLOOR.grid.shape, np.bool_)
    passable[FLOOR.frame.next_cell(stopped.x, stopped.y, heading)] = False
    waypoints = [FLOOR.frame.in_cells(*point) for point in ((stopped.x, stopped.y), *path)]
    assert all(math.isinf(clear_length(passable, *segment)) for segment in pairwise(waypoints))


def test_a_robot_without_a_stop_follows_and_says_so() -> None:
    """It has orders and no goal; at the end all are idle."""
    mission = Mission(8)
    followed = 0
    while orders := mission.step():
        activities = mission.planner.activities
        for slot, goal in enumerate(mission.planner.goals):
            doing = "exploring" if goal else "following" if orders[slot].path else "idle"
            assert activities[slot] == doing
            followed += doing == "following"

    assert followed
    assert mission.planner.activities == ["idle"] * 8


def test_what_could_not_be_entered_is_tried_once_more_at_the_end() -> None:
    """What was in the way may be gone: a robot does not stay shut out of a room."""
    corridor = np.full((11, 180), -80, np.int8)  # the disc fits in one row of it
    corridor[[0, 1, -2, -1]] = corridor[:, 0] = 80
    frame = GridFrame(40, 300, 0.05)
    start = Pose(*frame.centre(25, 30))
    planner = TeamPlanner(frame, [start])
    planner.observe(0, report_at(start, Patch(20, 20, corridor)))
    assert planner.decide()[0].path

    def blocked(time: float) -> dict[int, Order]:
        """Report that the robot could not go on."""
        nothing = Patch(0, 0, np.zeros((0, 0), np.int8))
        report = report_at(Pose(*frame.centre(25, 60)), nothing)
        planner.observe(0, replace(report, blocked=True, time=time))
        return planner.decide()

    assert blocked(1.0)[0].path
    assert blocked(2.0) == {}
    assert planner.done


def test_a_frontier_that_no_visit_resolves_is_abandoned() -> None:
    """It is seen for certain from its stop, and then left."""
    planner = TeamPlanner(FLOOR.frame, [MIDDLE])
    report = report_at(MIDDLE, Patch(20, 20, GAPPED))  # beyond the gap its lidar is blind
    visits = 0

    for _ in range(20):
        planner.observe(0, report)
        orders = planner.decide()
        if not orders:
            break
        visits += 1
        x, y = orders[0].path[-1]
        report = DriveReport(
            time=orders[0].until,
            pose=Pose(x, y),
            distance=0.0,
            path=((x, y),),
            reached=len(orders[0].path),
            arrived=True,
            blocked=False,
            patch=Patch(0, 0, np.zeros((0, 0), np.int8)),
        )

    assert planner.done
    assert visits == 1
    assert len(planner.frontiers_left) == 1


def test_a_team_without_robots_gets_no_orders() -> None:
    """When all robots are lost the exploration is not done, and no order is given."""
    mission = Mission(1)
    mission.planner.remove(0)

    assert mission.planner.decide() == {}
    assert not mission.planner.done


def test_a_barrier_waits_for_every_robot() -> None:
    """Deciding without a report is an error; otherwise processes would race."""
    mission = Mission(2)
    mission.planner.observe(0, mission.reports[0])

    with pytest.raises(ValueError, match=r"robots \[1\] have not reported"):
        mission.planner.decide()


def test_a_second_report_before_the_barrier_is_rejected() -> None:
    """A report that is delivered twice is an error."""
    mission = Mission(1)
    mission.planner.observe(0, mission.reports[0])

    with pytest.raises(ValueError, match="robot 0 has already reported"):
        mission.planner.observe(0, mission.reports[0])


@pytest.mark.parametrize("slot", [-1, 3])
def test_an_unknown_slot_is_rejected(slot: int) -> None:
    """A report of a robot outside the team changes nothing."""
    mission = Mission(1)

    with pytest.raises(ValueError, match=f"robot {slot} takes no part"):
        mission.planner.observe(slot, mission.reports[0])


@pytest.mark.parametrize(
    "corner", [(-1, 0), (0, -1), (FLOOR.frame.rows - 1, 0), (0, FLOOR.frame.cols - 1)]
)
def test_a_patch_outside_the_frame_is_rejected(corner: tuple[int, int]) -> None:
    """A report can never write beyond the map, or wrap around it."""
    mission = Mission(1)
    patch = Patch(*corner, np.ones((2, 2), np.int8))

    with pytest.raises(ValueError, match="robot 0: patch lies outside the frame"):
        mission.planner.observe(0, report_at(Pose(1.0, 1.0), patch))


def test_the_rest_of_a_frontier_counts_however_short() -> None:
    """A gap of 25 cm of which 20 are abandoned is not a gap between beams."""
    report = report_at(MIDDLE, Patch(20, 20, GAPPED))
    visits = np.zeros(FLOOR.grid.shape, np.uint8)
    visits[38:42, 60] = 2
    state = PlannerState(
        reports=(report,),
        lost=(),
        rounds=1,
        retried=FLOOR.grid.size,
        visits=visits,
        collision_cells=np.zeros(FLOOR.grid.shape, np.bool_),
    )

    orders = TeamPlanner.recover(FLOOR.frame, state, {}).decide()

    assert orders[0].path


@pytest.mark.parametrize("wide", [True, False])
def test_what_a_robot_can_stand_on_is_tried_once_more_at_the_end(wide: bool) -> None:
    """A door of 65 cm that was seen in vain is; a gap of 25 cm, in which no robot fits, is not."""
    room = GAPPED.copy()
    if wide:
        room[14:27, -1] = -80
    visits = np.zeros(FLOOR.grid.shape, np.uint8)
    visits[:, 60] = PlannerSettings().max_visits + 1
    state = PlannerState(
        reports=(report_at(MIDDLE, Patch(20, 20, room)),),
        lost=(),
        rounds=1,
        retried=None,
        visits=visits,
        collision_cells=np.zeros(FLOOR.grid.shape, np.bool_),
    )

    assert bool(TeamPlanner.recover(FLOOR.frame, state, {}).decide()) is wide


@pytest.mark.parametrize("is_open", [True, False])
def test_a_boxed_in_robot_backtracks_and_goes_on(is_open: bool) -> None:
    """Its track leads through what its map shows as wall; from there on walls count again."""
    shut = GAPPED.copy()
    shut[:, 15] = 80
    shut[:, 25] = shut[:, 25] if is_open else 80
    track = (MIDDLE, Pose(*FLOOR.frame.centre(40, 38)), Pose(*FLOOR.frame.centre(40, 28)))
    report = report_at(track[-1], Patch(20, 20, shut))
    report = replace(report, path=tuple((pose.x, pose.y) for pose in track))
    planner = TeamPlanner(FLOOR.frame, [track[-1]])

    planner.observe(0, report)
    orders = planner.decide()

    outside = track[1]
    assert [order.path[0] for order in orders.values()] == [(outside.x, outside.y)] * is_open


def test_a_recovered_planner_continues_where_the_first_one_was() -> None:
    """An older state and the robots' own reports lead to the same map."""
    undisturbed, mission = Mission(2).run(), Mission(2)
    whole: list[list[Point]] = [list(report.path) for report in mission.reports.values()]
    driven = [0.0, 0.0]
    for number in range(2):
        if number == 1:
            state = mission.planner.state()
        mission.step()
        for slot, report in mission.reports.items():
            whole[slot] += report.path[1:]
            driven[slot] += report.distance
    fresh = {
        slot: replace(robot.recall(), path=tuple(whole[slot]), distance=driven[slot])
        for slot, robot in enumerate(mission.team)
    }

    mission.planner = TeamPlanner.recover(FLOOR.frame, state, fresh)
    orders = mission.planner.decide()
    assert mission.planner.time == fresh[0].time
    assert mission.planner.distances == driven
    mission.reports = {
        slot: mission.team[slot].drive(order.path, order.until) for slot, order in orders.items()
    }
    mission.run()

    known = merge_layers(mission.planner.layers()) != UNKNOWN
    before = merge_layers(undisturbed.planner.layers()) != UNKNOWN
    assert np.count_nonzero(known) >= 0.99 * np.count_nonzero(before)
    assert mission.planner.time <= 1.2 * undisturbed.planner.time


def test_the_evidence_of_a_lost_robot_survives_its_planner() -> None:
    """The saved state holds its map, and the next planner gives it no orders."""
    mission = Mission(2)
    mission.step()
    for slot, report in mission.reports.items():
        mission.planner.observe(slot, report)
    mission.planner.decide()
    mission.planner.remove(1)
    seen = mission.planner.layers()[1]
    state = mission.planner.state()

    successor = TeamPlanner.recover(FLOOR.frame, state, {0: state.reports[0]})

    assert successor.active == [0]
    assert list(successor.decide()) == [0]
    assert np.array_equal(successor.layers()[1], seen)
    assert np.any(seen)


def test_a_forked_process_can_plan() -> None:
    """Its parent has planned before, with threads that the child does not have."""
    Mission(2).step()
    child = multiprocessing.get_context("fork").Process(target=lambda: Mission(2).step())
    child.start()
    child.join(20)
    try:
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
