"""Frontiers are free cells next to unknown ones, clustered into goals for one robot."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, Mask
from app.exploration.planning.frontiers import cluster_frontiers, frontier_cells

grids = arrays(
    np.int8,
    array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.sampled_from([UNKNOWN, FREE, FREE, OCCUPIED]),
)


@settings(deadline=None)
@given(grid=grids)
def test_frontier_cells_are_free_and_share_a_side_with_an_unknown_cell(grid: Grid) -> None:
    """The definition holds cell by cell; the edge of the grid is no frontier."""
    found = frontier_cells(grid)

    rows, cols = grid.shape
    for row in range(rows):
        for col in range(cols):
            sides = [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]
            near_unknown = any(
                grid[side] == UNKNOWN
                for side in sides
                if 0 <= side[0] < rows and 0 <= side[1] < cols
            )
            assert found[row, col] == (grid[row, col] == FREE and near_unknown)


@settings(deadline=None)
@given(
    mask=arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=20)),
    max_extent=st.integers(1, 25),
)
def test_every_cell_is_in_exactly_one_frontier_of_bounded_length(
    mask: Mask, max_extent: int
) -> None:
    """Clustering and halving lose nothing, duplicate nothing and leave nothing too long."""
    pieces = cluster_frontiers(mask, min_cells=1, max_extent=max_extent)

    cells = sorted(tuple(cell) for piece in pieces for cell in piece.cells.tolist())
    assert cells == [tuple(cell) for cell in np.argwhere(mask).tolist()]
    assert all((np.ptp(piece.cells, axis=0) < max_extent).all() for piece in pieces)


def test_small_clusters_are_left_out_before_any_is_halved() -> None:
    """Halving never makes a frontier too small to be visited."""
    mask = np.zeros((5, 12), np.bool_)
    mask[0, :8] = True
    mask[4, 0:3] = True

    pieces = cluster_frontiers(mask, min_cells=4, max_extent=2)

    assert sorted(piece.size for piece in pieces) == [2, 2, 2, 2]
    assert {int(piece.cells[0, 0]) for piece in pieces} == {0}


def test_cells_that_touch_at_a_corner_are_one_frontier() -> None:
    """A diagonal boundary is one frontier."""
    pieces = cluster_frontiers(np.eye(6, dtype=np.bool_), min_cells=1, max_extent=10)

    assert [piece.size for piece in pieces] == [6]


def test_a_complete_map_has_no_frontier() -> None:
    """Without unknown cells there is no frontier."""
    grid = np.zeros((6, 6), np.int8)

    assert cluster_frontiers(frontier_cells(grid), min_cells=1, max_extent=10) == []
