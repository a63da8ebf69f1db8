"""Maps of unrelated frames are registered when they match, and rejected when they do not."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from app.exploration.clearance import clearance_map
from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, FloorMap, Grid, GridFrame
from app.exploration.mapping.keyframes import Keyframe, draw_keyframes
from app.exploration.merging.consensus import consistent_groups, group_maps
from app.exploration.merging.evidence import occupancy, transform_layer
from app.exploration.merging.registration import RegistrationGate, realign, register
from app.exploration.se2 import Transform, between, compose, inverse, wrap
from app.exploration.simulation.floor_plans import draw_office
from app.exploration.simulation.halls_and_caves import draw_cave
from app.exploration.simulation.simulated_base import SimulatedBase

OFFICE = draw_office(41, width=16.0, height=12.0)
CAVE = draw_cave(7, width=16.0, height=12.0)


def seen(floor: FloorMap, left: float, right: float, at: Transform) -> tuple[Grid, GridFrame]:
    """Draw scans from part of a floor, between two shares of its width, in a given frame."""
    random = np.random.default_rng(2)
    clearance = clearance_map(floor.grid != FREE, floor.frame.resolution) > 0.4
    cells = np.argwhere(clearance)
    inside = (cells[:, 1] >= left * floor.frame.cols) & (cells[:, 1] <= right * floor.frame.cols)
    keyframes, poses = [], []
    for row, col in random.permutation(cells[inside])[:16]:
        x, y = floor.frame.centre(int(row), int(col))
        base = SimulatedBase(floor, Pose(x, y, float(random.uniform(-3, 3))), random)
        scan = base.scan()
        keyframes.append(Keyframe(0.0, scan, scan.points()))
        poses.append(base.truth)
    moved = between(at, np.array(poses))
    low, high = moved[:, :2].min(axis=0) - 9.0, moved[:, :2].max(axis=0) + 9.0
    cols, rows = (int(n) for n in np.ceil((high - low) / 0.05))
    frame = GridFrame(rows, cols, 0.05, float(low[0]), float(low[1]))
    evidence = np.zeros((rows, cols), np.int8)
    draw_keyframes(evidence, frame, keyframes, moved)
    return occupancy(evidence), frame


ONE, TWO = np.array([3.0, -2.0, 0.4]), np.array([-7.0, 5.0, -2.1])


@pytest.mark.parametrize("floor", [OFFICE, CAVE], ids=["office", "cave"])
def test_overlapping_maps_are_registered(floor: FloorMap) -> None:
    """Two parts of a floor in unrelated frames are aligned to within 5 cm and half a degree."""
    found = register(*seen(floor, 0.0, 0.6, ONE), *seen(floor, 0.3, 1.0, TWO))

    assert found is not None
    assert RegistrationGate().accepts(found)
    middle = np.array([10.0, 8.0, 0.0])
    off = between(
        compose(found.transform, between(TWO, middle)),
        compose(between(ONE, TWO), between(TWO, middle)),
    )
    assert math.hypot(off[0], off[1]) < 0.05
    assert abs(off[2]) < math.radians(0.5)


def test_a_known_match_is_realigned() -> None:
    """A transform that is a few centimetres off is refined by walls alone."""
    one, two = seen(OFFICE, 0.0, 0.6, ONE), seen(OFFICE, 0.3, 1.0, TWO)
    truth = between(ONE, TWO)

    found = realign(*one, *two, compose(truth, np.array([0.05, -0.04, math.radians(0.5)])))

    centre = between(TWO, np.array([10.0, 8.0, 0.0]))
    off = between(compose(found, centre), compose(truth, centre))
    assert math.hypot(off[0], off[1]) < 0.02
    assert abs(off[2]) < math.radians(0.2)


def test_a_map_without_walls_keeps_its_transform() -> None:
    """Without evidence there is nothing to refine."""
    free, frame = np.full((40, 40), FREE, np.int8), GridFrame(40, 40, 0.05)

    assert realign(free, frame, *seen(CAVE, 0.0, 1.0, TWO), ONE) is ONE


def test_maps_of_different_floors_are_rejected() -> None:
    """The best fit of an office and a cave does not pass the gate."""
    found = register(*seen(OFFICE, 0.0, 0.6, ONE), *seen(CAVE, 0.0, 1.0, TWO))

    assert found is not None
    assert not RegistrationGate().accepts(found)


def test_a_similar_map_with_one_difference_is_rejected() -> None:
    """Nearly all walls agree, but an obstacle stands in the other map's free space."""
    grid = OFFICE.grid.copy()
    clearance = clearance_map(grid != FREE, 0.05)
    row, col = np.unravel_index(int(np.argmax(clearance)), grid.shape)
    grid[row - 7 : row + 8, col - 7 : col + 8] = OCCUPIED
    twin = FloorMap("twin", grid, OFFICE.frame)

    found = register(*seen(OFFICE, 0.0, 1.0, ONE), *seen(twin, 0.0, 1.0, TWO))

    assert found is not None
    assert found.agreement > 0.9
    assert found.conflict > 0.3
    assert not RegistrationGate().accepts(found)


def test_a_slightly_larger_map_is_rejected() -> None:
    """Walls within 12 cm count as common, but whole pieces are offset to one side."""
    grid, frame = seen(OFFICE, 0.0, 0.6, ONE)
    rows, cols = round(grid.shape[0] * 1.02), round(grid.shape[1] * 1.02)
    larger = np.asarray(cv2.resize(grid, (cols, rows), interpolation=cv2.INTER_NEAREST), np.int8)

    itself = register(grid, frame, *seen(OFFICE, 0.0, 0.6, TWO))
    twin = register(grid, frame, larger, GridFrame(rows, cols, 0.05))

    assert itself is not None
    assert twin is not None
    assert itself.residual_rms < 0.5 * RegistrationGate().residual_rms
    assert twin.residual_rms > RegistrationGate().residual_rms
    assert not RegistrationGate().accepts(replace(itself, residual_rms=twin.residual_rms))


def test_common_wall_must_fit_nowhere_else() -> None:
    """No length of repeated wall is accepted, a few metres of distinct wall are."""
    found = register(*seen(OFFICE, 0.0, 0.6, ONE), *seen(OFFICE, 0.3, 1.0, TWO))

    assert found is not None
    assert RegistrationGate().accepts(replace(found, walls=6.0, distinct=3.0))
    assert not RegistrationGate().accepts(replace(found, walls=6.0, distinct=0.8))
    assert not RegistrationGate().accepts(replace(found, walls=60.0, distinct=3.0))


def test_a_map_without_walls_is_not_registered() -> None:
    """Free space alone says nothing about its position."""
    free, frame = np.full((40, 40), FREE, np.int8), GridFrame(40, 40, 0.05)

    assert register(free, frame, *seen(CAVE, 0.0, 1.0, TWO)) is None


def test_only_matching_maps_are_grouped() -> None:
    """Two parts of an office form a group, and a cave stays alone."""
    maps = [seen(OFFICE, 0.0, 0.6, ONE), seen(CAVE, 0.0, 1.0, TWO), seen(OFFICE, 0.3, 1.0, TWO)]

    groups = group_maps(maps)

    assert [group.members for group in groups] == [(0, 2), (1,)]


def test_an_inconsistent_link_is_dropped() -> None:
    """A link that closes no triangle is dropped, even with the most support."""
    random = np.random.default_rng(4)
    at = np.column_stack([random.uniform(-9, 9, (4, 2)), random.uniform(-3, 3, 4)])
    links = {
        (one, two): (between(at[one], at[two]), 10.0)
        for one in range(4)
        for two in range(one + 1, 4)
    }
    links[1, 3] = (np.array([4.0, 4.0, 1.0]), 99.0)

    (group,) = consistent_groups(4, links)

    assert group.members == (0, 1, 2, 3)
    off = between(group.transforms, compose(inverse(at[0]), at))
    assert np.abs(off).max() < 1e-3


def test_layers_are_transformed_to_the_right_place() -> None:
    """A mark in another frame lies where the transform moves its centre."""
    frame, target = GridFrame(40, 60, 0.05, -1.0, 0.5), GridFrame(200, 200, 0.05, -5.0, -5.0)
    layer = np.zeros((40, 60), np.int8)
    layer[10:13, 20:23] = -40
    layer[30, 50] = 60
    motion = np.array([1.5, -0.7, 0.8])

    moved = transform_layer(layer, frame, motion, target)

    x, y = frame.centre(11, 21)
    there = compose(motion, np.array([x, y, 0.0]))
    assert moved[target.cell(there[0], there[1])] == -40
    assert np.count_nonzero(moved < 0) in range(7, 12)
    assert wrap(there[2] - 0.8) == pytest.approx(0.0)
    assert not (moved == OCCUPIED).any()
