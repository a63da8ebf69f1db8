"""Frontiers are assigned to robots jointly."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.driver import Pose
from app.exploration.grid import OCCUPIED, UNKNOWN
from app.exploration.planning.assignment import (
    Costs,
    assign_discounted,
    assign_hungarian,
    initial_bearings,
)
from app.exploration.planning.frontier_costs import unknown_area_in_sight


@given(
    costs=arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, max_side=4),
        elements=st.one_of(st.integers(-20, 50).map(float), st.just(math.inf)),
    )
)
def test_the_hungarian_method_serves_most_robots_at_least_cost(costs: Costs) -> None:
    """No other assignment gives more robots a goal, or as many at a lower cost."""
    rows, cols = costs.shape
    size = min(rows, cols)
    best = (0, 0.0)
    for some in itertools.permutations(range(rows), size):
        for others in itertools.combinations(range(cols), size):
            possible = [
                costs[pair] for pair in zip(some, others, strict=True) if costs[pair] < math.inf
            ]
            best = min(best, (-len(possible), sum(possible)))

    chosen = assign_hungarian(costs)

    assert len(set(chosen.values())) == len(chosen)
    assert (-len(chosen), sum(costs[pair] for pair in chosen.items())) == pytest.approx(best)


def test_a_frontier_near_an_assigned_one_is_discounted() -> None:
    """The second robot goes to the distant frontier, though one near the first's is closer."""
    costs = np.array([[1.0, 3.0, 6.0], [2.0, 3.0, 6.0], [math.inf, math.inf, math.inf]])
    distances = np.array([[0.0, 1.0, 9.0], [1.0, 0.0, 9.0], [9.0, 9.0, 0.0]])

    assert assign_discounted(costs, distances, discount=8.0, reach=8.0) == {0: 0, 1: 2}
    assert assign_discounted(costs, distances, discount=1.0, reach=8.0) == {0: 0, 1: 1}


def test_a_team_that_starts_together_spreads_out() -> None:
    """Each robot gets the direction of its side of the team, evenly spaced."""
    poses = [Pose(0.0, 1.0), Pose(1.0, 0.0), Pose(0.0, -1.0), Pose(-1.0, 0.0)]

    bearings = initial_bearings(poses)

    assert [round(math.degrees(bearing)) for bearing in bearings] == [90, 0, 270, 180]


def test_unknown_area_counts_within_the_line_of_sight() -> None:
    """Half a disc lies beyond an open frontier, and nothing behind a wall."""
    grid = np.zeros((40, 40), np.int8)
    grid[20:] = UNKNOWN
    walled = grid.copy()
    walled[20] = OCCUPIED
    cell = np.array([[19, 20]], np.int32)

    assert unknown_area_in_sight(grid, cell, 15.0)[0] == pytest.approx(math.pi * 15**2 / 2, rel=0.1)
    assert unknown_area_in_sight(walled, cell, 15.0)[0] == 0.0


def test_cells_outside_the_map_are_unknown() -> None:
    """Beyond the edge of the map lies unknown area, not the end of the world."""
    grid = np.zeros((4, 40), np.int8)
    cell = np.array([[2, 20]], np.int32)

    assert unknown_area_in_sight(grid, cell, 15.0)[0] > math.pi * 15**2 / 2
