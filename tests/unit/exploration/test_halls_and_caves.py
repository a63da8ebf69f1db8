"""Halls and caves are floors that a team can explore."""

import numpy as np
import pytest

from app.exploration.evaluation.map_quality import reachable
from app.exploration.grid import FREE, FloorMap
from app.exploration.simulation.halls_and_caves import draw_cave, draw_hall
from app.exploration.simulation.start_poses import start_poses

FLOORS = {"hall": draw_hall, "cave": draw_cave}


@pytest.mark.parametrize("kind", FLOORS)
def test_the_seed_determines_the_floor(kind: str) -> None:
    """Equal seeds give equal bytes, and other seeds other floors."""
    draw = FLOORS[kind]

    assert draw(3).grid.tobytes() == draw(3).grid.tobytes()
    assert draw(3).grid.tobytes() != draw(4).grid.tobytes()


@pytest.mark.parametrize("kind", FLOORS)
@pytest.mark.parametrize("seed", range(4))
def test_a_robot_reaches_most_of_the_floor(kind: str, seed: int) -> None:
    """A robot fits on most free cells, on more than 50 square metres."""
    floor: FloorMap = FLOORS[kind](seed)

    reached = reachable(floor, start_poses(floor, 8, seed)[0])

    free = floor.grid == FREE
    assert np.count_nonzero(reached) * floor.frame.resolution**2 > 50.0
    assert np.count_nonzero(reached & free) > 0.6 * np.count_nonzero(free)
