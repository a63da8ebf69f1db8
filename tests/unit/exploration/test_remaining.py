"""The estimate of what is left of an exploration."""

import pytest

from app.exploration.planning.remaining import RemainingEstimator
from app.exploration.simulation.estimates import error_at, estimates_of
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.halls_and_caves import draw_cave


@pytest.mark.timeout(120)
def test_at_half_of_a_mission_most_estimates_are_near() -> None:
    """Within 30 % of the whole duration for eight of ten missions with one to four robots."""
    errors = []
    for number in range(10):
        floor = draw_cave(500 + number) if number % 2 else draw_rooms(6 + number)
        end_s, estimates = estimates_of(floor, 1 + number % 4, number)
        errors.append(abs(error_at(0.5, end_s, estimates)))
        assert all(each.least_s <= each.seconds <= each.most_s for _, each in estimates)
    assert sum(error <= 0.3 for error in errors) >= 8, errors


def test_nothing_is_left_without_frontiers() -> None:
    """Also for a mission that has no robot left."""
    estimator = RemainingEstimator()
    for robots, frontiers in (([(0.0, 0.0)], []), ([], [(1.0, 1.0)])):
        found = estimator.estimate(10.0, 5.0, robots=robots, frontiers=frontiers)
        assert found is not None
        assert (found.seconds, found.area_m2) == (0.0, 0.0)


def test_nothing_is_said_before_the_map_grows() -> None:
    """One observation shows no growth; a repeated one after a restart changes nothing."""
    estimator = RemainingEstimator()
    given = {"robots": [(0.0, 0.0), (0.0, 0.0)], "frontiers": [(4.0, 3.0), (4.0, 3.0)]}
    assert estimator.estimate(10.0, 5.0, **given) is None
    first = estimator.estimate(20.0, 8.0, **given)
    assert first is not None
    assert first.seconds > 0
    assert estimator.estimate(20.0, 8.0, **given) == first


def test_more_to_do_takes_longer_and_more_robots_less() -> None:
    """More frontiers farther away; the way is shared."""

    def seconds(robots: int, frontiers: list[tuple[float, float]]) -> float:
        estimator = RemainingEstimator()
        places = [(0.0, 0.0)] * robots
        estimator.estimate(10.0, 50.0, robots=places, frontiers=frontiers)
        found = estimator.estimate(20.0, 80.0, robots=places, frontiers=frontiers)
        assert found is not None
        return found.seconds

    near, far = [(3.0, 0.0)], [(3.0, 0.0), (20.0, 0.0), (0.0, 20.0)]
    assert seconds(1, far) > 2 * seconds(1, near)
    assert seconds(4, far) < seconds(1, far)
