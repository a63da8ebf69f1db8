"""Robots without a stop follow others."""

import math

import numpy as np
import pytest

from app.exploration.driver import Point, Pose
from app.exploration.grid import Box, GridFrame
from app.exploration.planning.following import ways_behind
from app.exploration.planning.goals import Goal, RobotState
from app.exploration.planning.planning_map import PlanningMap, build_planning_map
from app.exploration.planning.settings import DEFAULT_SETTINGS

FRAME = GridFrame(60, 400, 0.05)
ROW = 30
WIDE, NARROW = 20, 19  # cells; a frontier of one metre is open


def corridor(wall: int | None = None) -> PlanningMap:
    """Return the map of a corridor of 2 m along x, walled up at a column."""
    evidence = np.zeros((60, 400), np.int16)
    evidence[10:51] = 80
    evidence[11:50, 1:399] = -80
    if wall is not None:
        evidence[:, wall] = 80
    return build_planning_map(evidence, np.zeros((60, 400), np.bool_), Box(10, 0, 51, 400), FRAME)


def at(metres: float) -> Pose:
    """Return the pose in the middle of the corridor, some metres along it."""
    return Pose(metres, FRAME.centre(ROW, 0)[1])


def heading_to(metres: float, cells: int = WIDE) -> RobotState:
    """Return a robot that drives to a stop some metres along the corridor."""
    stop = FRAME.cell(metres, at(0.0).y)
    return RobotState(at(1.0), Goal(np.zeros((cells, 2), np.int32), stop, (), 0.2))


def ends_of(view: PlanningMap, *robots: RobotState) -> list[float | None]:
    """Return how far along the corridor each way ends, None for none."""
    ways: list[tuple[Point, ...]] = ways_behind(robots, view, FRAME, DEFAULT_SETTINGS)
    return [way[-1][0] if way else None for way in ways]


def test_each_ends_a_distance_behind_the_one_before() -> None:
    """The nearest is 2 m from the stop, the next 4 m; a robot with a goal follows nobody."""
    ends = ends_of(corridor(), heading_to(12.0), RobotState(at(2.0)), RobotState(at(3.0)))

    assert ends == [None, pytest.approx(8.0, abs=0.1), pytest.approx(10.0, abs=0.1)]


def test_they_spread_over_the_stops() -> None:
    """Both are nearer to one stop, and one goes to each."""
    leaders = heading_to(8.0), heading_to(16.0)
    ends = ends_of(corridor(), *leaders, RobotState(at(2.0)), RobotState(at(3.0)))

    assert ends[2:] == [pytest.approx(14.0, abs=0.1), pytest.approx(6.0, abs=0.1)]


def test_nobody_follows_from_afar() -> None:
    """From 15 m on: much of a floor may lie between, and the robot is better off where it is."""
    ends = ends_of(corridor(), heading_to(18.0), RobotState(at(2.5)), RobotState(at(3.5)))

    assert ends == [None, None, pytest.approx(16.0, abs=0.1)]


def test_a_way_is_driven_from_where_the_robot_is() -> None:
    """It goes towards the stop from either side."""
    (_, way) = ways_behind(
        [heading_to(8.0), RobotState(at(15.0))], corridor(), FRAME, DEFAULT_SETTINGS
    )

    assert [x for x, _ in way] == sorted((x for x, _ in way), reverse=True)
    assert way[-1][0] == pytest.approx(10.0, abs=0.1)
    assert math.isclose(way[-1][1], at(0.0).y, abs_tol=0.05)


def test_nobody_is_followed_without_need() -> None:
    """A small frontier needs one robot, a near one is reached soon, and a wall is in the way."""
    free = RobotState(at(2.0))

    assert ends_of(corridor(), heading_to(12.0, NARROW), free) == [None, None]
    assert ends_of(corridor(), heading_to(3.5), free) == [None, None]
    assert ends_of(corridor(wall=200), heading_to(12.0), free) == [None, None]
    assert ends_of(corridor(), free) == [None]
