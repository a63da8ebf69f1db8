"""Small frontiers are viewed on the way if coming back for them would cost more."""

import numpy as np
import pytest

from app.exploration.planning.detours import Detour, best_detours
from app.exploration.planning.min_max_routes import Metres


def on_a_line(robots: list[float], goals: list[float], stops: list[float]) -> tuple[Metres, Metres]:
    """Return the metres from robots to stops and goals, and between those, on a straight line."""
    places = np.array([*stops, *goals])
    return (
        np.abs(np.array(robots)[:, None] - places),
        np.abs(places[:, None] - places),
    )


@pytest.mark.parametrize(("robot", "taken"), [(1.0, True), (3.0, True), (6.0, False)])
def test_a_stop_behind_is_taken_while_it_is_near(robot: float, taken: bool) -> None:
    """A stop at 0 costs 10 m from the goal at 10: twice 1 or 3 m of detour are less, 12 m are not."""
    start_m, between_m = on_a_line([robot], [10.0], [0.0])

    detours = best_detours(start_m, between_m, 1, price=1.5)

    assert [detour.stops for detour in detours] == ([(0,)] if taken else [])


def test_a_stop_near_another_that_stays_is_left() -> None:
    """The last stop before a goal costs nothing to come back for if the next ones are beside it."""
    start_m, between_m = on_a_line([0.0], [30.0], [40.0, 41.0])

    assert best_detours(start_m, between_m, 2, price=1.5) == []


def test_stops_together_are_taken_together() -> None:
    """Two stops in a side room are worth a detour together; they are viewed in order."""
    start_m, between_m = on_a_line([3.0], [20.0], [0.0, 1.0])

    (detour,) = best_detours(start_m, between_m, 2, price=1.5)

    assert sorted(detour.stops) == [0, 1]


def test_no_two_robots_take_one_stop() -> None:
    """Of two robots beside each other, one takes the stop and the other drives on."""
    start_m, between_m = on_a_line([1.0, 1.5], [30.0, 40.0], [0.0])

    assert [detour.stops for detour in best_detours(start_m, between_m, 1, price=1.5)] == [(0,)]


def test_a_robot_that_does_not_reach_its_goal_takes_no_detour() -> None:
    """Without a way to its goal nothing can be said about coming back."""
    start_m, between_m = on_a_line([1.0], [10.0], [0.0])
    start_m[0, 1] = np.inf

    assert best_detours(start_m, between_m, 1, price=1.5) == []


def test_the_gain_is_what_the_way_back_saves_less_the_price() -> None:
    """Ten metres back, less one and a half times two metres of detour."""
    start_m, between_m = on_a_line([1.0], [10.0], [0.0])

    assert best_detours(start_m, between_m, 1, price=1.5) == [Detour(7.0, 0, (0,))]
