"""Halls and caves that a team can be measured on."""

import numpy as np
import pytest

from app.exploration.evaluation.map_quality import reachable
from app.exploration.grid import FREE, FloorMap
from app.exploration.simulation.halls_and_caves import draw_cave, draw_hall
from app.exploration.simulation.start_poses import start_poses

FLOORS = {"hall": draw_hall, "cave": draw_cave}


@pytest.mark.parametrize("kind", FLOORS)
def test_the_same_seed_gives_the_same_floor(kind: str) -> None:
    """A floor can be drawn again to the byte, and another seed is another floor."""
    draw = FLOORS[kind]

    assert draw(3).grid.tobytes() == draw(3).grid.tobytes()
    assert draw(3).grid.tobytes() != draw(4).grid.tobytes()


@pytest.mark.parametrize("kind", FLOORS)
@pytest.mark.parametrize("seed", range(4))
def test_a_robot_gets_nearly_everywhere(kind: str, seed: int) -> None:
    """A robot can stand on most of the free ground, on more than 50 square metres."""
    floor: FloorMap = FLOORS[kind](seed)

    stands = reachable(floor, start_poses(floor, 8, seed)[0])

    free = floor.grid == FREE
    assert np.count_nonzero(stands) * floor.frame.resolution**2 > 50.0
    assert np.count_nonzero(stands & free) > 0.6 * np.count_nonzero(free)
