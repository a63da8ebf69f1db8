"""Routes visit each stop once, and the longest is close to the shortest possible."""

import itertools
import time

import numpy as np
import pytest

from app.exploration.planning.min_max_routes import Metres, plan_routes, route_lengths


def places(robots: int, stops: int, seed: int) -> tuple[Metres, Metres]:
    """Return the distances of random places in a square of 50 m."""
    random = np.random.default_rng(seed)
    at, start = random.uniform(0, 50, (stops, 2)), random.uniform(0, 50, (robots, 2))
    return (
        np.hypot(*(start[:, None] - at[None]).transpose(2, 0, 1)),
        np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)),
    )


def shortest_longest(start: Metres, between: Metres) -> float:
    """Return the length of the longest route of the best plan, by trying all."""
    robots, stops = start.shape
    best: dict[tuple[int, frozenset[int]], float] = {}
    for robot in range(robots):
        for size in range(stops + 1):
            for chosen in itertools.combinations(range(stops), size):
                best[robot, frozenset(chosen)] = min(
                    float(route_lengths([order], start[robot : robot + 1], between)[0])
                    for order in itertools.permutations(chosen)
                )
    return min(
        max(
            best[robot, frozenset(stop for stop in range(stops) if owners[stop] == robot)]
            for robot in range(robots)
        )
        for owners in itertools.product(range(robots), repeat=stops)
    )


def test_small_plans_are_close_to_the_best() -> None:
    """The mean of 30 plans is within 3 % of the best, and most plans are the best."""
    ratios = []
    for seed in range(30):
        start, between = places(1 + seed % 3, 2 + seed % 5, seed)
        routes = plan_routes(start, between)
        assert sorted(itertools.chain(*routes)) == list(range(start.shape[1]))
        longest = float(route_lengths(routes, start, between).max())
        ratios.append(longest / shortest_longest(start, between))

    assert min(ratios) > 1 - 1e-9
    assert np.mean(ratios) < 1.03
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) >= 24


def test_a_stop_goes_to_a_robot_that_reaches_it() -> None:
    """A stop that no robot reaches is in no route, and the others are planned."""
    start, between = places(2, 6, 7)
    start[0, 1] = np.inf
    start[:, 4] = np.inf

    routes = plan_routes(start, between)

    assert 1 not in routes[0]
    assert sorted(itertools.chain(*routes)) == [0, 1, 2, 3, 5]


def test_a_robot_that_starts_later_gets_less() -> None:
    """Two robots at one place share the stops by the way that each has to drive before."""
    start, between = places(1, 12, 3)
    both = np.vstack([start, start])

    routes = plan_routes(both, between, offset=np.array([0.0, 500.0]))

    assert [len(route) for route in routes] == [12, 0]


@pytest.mark.parametrize(("robots", "stops"), [(0, 3), (2, 0)])
def test_nothing_to_plan(robots: int, stops: int) -> None:
    """Without robots or without stops all routes are empty."""
    routes = plan_routes(np.zeros((robots, stops)), np.zeros((stops, stops)))

    assert routes == [[]] * robots


def test_a_large_plan_takes_seconds() -> None:
    """64 robots and 500 stops are planned within 20 s of CPU time."""
    start, between = places(64, 500, 1)
    plan_routes(*places(2, 3, 0))  # compiled before it is measured
    began = time.process_time()

    routes = plan_routes(start, between)

    assert time.process_time() - began < 20.0
    assert sorted(itertools.chain(*routes)) == list(range(500))
    assert route_lengths(routes, start, between).max() < 30.0
