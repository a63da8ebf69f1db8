"""A stop rule is read strictly, and ends an exploration when it is met."""

import math

import numpy as np
import pytest

from app.exploration.evaluation.map_quality import coverage, observable
from app.exploration.planning.frontiers import coverage_in_sight
from app.exploration.planning.settings import DEFAULT_SETTINGS
from app.exploration.planning.stop_rule import BadStopRule, StopRule
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.simulate import simulate
from app.exploration.simulation.simulated_robot import SimulatedRobot
from app.exploration.simulation.start_poses import start_poses

FLOOR = draw_rooms(6)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("everything", StopRule()),
        ("coverage:0.95", StopRule("coverage", 0.95)),
        ("frontier:1.5", StopRule("frontier", 1.5)),
        ("time:600", StopRule("time", 600.0)),
        ("battery:30", StopRule("battery", 30.0)),
    ],
)
def test_each_form_is_read(text: str, rule: StopRule) -> None:
    """All forms that the error names are accepted."""
    assert StopRule.parse(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "all", "everything:1", "coverage", "coverage:", "coverage:0", "coverage:1.01"),
        *("coverage:-0.5", "coverage:nan", "coverage:95%", "frontier:inf", "frontier:-1"),
        *("time:0", "time:abc", "battery:101", "Time:5", "time:1e99", "time:5:6"),
    ],
)
def test_other_forms_are_refused_in_one_line(text: str) -> None:
    """The error names the field, what was given, and the forms that exist."""
    with pytest.raises(BadStopRule, match=r"^until: .*give everything, coverage:SHARE") as caught:
        StopRule.parse(text)

    assert "\n" not in str(caught.value)


def test_everything_is_the_default() -> None:
    """The default rule is never met: the planner ends by itself."""
    assert simulate(FLOOR, 2, 1).seconds == simulate(FLOOR, 2, 1, until=StopRule()).seconds


def test_a_time_is_kept_to_the_second() -> None:
    """The exploration ends at the second, though barriers are up to 4 s apart."""
    assert math.isclose(simulate(FLOOR, 2, 1, until=StopRule("time", 11.5)).seconds, 11.5)


def test_a_longest_frontier_leaves_the_short_ones() -> None:
    """Frontiers below the limit are left, which takes less time."""
    whole = simulate(FLOOR, 1, 1)
    rough = simulate(FLOOR, 1, 1, until=StopRule("frontier", 1.0))

    assert rough.seconds < whole.seconds
    assert rough.seconds > 0.0


def _in_sight(planner: TeamPlanner) -> float:
    reach = planner.settings.sensor_range_m
    return coverage_in_sight(planner.team_grid(), planner.frame, planner.frontiers_left, reach)


def test_a_coverage_is_an_upper_limit_of_the_true_one() -> None:
    """It rises to 1, never below the true coverage by much, and ends the exploration early."""
    starts = start_poses(FLOOR, 1, 1)
    robot, planner = SimulatedRobot(FLOOR, slot=0, seed=1), TeamPlanner(FLOOR.frame, starts)
    seen = observable(FLOOR, starts[0])
    assert _in_sight(planner) == 0.0
    planner.observe(0, robot.deploy(starts[0]))
    first = _in_sight(planner)
    while orders := planner.decide():
        planner.observe(0, robot.drive(orders[0].path, orders[0].until))

    assert first < coverage(planner.team_grid(), FLOOR, seen)
    assert first < _in_sight(planner)
    early = simulate(FLOOR, 1, 1, until=StopRule("coverage", 0.6))
    assert 0.3 < coverage(early.grid, FLOOR, seen) < 1.0
    assert early.seconds < planner.time


def test_the_emptiest_battery_decides() -> None:
    """The rule is met when the first robot's charge is down to the limit."""
    planner = TeamPlanner(FLOOR.frame, start_poses(FLOOR, 1, 1))
    rule = StopRule("battery", 30.0)

    assert not rule.is_met(planner, [80.0, 30.1])
    assert rule.is_met(planner, [80.0, 30.0])
    assert not rule.is_met(planner)
    assert rule.apply_to(DEFAULT_SETTINGS) == DEFAULT_SETTINGS
    assert np.isclose(StopRule("frontier", 1.0).apply_to(DEFAULT_SETTINGS).frontier_min_m, 1.0)
