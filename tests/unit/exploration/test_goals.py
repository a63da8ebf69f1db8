"""Goals are chosen jointly, stay valid while their paths do, and lead boxed-in robots out."""

import math
from dataclasses import replace

import numpy as np

from app.exploration.driver import Pose
from app.exploration.grid import Box, GridFrame
from app.exploration.planning.frontiers import cluster_frontiers
from app.exploration.planning.goal_selection import choose_goals
from app.exploration.planning.goals import Goal, RobotState, is_valid
from app.exploration.planning.planning_map import PlanningMap, build_planning_map
from app.exploration.planning.settings import PlannerSettings

FRAME = GridFrame(60, 60, 0.1)
FREE, WALL = -17, 24
NEAR, NEXT, FAR = 12, 23, 50  # columns of three gates in the hall's far wall


def hall(*, partition: bool) -> PlanningMap:
    """Draw a hall with three gates as exits, with or without a wall between the first two."""
    evidence = np.zeros((60, 60), np.int16)
    evidence[19:41, 1:59] = WALL
    evidence[20:40, 2:58] = FREE
    for gate in (NEAR, NEXT, FAR):
        evidence[40, gate - 4 : gate + 5] = 0
    if partition:
        evidence[31:41, 17] = WALL
    return build_planning_map(evidence, np.zeros((60, 60), np.bool_), Box(19, 1, 41, 59), FRAME)


def gates(view: PlanningMap) -> list[int]:
    """Send two robots that stand before the first two gates; return the columns of their goals."""
    robots = [RobotState(Pose(x, 2.5)) for x in (1.2, 2.3)]
    frontiers = cluster_frontiers(view.frontier_mask, min_cells=2, max_extent=40)
    settings = PlannerSettings(discount_m=8.0, sensor_range_m=8.0)
    goals = choose_goals(robots, frontiers, view, FRAME, settings, far=False)
    return [round(float(goal.cells[:, 1].mean())) for goal in goals if goal is not None]


def test_one_robot_explores_two_neighbouring_frontiers() -> None:
    """From one gate the next one's unknown area is visible too: the second robot goes further."""
    assert gates(hall(partition=False)) == [NEAR, FAR]


def test_a_frontier_behind_a_wall_is_not_discounted() -> None:
    """Two rooms side by side reveal nothing about each other, however close they are."""
    assert gates(hall(partition=True)) == [NEAR, NEXT]


def test_a_team_sends_one_robot_to_a_large_unknown_area() -> None:
    """One robot takes the near nooks first; of two robots, one goes to the large area."""
    evidence = np.zeros((60, 60), np.int16)
    evidence[10:21, 1:59] = WALL
    evidence[11:20, 2:58] = FREE
    for nook in (10, 16):
        evidence[20:24, nook - 2 : nook + 3] = WALL
        evidence[20:22, nook - 1 : nook + 2] = [[FREE] * 3, [0] * 3]
    evidence[11:20, 58] = 0
    view = build_planning_map(evidence, np.zeros((60, 60), np.bool_), Box(10, 1, 24, 59), FRAME)
    frontiers = cluster_frontiers(view.frontier_mask, min_cells=2, max_extent=40)
    settings = PlannerSettings(radius=0.1, length_gain=0.0, view_gain=1.0, view_gain_max_m=20.0)

    def ends(*x: float) -> list[bool]:
        robots = [RobotState(Pose(at, 1.5)) for at in x]
        goals = choose_goals(robots, frontiers, view, FRAME, settings, far=False)
        return [goal is not None and bool(goal.cells[:, 1].mean() > 50) for goal in goals]

    assert ends(1.2) == [False]
    assert sorted(ends(1.2, 1.8)) == [False, True]


def test_a_boxed_in_robot_backtracks() -> None:
    """A new wall leaves no route but its own track, without the loop that it drove."""
    evidence = np.zeros((60, 60), np.int16)
    evidence[19:41, 1:59] = WALL
    evidence[20:40, 2:58] = FREE
    evidence[20:40, 30] = WALL
    evidence[40, 46:55] = 0
    view = build_planning_map(evidence, np.zeros((60, 60), np.bool_), Box(19, 1, 41, 59), FRAME)
    frontiers = cluster_frontiers(view.frontier_mask, min_cells=2, max_extent=40)
    came = ((4.55, 3.05), (2.05, 3.05), (1.05, 2.55), (1.55, 2.05), (2.05, 3.05), (1.55, 3.55))
    inside = Pose(*came[-1])

    def sent(track: tuple[tuple[float, float], ...]) -> Goal | None:
        robots = [RobotState(inside, track=track)]
        return choose_goals(robots, frontiers, view, FRAME, PlannerSettings(), far=False)[0]

    assert sent(()) is None
    goal = sent(came)
    assert goal is not None
    assert goal.path[: goal.backtrack] == ((2.05, 3.05), (4.55, 3.05))
    assert math.dist(goal.path[-1], FRAME.centre(40, 50)) < 1.0
    assert is_valid(goal, inside, view, view.frontier_mask, FRAME)
    assert not is_valid(replace(goal, backtrack=0), inside, view, view.frontier_mask, FRAME)
