"""The measures mean what their definitions say."""

import numpy as np
import pytest

from app.exploration.driver import Pose, StartError
from app.exploration.evaluation.map_quality import accuracy, coverage, observable, reachable
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, FloorMap
from app.exploration.simulation.floor_plans import draw_rooms

ROOMS = draw_rooms(2)
FIRST = Pose(1.65, 1.65)
SECOND = (4.8, 1.65)


def sealed() -> FloorMap:
    """Give two rooms without a door between them."""
    grid = ROOMS.grid.copy()
    grid[:, ROOMS.frame.cell(3.2, 0.0)[1]] = OCCUPIED
    return FloorMap("sealed", grid, ROOMS.frame)


def test_reach_goes_through_doors_and_keeps_a_bodys_radius_from_walls() -> None:
    """The disc's centre comes to the other room and no nearer to a wall than its radius."""
    stand = reachable(ROOMS, FIRST)

    assert stand[ROOMS.frame.cell(*SECOND)]
    assert stand[ROOMS.frame.cell(0.40, 1.65)]
    assert not stand[ROOMS.frame.cell(0.25, 1.65)]


def test_a_sealed_room_is_neither_reachable_nor_observable() -> None:
    """What nobody can see counts for nobody."""
    floor = sealed()

    assert not reachable(floor, FIRST)[floor.frame.cell(*SECOND)]
    assert not observable(floor, FIRST)[floor.frame.cell(*SECOND)]


def test_all_of_an_open_room_is_observable_and_only_free_cells_are() -> None:
    """In two empty rooms every free cell can be seen, walls are not counted."""
    seen = observable(ROOMS, FIRST)

    assert np.array_equal(seen, ROOMS.grid == FREE)


def test_the_lidar_reaches_no_farther_than_it_does() -> None:
    """Cells that are farther than the range from wherever a disc can stand are not observable."""
    grid = ROOMS.grid.copy()
    grid[:, ROOMS.frame.cell(3.2, 0.0)[1]] = OCCUPIED
    row, col = ROOMS.frame.cell(3.2, 1.65)
    grid[row, col - 2 : col + 3] = FREE
    keyhole = FloorMap("keyhole", grid, ROOMS.frame)

    seen = observable(keyhole, FIRST, max_range=2.0)

    assert seen[keyhole.frame.cell(3.4, 1.65)]
    assert not seen[keyhole.frame.cell(5.2, 1.65)]


def test_a_start_in_a_wall_is_refused() -> None:
    """A measure from an impossible start is an error and not 100 %."""
    with pytest.raises(StartError, match="does not fit"):
        reachable(ROOMS, Pose(0.0, 0.0))


def test_coverage_is_the_known_share_of_the_observable_cells() -> None:
    """Knowing the left half of what can be seen is one half; what cannot be seen adds nothing."""
    seen = np.zeros(ROOMS.grid.shape, np.bool_)
    seen[10:20, 10:30] = True
    merged = np.full(ROOMS.grid.shape, UNKNOWN, np.int8)
    merged[:, :20] = FREE

    assert coverage(merged, ROOMS, seen) == 0.5
    assert coverage(ROOMS.grid, ROOMS, seen & False) == 1.0


def test_accuracy_counts_cells_known_on_both_sides_only() -> None:
    """Unknown cells of either side are left out; the rest agrees or does not."""
    floor = FloorMap(
        "line", np.array([[FREE, FREE, OCCUPIED, OCCUPIED, UNKNOWN]], np.int8), ROOMS.frame
    )
    merged = np.array([[FREE, OCCUPIED, OCCUPIED, UNKNOWN, FREE]], np.int8)

    assert accuracy(merged, floor) == pytest.approx(2 / 3)
    assert accuracy(np.full((1, 5), UNKNOWN, np.int8), floor) == 1.0


def test_maps_of_different_frames_are_not_compared() -> None:
    """A measure over cells that do not lie on each other would be a lie."""
    other = np.zeros((3, 3), np.int8)

    with pytest.raises(ValueError, match="differs in shape"):
        accuracy(other, ROOMS)
    with pytest.raises(ValueError, match="differs in shape"):
        coverage(other, ROOMS, other == FREE)
