"""A reachable region holds the cells that a distance field reaches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.exploration.grid import Mask
from app.exploration.planning.regions import connected_components, reachable_region
from app.exploration.shortest_paths import UNREACHED, distance_field

masks = arrays(
    np.bool_,
    array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([True, True, False]),
)


@settings(max_examples=300, deadline=None)
@given(shared=masks, data=st.data())
def test_a_region_is_what_a_distance_field_reaches(shared: Mask, data: st.DataObject) -> None:
    """Also if only the robot's surroundings connect components, or it stands on none."""
    near = data.draw(st.integers(0, 3))
    row, col = (data.draw(st.integers(0, size - 1)) for size in shared.shape)
    passable = shared.copy()
    around = (slice(max(row - near, 0), row + near + 1), slice(max(col - near, 0), col + near + 1))
    passable[around] |= data.draw(arrays(np.bool_, passable[around].shape))

    found = reachable_region(passable, connected_components(shared), (row, col), near=near)

    assert np.array_equal(found.mask, distance_field(passable, (row, col)) < UNREACHED)


def test_a_component_that_leaves_the_surroundings_is_reached_where_it_returns() -> None:
    """A nook at a wall is reached by a detour."""
    shared = np.zeros((9, 13), np.bool_)
    shared[5, 6:13] = shared[0:6, 12] = shared[0, 5:13] = shared[0:3, 5] = True
    passable = shared.copy()
    passable[3, 5] = True

    found = reachable_region(passable, connected_components(shared), (5, 5), near=2)

    assert found.mask[3, 5]
