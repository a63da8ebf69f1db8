"""Evidence of several robots adds up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, LogOdds
from app.exploration.lidar import CLAMP_UNITS
from app.exploration.merging.evidence import merge_layers

layers = arrays(np.int8, (4, 5), elements=st.integers(-CLAMP_UNITS, CLAMP_UNITS))


@given(team=st.lists(layers, min_size=1, max_size=6), data=st.data())
def test_the_order_of_robots_does_not_matter(team: list[LogOdds], data: st.DataObject) -> None:
    """The merged map is the same for every order of the layers."""
    shuffled = data.draw(st.permutations(team))

    assert np.array_equal(merge_layers(team), merge_layers(shuffled))


@given(team=st.lists(layers, min_size=1, max_size=6))
def test_the_sign_of_the_sum_decides(team: list[LogOdds]) -> None:
    """More evidence for than against makes a cell occupied, and the sum does not overflow."""
    total = sum(layer.astype(int) for layer in team)

    expected = np.select([total > 0, total < 0], [OCCUPIED, FREE], UNKNOWN)

    assert np.array_equal(merge_layers(team), expected)


def test_a_cell_seen_by_one_robot_is_known() -> None:
    """Evidence of one robot alone is enough."""
    blank = np.zeros((1, 3), np.int8)
    seen = np.array([[24, -17, 0]], np.int8)

    assert merge_layers([blank, seen, blank]).tolist() == [[OCCUPIED, FREE, UNKNOWN]]


def test_layers_of_different_shapes_are_rejected() -> None:
    """Maps of different frames are never added."""
    with pytest.raises(ValueError, match="differ in shape"):
        merge_layers([np.zeros((2, 2), np.int8), np.zeros((2, 3), np.int8)])


def test_merging_needs_a_layer() -> None:
    """A mission without robots has no map."""
    with pytest.raises(ValueError, match="no layer"):
        merge_layers([])
