"""Whole explorations end, cover nearly everything, and can be repeated."""

from pathlib import Path

import numpy as np
import pytest

from app.exploration.evaluation.map_quality import accuracy, coverage, observable
from app.exploration.grid import FREE, OCCUPIED, FloorMap, GridFrame
from app.exploration.map_files import load_map
from app.exploration.simulation.floor_plans import draw_office, draw_rooms
from app.exploration.simulation.simulate import simulate

OFFICE = Path(__file__).parents[3] / "maps" / "office.yaml"


def measured(floor: FloorMap, robots: int, seed: int) -> tuple[float, float]:
    """Explore and return coverage and accuracy."""
    outcome = simulate(floor, robots, seed)
    seen = observable(floor, outcome.starts[0])
    return coverage(outcome.grid, floor, seen), accuracy(outcome.grid, floor)


@pytest.mark.parametrize(("robots", "seed"), [(1, 0), (2, 1), (3, 2), (6, 3)])
def test_the_default_office_is_explored_completely(robots: int, seed: int) -> None:
    """Teams of any size see at least 99 % of the observable cells, and see them right."""
    share, right = measured(load_map(OFFICE), robots, seed)

    assert share >= 0.99
    assert right >= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_other_offices_are_explored_completely(seed: int) -> None:
    """Success is not fitted to one floor or one resolution."""
    resolution = (0.03, 0.05, 0.1)[seed]

    share, right = measured(
        draw_office(seed, width=16.0, height=12.0, resolution=resolution), 2, seed
    )

    assert share >= 0.98
    assert right >= 0.98


def test_a_real_map_is_explored_completely(exploration_maps: Path | None) -> None:
    """A real robot's map is explored as completely as a drawn floor."""
    if exploration_maps is None:
        pytest.skip("EXPLORATION_MAPS names no folder of maps")

    share, right = measured(load_map(exploration_maps / "depot.yaml"), 3, 5)

    assert share >= 0.99
    assert right >= 0.99


def test_equal_seeds_give_equal_missions_to_the_byte() -> None:
    """A mission can be repeated exactly, and another seed is another mission."""
    floor = draw_rooms(3)

    first, again, other = (simulate(floor, 2, seed) for seed in (9, 9, 10))

    assert first.grid.tobytes() == again.grid.tobytes()
    assert (first.paths, first.seconds) == (again.paths, again.seconds)
    assert first.paths != other.paths


def test_a_lost_robot_leaves_no_gap() -> None:
    """When one of two robots is lost on the way, the other sees everything."""
    floor = draw_rooms(4)

    outcome = simulate(floor, 2, 3, lost={0: 5.0})

    assert coverage(outcome.grid, floor, observable(floor, outcome.starts[0])) >= 0.99
    assert len(outcome.paths[0]) < len(outcome.paths[1])


def test_more_robots_are_faster() -> None:
    """Three robots explore the office in less than two thirds of one robot's time."""
    floor = load_map(OFFICE)

    alone, team = simulate(floor, 1, 4).seconds, simulate(floor, 3, 4).seconds

    assert team < alone * 2 / 3


def test_a_narrow_doorway_is_found_and_passed() -> None:
    """A door hardly wider than the robot hides nothing behind it."""
    floor = draw_rooms(2)
    grid = floor.grid.copy()
    wall = floor.frame.cell(3.2, 0.0)[1]
    grid[:, wall - 1 : wall + 2] = OCCUPIED
    middle = floor.frame.cell(0.0, 1.65)[0]
    grid[middle - 4 : middle + 5, wall - 1 : wall + 2] = FREE  # 0.45 m

    share, _ = measured(FloorMap("narrow", grid, floor.frame), 1, 2)

    assert share >= 0.99


def test_a_slit_too_narrow_for_the_robot_is_abandoned() -> None:
    """The mission ends although cells behind the slit cannot be reached."""
    floor = draw_rooms(2)
    grid = floor.grid.copy()
    wall = floor.frame.cell(3.2, 0.0)[1]
    grid[:, wall - 1 : wall + 2] = OCCUPIED
    middle = floor.frame.cell(0.0, 1.65)[0]
    grid[middle : middle + 4, wall - 1 : wall + 2] = FREE  # 0.2 m
    slit = FloorMap("slit", grid, floor.frame)

    outcome = simulate(slit, 1, 2)

    assert coverage(outcome.grid, slit, observable(slit, outcome.starts[0])) >= 0.97
    assert outcome.rounds < 200


def test_a_floor_without_walls_is_explored() -> None:
    """Where free cells extend to the edge of the file, the edge acts as a wall."""
    open_ground = FloorMap("open", np.zeros((120, 240), np.int8), GridFrame(120, 240, 0.05))

    share, _ = measured(open_ground, 2, 1)

    assert share >= 0.99


@pytest.mark.parametrize("robots", [2, 5])
def test_no_two_robots_have_one_goal(robots: int) -> None:
    """At no barrier of a mission do two robots drive to one place."""
    assert simulate(draw_office(3, width=16.0, height=12.0), robots, 1).shared_goals == 0
