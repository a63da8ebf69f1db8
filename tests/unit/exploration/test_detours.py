"""Small frontiers are viewed on the way if coming back for them would cost more."""

import numpy as np
import pytest

from app.exploration.planning.detours import Detour, best_detours


def on_a_line(
    robots: list[float],
    goals: list[float | None],
    stops: list[float],
    *,
    price: float = 1.0,
    driven_m: float = 0.0,
) -> list[Detour]:
    """Find the detours of robots on a straight line.

    Args:
        robots: where the robots are, metres.
        goals: where they drive to; None for a robot that is free.
        stops: where the stops are; their indices are those of the detours.
        price: what a metre of detour has to save if as much is left as was driven.
        driven_m: what was driven.
    """
    ahead = [goal for goal in goals if goal is not None]
    places = np.array([*stops, *ahead])
    numbers = iter(range(len(stops), len(places)))
    return best_detours(
        np.abs(np.array(robots)[:, None] - places),
        np.abs(places[:, None] - places),
        [None if goal is None else next(numbers) for goal in goals],
        np.arange(len(stops)),
        price=price,
        driven_m=driven_m,
    )


@pytest.mark.parametrize(("robot", "taken"), [(1.0, True), (3.0, True), (6.0, False)])
def test_a_stop_behind_is_taken_while_it_is_near(robot: float, taken: bool) -> None:
    """A stop at 0 costs 10 m from the goal at 10: twice 1 or 3 m of detour are less, twice 6 are not."""
    detours = on_a_line([robot], [10.0], [0.0])

    assert [detour.stops for detour in detours] == ([(0,)] if taken else [])


def test_a_stop_near_another_that_stays_is_left() -> None:
    """The last stop before a goal costs nothing to come back for if the next ones are beside it."""
    assert on_a_line([0.0], [30.0], [40.0, 41.0]) == []


def test_stops_together_are_taken_together() -> None:
    """Two stops in a side room are worth a detour together; they are viewed in order."""
    (detour,) = on_a_line([3.0], [20.0], [0.0, 1.0])

    assert sorted(detour.stops) == [0, 1]


def test_no_two_robots_take_one_stop() -> None:
    """Of two robots beside each other, one takes the stop and the other drives on."""
    detours = on_a_line([1.0, 1.5], [30.0, 40.0], [0.0])

    assert [detour.stops for detour in detours] == [(0,)]


@pytest.mark.parametrize(("free", "taken"), [(-2.0, False), (-30.0, True)])
def test_a_stop_near_a_free_robot_is_left_to_it(free: float, taken: bool) -> None:
    """Nobody has to come back for it, unless the free robot is as far away as the goal."""
    detours = on_a_line([1.0, free], [30.0, None], [0.0])

    assert [detour.robot for detour in detours] == ([0] if taken else [])


def test_a_robot_that_does_not_reach_its_goal_takes_no_detour() -> None:
    """Without a way to its goal nothing can be said about coming back."""
    start_m, between_m = np.array([[1.0, np.inf]]), np.array([[0.0, 10.0], [10.0, 0.0]])

    assert best_detours(start_m, between_m, [1], np.array([0]), price=1.0, driven_m=0.0) == []


def test_the_gain_is_what_the_way_back_saves_less_the_detour() -> None:
    """Ten metres back, less two metres of detour."""
    assert on_a_line([1.0], [10.0], [0.0]) == [Detour(8.0, 0, (0,))]


@pytest.mark.parametrize(
    ("price", "driven_m", "gain"),
    [(1.5, 10.0, 1.0), (1.5, 8.0, 4.0), (1.5, 20.0, None), (0.4, 20.0, 0.4), (2.0, 10.0, None)],
)
def test_a_detour_has_to_save_more_while_little_is_left_behind(
    price: float, driven_m: float, gain: float | None
) -> None:
    """Six metres of detour, to save ten of way back, count more the less is left of what was driven."""
    detours = on_a_line([3.0], [10.0], [0.0], price=price, driven_m=driven_m)

    assert [detour.gain for detour in detours] == ([] if gain is None else [pytest.approx(gain)])


def test_a_detour_has_to_save_less_while_much_is_left_behind() -> None:
    """With 10 m left behind a detour is too long that is taken with 50 m more at the other end."""
    assert on_a_line([3.0], [10.0], [0.0], price=2.0, driven_m=10.0) == []
    (detour,) = on_a_line([3.0], [10.0], [0.0, 60.0], price=2.0, driven_m=10.0)

    assert detour.stops == (0,)
