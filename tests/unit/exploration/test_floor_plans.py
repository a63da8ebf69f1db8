"""Drawn floors are closed, connected, and equal for equal seeds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from app.exploration.clearance import traversable_cells
from app.exploration.grid import FREE, OCCUPIED, FloorMap
from app.exploration.map_files import load_map
from app.exploration.simulation.floor_plans import draw_campus, draw_office, draw_rooms

MAPS = Path(__file__).parents[3] / "maps"


@pytest.mark.parametrize(
    "floor",
    [*(draw_office(seed) for seed in range(12)), *(draw_campus(seed) for seed in range(3))],
)
def test_every_part_of_an_office_can_be_driven_to(floor: FloorMap) -> None:
    """No room is sealed and no door is blocked by furniture, for any seed."""
    fits = traversable_cells(floor, 0.2)

    _, _, stats, _ = cv2.connectedComponentsWithStats(fits.astype(np.uint8), connectivity=4)
    areas = sorted(stats[1:, cv2.CC_STAT_AREA].tolist(), reverse=True)

    assert sum(areas[1:]) < 0.01 * areas[0]


def test_an_office_is_closed() -> None:
    """Free space is enclosed by walls: it never borders on unknown cells."""
    floor = draw_office(1)

    inside = cv2.dilate((floor.grid == FREE).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0

    assert set(np.unique(floor.grid[inside])) == {FREE, OCCUPIED}


def test_equal_seeds_draw_equal_floors() -> None:
    """The seed determines the floor."""
    assert np.array_equal(draw_office(5).grid, draw_office(5).grid)
    assert not np.array_equal(draw_office(5).grid, draw_office(6).grid)


def test_the_default_map_is_drawn_from_seed_7() -> None:
    """Anyone can draw the office in the folder of maps again."""
    stored, drawn = load_map(MAPS / "office.yaml"), draw_office(7)

    assert np.array_equal(stored.grid, drawn.grid)
    assert stored.frame == drawn.frame


def test_rooms_are_joined() -> None:
    """A row of rooms is one connected floor."""
    floor = draw_rooms(4, side=2.0, resolution=0.1)

    count, _ = cv2.connectedComponents((floor.grid == FREE).astype(np.uint8), connectivity=4)

    assert count == 2
