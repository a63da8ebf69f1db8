"""The planning map shows where a robot may drive, and never boxes it in."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.exploration.clearance import clearance_map
from app.exploration.driver import Pose
from app.exploration.grid import FREE, UNKNOWN, Box, GridFrame
from app.exploration.planning.planning_map import PlanningMap, build_planning_map

FRAME = GridFrame(rows=100, cols=120, resolution=0.1, origin_x=-3.0, origin_y=5.0)


def known(*, collision_cells: tuple[int, int] | None = None) -> PlanningMap:
    """Build the map of a free room of 4 by 3 metres, with walls around it."""
    evidence = np.zeros((FRAME.rows, FRAME.cols), np.int16)
    evidence[30:62, 40:82] = 50
    evidence[31:61, 41:81] = -50
    cells = np.zeros(evidence.shape, np.bool_)
    if collision_cells is not None:
        cells[collision_cells] = True
    return build_planning_map(evidence, cells, Box(30, 40, 62, 82), FRAME)


def test_the_planning_map_is_the_known_rectangle_with_a_margin() -> None:
    """Its cells are those of the mission's frame, shifted by its corner."""
    view = known()

    assert (view.row0, view.col0) == (25, 35)
    assert view.grid.shape == (42, 52)
    assert view.grid[0, 0] == UNKNOWN
    assert view.grid[view.cell(FRAME, Pose(*FRAME.centre(31, 41)))] == FREE


def test_a_robot_keeps_its_distance_from_walls() -> None:
    """Cells with the requested clearance are passable."""
    view = known()

    passable = view.passable(0.3, (20, 25))

    assert passable[20, 25]
    assert passable[8, 25]
    assert not passable[7, 25]


def test_a_robot_that_stands_too_near_a_wall_can_leave() -> None:
    """Near the robot, that of its cell is clearance enough; elsewhere it is not."""
    view = known()

    passable = view.passable(0.3, (6, 25))

    assert passable[6:9, 25].all()
    assert not passable[6, 40]


def test_a_collision_cell_is_not_passable_again() -> None:
    """A collision outweighs what the map shows."""
    view = known(collision_cells=(45, 60))

    assert not view.passable(0.3, (25, 25))[20, 25]
    assert view.passable(0.3, (25, 25))[21, 25]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_an_updated_planning_map_equals_a_new_one(data: st.DataObject) -> None:
    """Clearance around walls that appeared or vanished is that of the present walls."""
    frame = GridFrame(rows=40, cols=50, resolution=0.1)
    evidence = np.full((40, 50), -50, np.int16)
    collision_cells, known = np.zeros(evidence.shape, np.bool_), Box(6, 6, 34, 44)
    cells = st.tuples(st.integers(6, 33), st.integers(6, 43))
    before = None
    for _ in range(3):
        for cell in data.draw(st.lists(cells, max_size=3)):
            evidence[cell] *= -1
        before = build_planning_map(evidence, collision_cells, known, frame, before=before)

    assert before is not None
    first = build_planning_map(evidence, collision_cells, known, frame)
    assert np.array_equal(before.clearance, first.clearance)
    obstacles = evidence[1:39, 1:49] > 0
    assert np.array_equal(
        first.clearance, np.minimum(clearance_map(obstacles, 0.1), np.float32(0.5))
    )
