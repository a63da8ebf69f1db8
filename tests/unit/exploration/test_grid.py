"""The frame places cells in the map frame."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exploration.grid import GridFrame

frames = st.builds(
    GridFrame,
    rows=st.integers(1, 2000),
    cols=st.integers(1, 2000),
    resolution=st.sampled_from([0.025, 0.03, 0.05, 0.1]),
    origin_x=st.floats(-100, 100),
    origin_y=st.floats(-100, 100),
)


@given(frame=frames, data=st.data())
def test_the_centre_of_a_cell_lies_in_that_cell(frame: GridFrame, data: st.DataObject) -> None:
    """Conversions between metres and cells are inverse to each other for any origin."""
    row = data.draw(st.integers(0, frame.rows - 1))
    col = data.draw(st.integers(0, frame.cols - 1))

    x, y = frame.centre(row, col)

    assert frame.cell(x, y) == (row, col)
    assert frame.in_cells(x, y) == pytest.approx((row + 0.5, col + 0.5), abs=1e-6)


def test_rows_grow_with_y_and_columns_with_x() -> None:
    """Row 0 is the lowest y, unlike in an image."""
    frame = GridFrame(rows=10, cols=20, resolution=0.5, origin_x=-1.0, origin_y=2.0)

    assert frame.cell(-0.9, 2.1) == (0, 0)
    assert frame.cell(-0.9, 6.9) == (9, 0)
    assert frame.cell(8.9, 2.1) == (0, 19)


def test_a_cell_beyond_an_edge_is_not_contained() -> None:
    """The four edges of the grid are exclusive."""
    frame = GridFrame(rows=2, cols=3, resolution=1.0)

    outside = [(-1, 0), (0, -1), (2, 0), (0, 3)]

    assert [frame.contains(*cell) for cell in outside] == [False] * 4
    assert frame.contains(1, 2)


@pytest.mark.parametrize(
    ("x", "y", "degrees", "cell"),
    [
        (1.5, 1.5, 0, (1, 2)),
        (1.5, 1.5, 90, (2, 1)),
        (1.5, 1.5, 180, (1, 0)),
        (1.5, 1.5, -90, (0, 1)),
        (1.5, 1.5, 30, (1, 2)),
        (1.5, 1.5, 100, (2, 1)),
        (1.5, 1.5, 45, (2, 2)),
        (1.5, 1.5, -135, (0, 0)),
        (1.999, 1.95, 45, (1, 2)),  # only a short way of it lies in that cell
        (0.5, 0.5, 180, (0, -1)),
    ],
)
def test_a_point_enters_the_cell_behind_the_next_border(
    x: float, y: float, degrees: float, cell: tuple[int, int]
) -> None:
    """Through a corner it enters the cell across."""
    frame = GridFrame(rows=3, cols=3, resolution=0.5, origin_x=-7.0, origin_y=4.0)

    assert frame.next_cell(-7.0 + x / 2, 4.0 + y / 2, math.radians(degrees)) == cell


@given(frame=frames)
def test_a_frame_survives_json(frame: GridFrame) -> None:
    """A frame that is sent in a message stays the same."""
    assert GridFrame.from_dict(json.loads(json.dumps(frame.to_dict()))) == frame
