"""A region is where a distance field would get to."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.grid import Mask
from app.exploration.planning.paths import UNREACHED, distance_field
from app.exploration.planning.regions import pieces_of, region

grounds = arrays(
    np.bool_,
    array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([True, True, False]),
)


@settings(max_examples=300, deadline=None)
@given(ground=grounds, data=st.data())
def test_a_region_is_what_a_field_reaches(ground: Mask, data: st.DataObject) -> None:
    """Also where only the robot's surroundings connect pieces, and where it stands on none."""
    near = data.draw(st.integers(0, 3))
    row, col = (data.draw(st.integers(0, size - 1)) for size in ground.shape)
    passable = ground.copy()
    place = (slice(max(row - near, 0), row + near + 1), slice(max(col - near, 0), col + near + 1))
    passable[place] |= data.draw(arrays(np.bool_, passable[place].shape))

    found = region(passable, pieces_of(ground), (row, col), near=near)

    cells = np.arange(ground.size, dtype=np.int32)
    held = [found.holds_any(cells[index : index + 1]) for index in cells]
    reached = distance_field(passable, (row, col)).ravel() < UNREACHED
    assert held == reached.tolist()


def test_a_piece_that_leaves_the_surroundings_is_reached_where_it_comes_back() -> None:
    """A nook beside a wall can be got to the long way round alone."""
    ground = np.zeros((9, 13), np.bool_)
    ground[5, 6:13] = ground[0:6, 12] = ground[0, 5:13] = ground[0:3, 5] = True
    passable = ground.copy()
    passable[3, 5] = True

    found = region(passable, pieces_of(ground), (5, 5), near=2)

    assert found.holds_any(np.array([3 * 13 + 5], np.int32))
