"""Who goes where is chosen jointly, and a target really shows its frontier."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.assignment import Costs, assign, discounted, divide, targets, unknown_in_sight
from app.exploration.driver import Pose
from app.exploration.frontiers import Frontier
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN
from app.exploration.planning import UNREACHED, clear_length, distance_field


@given(
    costs=arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, max_side=4),
        elements=st.one_of(st.integers(-20, 50).map(float), st.just(math.inf)),
    )
)
def test_the_choice_serves_most_robots_at_least_cost(costs: Costs) -> None:
    """No other choice gives more robots a goal, nor as many at less cost."""
    rows, cols = costs.shape
    size = min(rows, cols)
    best = (0, 0.0)
    for some in itertools.permutations(range(rows), size):
        for others in itertools.combinations(range(cols), size):
            possible = [
                costs[pair] for pair in zip(some, others, strict=True) if costs[pair] < math.inf
            ]
            best = min(best, (-len(possible), sum(possible)))

    chosen = assign(costs)

    assert len(set(chosen.values())) == len(chosen)
    assert (-len(chosen), sum(costs[pair] for pair in chosen.items())) == pytest.approx(best)


def test_what_lies_beside_a_chosen_frontier_is_worth_less() -> None:
    """The second robot goes to the frontier far away, though one beside the first's is nearer."""
    costs = np.array([[1.0, 3.0, 6.0], [2.0, 3.0, 6.0], [math.inf, math.inf, math.inf]])
    apart = np.array([[0.0, 1.0, 9.0], [1.0, 0.0, 9.0], [9.0, 9.0, 0.0]])

    assert discounted(costs, apart, most=8.0, reach=8.0) == {0: 0, 1: 2}
    assert discounted(costs, apart, most=1.0, reach=8.0) == {0: 0, 1: 1}


def test_a_team_that_stands_together_parts_in_different_directions() -> None:
    """Each robot gets the direction on whose side it stands, evenly apart."""
    poses = [Pose(0.0, 1.0), Pose(1.0, 0.0), Pose(0.0, -1.0), Pose(-1.0, 0.0)]

    bearings = divide(poses)

    assert [round(math.degrees(bearing)) for bearing in bearings] == [90, 0, 270, 180]


def test_a_target_is_the_cheapest_cell_that_sees_the_frontier() -> None:
    """A cell behind a wall is nearer and useless: it is not chosen."""
    grid = np.zeros((9, 21), np.int8)
    grid[4, :18] = OCCUPIED
    grid[7, 2] = UNKNOWN
    frontier = Frontier(np.array([[6, 2]], np.int32))
    field = distance_field(grid == FREE, (2, 2))

    costs, cells = targets(field, grid, [frontier], reach=4, stride=1)

    row, col = (int(index) for index in cells[0])
    assert row > 4
    assert math.hypot(row - 6, col - 2) <= 4
    assert costs[0] == field[row, col]


def test_a_place_that_sees_nothing_unknown_is_no_target() -> None:
    """Seeing the frontier's own cell teaches nothing: what lies beyond it must be in sight."""
    grid = np.zeros((7, 12), np.int8)
    grid[0] = OCCUPIED
    grid[2, 6:9] = OCCUPIED
    grid[1, 6] = UNKNOWN
    frontier = Frontier(np.array([[1, 5]], np.int32))
    field = distance_field(grid == FREE, (6, 5))

    costs, cells = targets(field, grid, [frontier], reach=6, stride=1)

    place = (float(cells[0][0]) + 0.5, float(cells[0][1]) + 0.5)
    assert clear_length(grid != OCCUPIED, place, (1.5, 6.5)) == math.inf
    assert clear_length(grid != OCCUPIED, (6.5, 5.5), (1.5, 5.5)) == math.inf
    assert costs[0] > field[6, 5]


def test_a_frontier_out_of_reach_has_no_target() -> None:
    """A frontier that nobody can get near is told apart from one that costs nothing."""
    grid = np.zeros((9, 9), np.int8)
    grid[:, 4] = OCCUPIED
    grid[5, [1, 8]] = UNKNOWN
    near = Frontier(np.array([[4, 1]], np.int32))
    far = Frontier(np.array([[4, 8]], np.int32))

    costs, _ = targets(distance_field(grid == FREE, (4, 1)), grid, [near, far], reach=3, stride=1)

    assert costs.tolist() == [0, UNREACHED]


def test_unknown_ground_counts_as_far_as_it_may_be_seen() -> None:
    """Half a disc of it lies beyond an open border, and none behind a wall."""
    grid = np.zeros((40, 40), np.int8)
    grid[20:] = UNKNOWN
    walled = grid.copy()
    walled[20] = OCCUPIED
    cell = np.array([[19, 20]], np.int32)

    assert unknown_in_sight(grid, cell, 15.0)[0] == pytest.approx(math.pi * 15**2 / 2, rel=0.1)
    assert unknown_in_sight(walled, cell, 15.0)[0] == 0.0


def test_what_lies_outside_the_map_is_unknown() -> None:
    """The map ends where nobody has been, not where the world does."""
    grid = np.zeros((4, 40), np.int8)
    cell = np.array([[2, 20]], np.int32)

    assert unknown_in_sight(grid, cell, 15.0)[0] > math.pi * 15**2 / 2
