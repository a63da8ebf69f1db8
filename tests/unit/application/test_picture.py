"""The picture of a mission shows its map, paths and frontiers, and is reproducible."""

from pathlib import Path

import cv2
import numpy as np

from app.exploration.driver import Point
from app.exploration.grid import OCCUPIED, UNKNOWN, GridFrame
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions.picture import Picture, draw, save_picture

FLOOR = draw_rooms(2)
PATHS: list[list[Point]] = [[(1.0, 1.0), (2.0, 2.0)], [(2.2, 1.0), (5.0, 1.65)]]
BLUE = (178, 114, 0)
VERMILLION = (0, 94, 213)


def pixels_of(picture: Picture, colour: tuple[int, int, int]) -> int:
    """Count the pixels of exactly one colour."""
    return int((picture == colour).all(axis=2).sum())


def test_each_robot_has_its_own_colour() -> None:
    """A robot's path has its colour, and a longer path has more pixels of it."""
    both, first = draw(FLOOR.grid, FLOOR.frame, PATHS), draw(FLOOR.grid, FLOOR.frame, PATHS[:1])

    assert pixels_of(both, BLUE) > 300
    assert pixels_of(both, VERMILLION) > pixels_of(both, BLUE)
    assert pixels_of(first, VERMILLION) == 0


def test_a_path_is_drawn_where_it_was_driven() -> None:
    """North is up: a path in the lower left of the floor is in the lower left of the picture."""
    picture = draw(FLOOR.grid, FLOOR.frame, [[(0.6, 0.6), (0.7, 0.6)]])

    rows, cols = np.nonzero((picture[:, :1000] == BLUE).all(axis=2))
    assert rows.min() > picture.shape[0] / 2
    assert cols.max() < picture.shape[1] / 3


def test_the_map_is_drawn_with_its_lowest_row_at_the_bottom() -> None:
    """The map has the same orientation as the paths: a wall in the south is at the bottom."""
    grid = np.zeros((60, 60), np.int8)
    grid[2:10, 20:40] = OCCUPIED

    picture = draw(grid, GridFrame(60, 60, 0.1), [[]])

    rows, _ = np.nonzero((picture == (60, 50, 45)).all(axis=2))
    assert rows.min() > 0.8 * picture.shape[0]


def test_robots_have_the_names_of_the_fleet() -> None:
    """The legend names them as all else does; without names they count from 1."""
    plain = draw(FLOOR.grid, FLOOR.frame, PATHS)
    numbered = draw(
        FLOOR.grid, FLOOR.frame, PATHS, names=[f"robot {n}" for n in range(1, len(PATHS) + 1)]
    )
    named = draw(
        FLOOR.grid, FLOOR.frame, PATHS, names=[f"robot-{n + 3}" for n in range(len(PATHS))]
    )
    assert np.array_equal(plain, numbered)
    assert not np.array_equal(plain, named)


def test_frontiers_left_are_marked() -> None:
    """Remaining frontiers are marked."""
    plain = draw(FLOOR.grid, FLOOR.frame, PATHS)
    marked = draw(FLOOR.grid, FLOOR.frame, PATHS, [(4.0, 1.0)])

    assert pixels_of(marked, (0, 0, 0)) > pixels_of(plain, (0, 0, 0)) + 20


def test_the_same_mission_gives_the_same_file(tmp_path: Path) -> None:
    """Equal missions give equal bytes, and the file decodes to the drawn picture."""
    for name in ("one.png", "two.png"):
        picture = draw(
            FLOOR.grid, FLOOR.frame, PATHS, [(4.0, 1.0)], title="rooms", facts=["a fact"]
        )
        save_picture(tmp_path / name, picture)

    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    read = cv2.imread(str(tmp_path / "one.png"))
    assert read is not None
    assert np.array_equal(read, picture)


def test_an_unknown_map_can_be_drawn() -> None:
    """A mission that failed at once has a picture too."""
    unknown = np.full(FLOOR.grid.shape, UNKNOWN, np.int8)

    picture = draw(unknown, FLOOR.frame, [[]])

    assert picture.ndim == 3
    assert pixels_of(picture, (60, 50, 45)) == 0
