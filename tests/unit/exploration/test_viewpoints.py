"""Viewpoints see their frontier, and cached ones equal new ones."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.clearance import clear_length
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid
from app.exploration.planning.frontiers import Frontier, cluster_frontiers, frontier_cells
from app.exploration.planning.viewpoints import ViewpointCache, Viewpoints
from app.exploration.shortest_paths import UNREACHED, distance_field

grids = arrays(
    np.int8,
    array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=14),
    elements=st.sampled_from([FREE, FREE, FREE, FREE, OCCUPIED, UNKNOWN]),
)


def found(grid: Grid, *frontiers: Frontier, reach: int) -> Viewpoints:
    """Find viewpoints with an empty cache."""
    return ViewpointCache(reach=reach, stride=1).find(grid, (0, 0), frontiers)


def test_the_cheapest_viewpoint_sees_the_frontier() -> None:
    """A cell behind a wall is nearer but sees nothing: it is not chosen."""
    grid = np.zeros((9, 21), np.int8)
    grid[4, :18] = OCCUPIED
    grid[7, 2] = UNKNOWN
    field = distance_field(grid == FREE, (2, 2))

    costs, cells = found(grid, Frontier(np.array([[6, 2]], np.int32)), reach=4).cheapest(field)

    row, col = (int(index) for index in cells[0])
    assert row > 4
    assert math.hypot(row - 6, col - 2) <= 4
    assert costs[0] == field[row, col]


def test_a_viewpoint_must_see_an_unknown_cell() -> None:
    """To see the frontier cell alone reveals nothing: the cell beyond it must be in sight."""
    grid = np.zeros((7, 12), np.int8)
    grid[0] = OCCUPIED
    grid[2, 6:9] = OCCUPIED
    grid[1, 6] = UNKNOWN
    field = distance_field(grid == FREE, (6, 5))

    costs, cells = found(grid, Frontier(np.array([[1, 5]], np.int32)), reach=6).cheapest(field)

    viewpoint = (float(cells[0][0]) + 0.5, float(cells[0][1]) + 0.5)
    assert clear_length(grid != OCCUPIED, viewpoint, (1.5, 6.5)) == math.inf
    assert clear_length(grid != OCCUPIED, (6.5, 5.5), (1.5, 5.5)) == math.inf
    assert costs[0] > field[6, 5]


def test_an_unreachable_frontier_has_no_cheapest_viewpoint() -> None:
    """It is distinguished from a frontier that costs nothing."""
    grid = np.zeros((9, 9), np.int8)
    grid[:, 4] = OCCUPIED
    grid[5, [1, 8]] = UNKNOWN
    near = Frontier(np.array([[4, 1]], np.int32))
    far = Frontier(np.array([[4, 8]], np.int32))

    costs, _ = found(grid, near, far, reach=3).cheapest(distance_field(grid == FREE, (4, 1)))

    assert costs.tolist() == [0, UNREACHED]


@settings(max_examples=300, deadline=None)
@given(grid=grids, reach=st.integers(1, 4), stride=st.integers(1, 2), data=st.data())
def test_cached_viewpoints_equal_new_ones(
    grid: Grid, reach: int, stride: int, data: st.DataObject
) -> None:
    """Whatever changes, and however the map grows, nothing stale stays and nothing is lost."""
    cache = ViewpointCache(reach=reach, stride=stride)
    corner = (5, 5)
    for _ in range(3):
        if frontiers := cluster_frontiers(frontier_cells(grid), min_cells=1, max_extent=100):
            kept = cache.find(grid, corner, frontiers)
            anew = ViewpointCache(reach=reach, stride=stride).find(grid, corner, frontiers)
            assert kept.owner.tolist() == anew.owner.tolist()
            assert kept.starts.tolist() == anew.starts.tolist()
            assert kept.flat.tolist() == anew.flat.tolist()
            assert kept.distinct.tolist() == anew.distinct.tolist()
        up, left = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
        corner = (corner[0] - up, corner[1] - left)
        grid = np.pad(grid, ((up, up), (left, 0)), constant_values=UNKNOWN)
        row, col = (data.draw(st.integers(0, size - 1)) for size in grid.shape)
        grid[row, col] = data.draw(st.sampled_from([FREE, OCCUPIED, UNKNOWN]))
