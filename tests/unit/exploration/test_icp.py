"""Walls of two maps: refinement, agreement, and the perceptual aliasing test."""

import math

import numpy as np
import pytest

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame
from app.exploration.merging.agreement import classify_walls, longest_conflict
from app.exploration.merging.icp import icp_refine
from app.exploration.merging.map_features import MapFeatures, extract_features
from app.exploration.merging.perceptual_aliasing import distinct_share
from app.exploration.merging.registration import register
from app.exploration.se2 import IDENTITY, apply, compose, inverse

FRAME = GridFrame(240, 240, 0.05)
LEFT, RIGHT = (1.0, 5.0), (7.0, 11.0)


def rooms(*sides: tuple[float, float], tall: float = 4.0) -> Grid:
    """Draw rooms side by side, each with a table in the same place; metres."""
    grid = np.full((FRAME.rows, FRAME.cols), UNKNOWN, np.int8)
    for left, right in sides:
        fill(grid, OCCUPIED, left - 0.1, 0.9, right + 0.1, 1.1 + tall)
        fill(grid, FREE, left, 1.0, right, 1.0 + tall)
        fill(grid, OCCUPIED, left + 0.7, 1.6, left + 1.7, 2.1)
    return grid


def fill(grid: Grid, value: int, *sides: float) -> None:
    """Set a rectangle, given by its left, lower, right and upper side in metres."""
    left, low, right, high = (round(metres / FRAME.resolution) for metres in sides)
    grid[low:high, left:right] = value


def features_of(grid: Grid) -> MapFeatures:
    """Extract the features of a grid."""
    found = extract_features(grid, FRAME)
    assert found is not None
    return found


def test_icp_moves_a_map_back_onto_itself() -> None:
    """From 40 cm and 6 degrees off, walls return to within a centimetre."""
    here = features_of(rooms(LEFT))
    moved = compose(np.array([0.3, -0.25, math.radians(6.0)]), IDENTITY)
    walls = apply(inverse(moved), here.walls)
    normals = apply(np.array([0.0, 0.0, -moved[2]]), here.normals)

    found = icp_refine(here, walls, normals, IDENTITY, reaches=(0.8, 0.5, 0.3, 0.15))

    assert np.hypot(*(apply(found, walls) - here.walls).T).max() < 0.01


def test_walls_with_opposite_normals_are_not_paired() -> None:
    """Each map shows another side of a thin wall, and the transform stays as it is."""
    near, far = (np.full((FRAME.rows, FRAME.cols), UNKNOWN, np.int8) for _ in range(2))
    fill(near, FREE, 1.0, 1.0, 3.0, 6.0)
    fill(near, OCCUPIED, 3.0, 1.0, 3.05, 6.0)
    fill(near, FREE, 7.0, 1.0, 8.0, 6.0)
    fill(far, FREE, 3.15, 1.0, 5.0, 6.0)
    fill(far, OCCUPIED, 3.1, 1.0, 3.15, 6.0)
    there = features_of(far)

    found = icp_refine(features_of(near), there.walls, there.normals, IDENTITY, reaches=(0.5,))

    assert found == pytest.approx(IDENTITY, abs=1e-9)


@pytest.mark.parametrize(("side", "verdict"), [(3.0, 0), (2.8, -1)])
def test_the_edge_of_free_space_contradicts_no_wall(side: float, verdict: int) -> None:
    """A grazing beam leaves free cells on a wall; 20 cm further on it would have hit the wall."""
    grazed, walled = (np.full((FRAME.rows, FRAME.cols), UNKNOWN, np.int8) for _ in range(2))
    fill(grazed, FREE, 1.0, 1.0, 3.05, 6.0)
    fill(grazed, OCCUPIED, 0.95, 1.0, 1.0, 6.0)
    fill(walled, FREE, 1.0, 2.0, side, 5.0)
    fill(walled, OCCUPIED, side, 2.0, side + 0.05, 5.0)

    assert set(classify_walls(features_of(grazed), features_of(walled), IDENTITY)) == {verdict}


def test_a_displaced_table_is_a_conflict() -> None:
    """A wall near another is not the same: its front stands in the other map's free space."""
    here, moved = rooms(LEFT), np.full((FRAME.rows, FRAME.cols), UNKNOWN, np.int8)
    fill(moved, FREE, 1.0, 1.0, 5.0, 5.0)
    fill(moved, OCCUPIED, 1.9, 1.6, 2.9, 2.1)

    assert longest_conflict(features_of(here), features_of(moved), IDENTITY) > 0.3
    assert longest_conflict(features_of(here), features_of(here), IDENTITY) == pytest.approx(0.0)


@pytest.mark.parametrize(("dots", "metres"), [(1, 0.0), (2, 0.15), (4, 0.45)])
def test_single_cells_of_a_grazed_wall_form_one_conflict(dots: int, metres: float) -> None:
    """One map shows an open door, the other a hit every 15 cm; a single hit is noise."""
    door, wall = (np.full((FRAME.rows, FRAME.cols), UNKNOWN, np.int8) for _ in range(2))
    for grid in (door, wall):
        fill(grid, OCCUPIED, 0.9, 0.9, 5.0, 1.0)
        fill(grid, FREE, 1.0, 1.0, 5.0, 3.0)
    fill(door, FREE, 1.8, 3.0, 3.5, 4.0)
    for dot in range(dots):
        fill(wall, OCCUPIED, 2.2 + 0.15 * dot, 3.0, 2.25 + 0.15 * dot, 3.05)

    assert longest_conflict(features_of(door), features_of(wall), IDENTITY) == pytest.approx(metres)


def test_a_single_room_is_distinct() -> None:
    """Turned by a right angle, the room almost fits on itself, but its table does not."""
    assert distinct_share(features_of(rooms(LEFT)), features_of(rooms(LEFT)), IDENTITY) > 0.2


def test_one_of_two_equal_rooms_is_not_distinct() -> None:
    """The common wall could be in the other room of one map just as well."""
    both = features_of(rooms(LEFT, RIGHT))

    assert distinct_share(both, features_of(rooms(LEFT)), IDENTITY) < 0.05
    assert distinct_share(features_of(rooms(LEFT)), both, IDENTITY) < 0.05


def test_a_corridor_is_not_distinct() -> None:
    """Two long walls without an end say nothing about the position along them."""
    grid = np.full((FRAME.rows, FRAME.cols), UNKNOWN, np.int8)
    fill(grid, FREE, 0.5, 2.0, 11.0, 4.0)
    for low in (1.95, 4.0):
        fill(grid, OCCUPIED, 0.5, low, 11.0, low + 0.05)
    part = grid.copy()
    part[:, : FRAME.cols // 3] = UNKNOWN
    part[:, 2 * FRAME.cols // 3 :] = UNKNOWN

    assert distinct_share(features_of(grid), features_of(part), IDENTITY) < 0.05


def test_registration_prefers_the_place_without_conflict() -> None:
    """Half a room fits without conflict; a whole one has twice the wall but lacks a pillar."""
    one, two = (np.full((FRAME.rows, FRAME.cols), UNKNOWN, np.int8) for _ in range(2))
    for grid, left, free, walled in (
        (one, 1.0, 2.2, 2.2),
        (one, 6.5, 4.0, 4.1),
        (two, 6.5, 4.0, 4.1),
    ):
        fill(grid, OCCUPIED, left - 0.1, 0.9, left + walled, 5.6)
        fill(grid, FREE, left, 1.0, left + free, 5.5)
        fill(grid, OCCUPIED, left + 0.7, 5.0, left + 1.2, 5.5)
    for grid, left in ((one, 1.0), (two, 6.5)):
        fill(grid, OCCUPIED, left + 0.7, 1.6, left + 1.0, 1.9)

    found = register(one, FRAME, two, FRAME)

    assert found is not None
    assert found.transform == pytest.approx([-5.5, 0.0, 0.0], abs=0.01)
