"""Coverage and accuracy follow their definitions."""

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
    """Draw two rooms without a door between them."""
    grid = ROOMS.grid.copy()
    grid[:, ROOMS.frame.cell(3.2, 0.0)[1]] = OCCUPIED
    return FloorMap("sealed", grid, ROOMS.frame)


def test_reachability_passes_doors_and_keeps_the_radius_from_walls() -> None:
    """The disc's centre gets to the other room and no closer to a wall than its radius."""
    reached = reachable(ROOMS, FIRST)

    assert reached[ROOMS.frame.cell(*SECOND)]
    assert reached[ROOMS.frame.cell(0.40, 1.65)]
    assert not reached[ROOMS.frame.cell(0.25, 1.65)]


def test_a_sealed_room_is_neither_reachable_nor_observable() -> None:
    """Cells that no robot can see do not count."""
    floor = sealed()

    assert not reachable(floor, FIRST)[floor.frame.cell(*SECOND)]
    assert not observable(floor, FIRST)[floor.frame.cell(*SECOND)]


def test_all_of_an_open_room_is_observable_and_only_free_cells_are() -> None:
    """In two empty rooms every free cell is observable; walls do not count."""
    seen = observable(ROOMS, FIRST)

    assert np.array_equal(seen, ROOMS.grid == FREE)


def test_observability_ends_at_the_range_of_the_lidar() -> None:
    """Cells beyond the range from every reachable cell are not observable."""
    grid = ROOMS.grid.copy()
    grid[:, ROOMS.frame.cell(3.2, 0.0)[1]] = OCCUPIED
    row, col = ROOMS.frame.cell(3.2, 1.65)
    grid[row, col - 2 : col + 3] = FREE
    keyhole = FloorMap("keyhole", grid, ROOMS.frame)

    seen = observable(keyhole, FIRST, max_range=2.0)

    assert seen[keyhole.frame.cell(3.4, 1.65)]
    assert not seen[keyhole.frame.cell(5.2, 1.65)]


def test_a_start_in_a_wall_is_rejected() -> None:
    """An impossible start is an error, not a coverage of 100 %."""
    with pytest.raises(StartError, match="does not fit"):
        reachable(ROOMS, Pose(0.0, 0.0))


def test_coverage_is_the_known_share_of_the_observable_cells() -> None:
    """To know the left half of the observable cells is one half; other cells add nothing."""
    seen = np.zeros(ROOMS.grid.shape, np.bool_)
    seen[10:20, 10:30] = True
    merged = np.full(ROOMS.grid.shape, UNKNOWN, np.int8)
    merged[:, :20] = FREE

    assert coverage(merged, ROOMS, seen) == 0.5
    assert coverage(ROOMS.grid, ROOMS, seen & False) == 1.0


def test_accuracy_counts_cells_known_on_both_sides_only() -> None:
    """Cells unknown in the map or on the floor are left out."""
    floor = FloorMap(
        "line", np.array([[FREE, FREE, OCCUPIED, OCCUPIED, UNKNOWN]], np.int8), ROOMS.frame
    )
    merged = np.array([[FREE, OCCUPIED, OCCUPIED, UNKNOWN, FREE]], np.int8)

    assert accuracy(merged, floor) == pytest.approx(2 / 3)
    assert accuracy(np.full((1, 5), UNKNOWN, np.int8), floor) == 1.0


def test_maps_of_different_frames_are_not_compared() -> None:
    """A comparison of different shapes is an error."""
    other = np.zeros((3, 3), np.int8)

    with pytest.raises(ValueError, match="differs in shape"):
        accuracy(other, ROOMS)
    with pytest.raises(ValueError, match="differs in shape"):
        coverage(other, ROOMS, other == FREE)
