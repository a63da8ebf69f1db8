"""Paths are shortest, passable and have few waypoints; clearance is in metres."""

import heapq
import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.clearance import clear_length, clearance_map, traversable
from app.exploration.grid import Cell, Mask
from app.exploration.shortest_paths import DIAGONAL, STRAIGHT, UNREACHED, distance_field, path_to

masks = arrays(
    np.bool_,
    array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([True, True, True, False]),
)


def dijkstra(passable: Mask, start: Cell) -> dict[Cell, int]:
    """Compute the same costs with a heap, in the simplest form."""
    costs = {start: 0}
    queue = [(0, start)]
    while queue:
        cost, (row, col) = heapq.heappop(queue)
        for row_step in (-1, 0, 1):
            for col_step in (-1, 0, 1):
                to = (row + row_step, col + col_step)
                sides = [to, (row, to[1]), (to[0], col)]
                if not all(
                    0 <= r < passable.shape[0] and 0 <= c < passable.shape[1] for r, c in sides
                ):
                    continue
                if not all(passable[side] for side in sides if side != (row, col)):
                    continue
                step = DIAGONAL if row_step and col_step else STRAIGHT
                if cost + step < costs.get(to, UNREACHED):
                    costs[to] = cost + step
                    heapq.heappush(queue, (cost + step, to))
    return costs


@settings(max_examples=150, deadline=None)
@given(passable=masks, data=st.data())
def test_the_field_holds_the_shortest_costs(passable: Mask, data: st.DataObject) -> None:
    """Dial's buckets find what a heap finds, on any mask, from passable and other cells."""
    start = tuple(data.draw(st.integers(0, size - 1)) for size in passable.shape)

    field = distance_field(passable, (start[0], start[1]))

    costs = dijkstra(passable, (start[0], start[1]))
    expected = np.full(passable.shape, UNREACHED)
    for cell, cost in costs.items():
        expected[cell] = cost
    assert np.array_equal(field, expected)


def test_a_field_spreads_far_over_free_cells() -> None:
    """A wave longer than the first buckets loses no cell."""
    field = distance_field(np.ones((900, 900), np.bool_), (450, 450))

    assert int(field.max()) == 450 * DIAGONAL
    assert int(field[450, 899]) == 449 * STRAIGHT


@settings(max_examples=150, deadline=None)
@given(passable=masks, data=st.data())
def test_a_path_runs_over_passable_cells_to_its_target(passable: Mask, data: st.DataObject) -> None:
    """From any position in the start cell, every segment of the path is clear."""
    passable[0, 0] = True
    position = (data.draw(st.floats(0.001, 0.999)), data.draw(st.floats(0.001, 0.999)))
    field = distance_field(passable, (0, 0))
    reached = np.argwhere(field < UNREACHED)
    target = tuple(int(index) for index in reached[data.draw(st.integers(0, len(reached) - 1))])

    path = path_to(field, passable, position, (target[0], target[1]))

    waypoints = [position, *((row + 0.5, col + 0.5) for row, col in path)]
    assert path[-1] == target
    assert all(clear_length(passable, start, end) == math.inf for start, end in pairwise(waypoints))
    steps = [math.dist(start, end) for start, end in pairwise(waypoints)]
    assert sum(steps) <= field[target] / STRAIGHT * 1.02 + 1.5


def test_a_straight_path_has_one_waypoint() -> None:
    """Free space needs no corners."""
    passable = np.ones((20, 30), np.bool_)

    path = path_to(distance_field(passable, (3, 4)), passable, (3.5, 4.5), (17, 25))

    assert path == [(17, 25)]


def test_a_path_goes_around_a_wall_without_cutting_its_corner() -> None:
    """The two cells that touch at a wall's corner are not neighbours."""
    passable = np.array([[True, False], [True, True]])

    assert path_to(distance_field(passable, (0, 0)), passable, (0.5, 0.5), (1, 1)) == [
        (1, 0),
        (1, 1),
    ]


def test_there_is_no_path_to_an_unreached_cell() -> None:
    """An impossible target is an error, not an endless loop."""
    passable = np.array([[True, False, True]])

    with pytest.raises(ValueError, match=r"cell \(0, 2\) is not reached"):
        path_to(distance_field(passable, (0, 0)), passable, (0.5, 0.5), (0, 2))


def test_a_line_is_as_clear_back_as_forth() -> None:
    """Lines between centres often pass corners; the direction must not matter."""
    passable = np.random.default_rng(3).random((12, 12)) > 0.25
    centres = [(row + 0.5, col + 0.5) for row, col in np.argwhere(passable).tolist()]

    forth = {pair: clear_length(passable, *pair) for pair in permutations(centres, 2)}

    assert sum(map(math.isinf, forth.values())) > 100
    assert all(math.isinf(forth[one, two]) == math.isinf(forth[two, one]) for one, two in forth)


def test_a_line_cuts_no_corner() -> None:
    """No line passes between two barred cells that touch at a corner, or past a single one."""
    passable = np.ones((2, 2), np.bool_)
    passable[0, 1] = False

    assert clear_length(passable, (0.5, 0.5), (1.5, 1.5)) == pytest.approx(math.sqrt(0.5))


def test_a_clear_length_ends_where_the_first_barred_cell_begins() -> None:
    """The length is measured to the cell's border, in any direction."""
    passable = np.ones((1, 10), np.bool_)
    passable[0, 6] = False

    assert clear_length(passable, (0.5, 1.5), (0.5, 9.5)) == pytest.approx(4.5)
    assert clear_length(passable, (0.5, 9.5), (0.5, 1.5)) == pytest.approx(2.5)
    assert clear_length(passable, (0.5, 1.5), (0.5, 5.5)) == math.inf


def test_clearance_is_in_metres_to_obstacles_and_to_the_edge() -> None:
    """Obstacles and the edge of the grid both limit the clearance."""
    obstacles = np.zeros((9, 30), np.bool_)
    obstacles[4, 10] = True

    clearance = clearance_map(obstacles, 0.1)

    assert clearance[4, 10] == 0.0
    assert clearance[4, 13] == pytest.approx(0.3)
    assert clearance[1, 6] == pytest.approx(0.2)
    assert clearance[7, 14] == pytest.approx(0.2)


@pytest.mark.parametrize("resolution", [0.03, 0.05, 0.1])
def test_a_disc_fits_where_it_only_touches(resolution: float) -> None:
    """A radius of whole cells is not lost to rounding."""
    obstacles = np.zeros((21, 41), np.bool_)
    obstacles[10, 20] = True

    fits = traversable(clearance_map(obstacles, resolution), 4 * resolution)

    assert fits[10, 24]
    assert not fits[10, 23]
