"""Rigid transforms, the pose graph, scan matching and the metrics of maps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exploration.evaluation.fidelity import alignment, fidelity, trajectory_error
from app.exploration.grid import FREE, OCCUPIED, FloorMap, GridFrame
from app.exploration.mapping.pose_graph import Edge, PoseGraph
from app.exploration.mapping.scan_matching import likelihood_field, refine, search
from app.exploration.se2 import Transform, apply, compose, inverse, wrap

MOTIONS = st.tuples(
    st.floats(-50, 50), st.floats(-50, 50), st.floats(-math.pi + 1e-6, math.pi - 1e-6)
).map(np.array)


@given(MOTIONS, MOTIONS, MOTIONS)
def test_transforms_form_a_group(one: Transform, two: Transform, three: Transform) -> None:
    """Composition is associative, and the inverse undoes a transform."""
    left = compose(compose(one, two), three)
    right = compose(one, compose(two, three))

    assert np.allclose(left[:2], right[:2], atol=1e-6)
    assert abs(wrap(left[2] - right[2])) < 1e-9
    assert np.allclose(compose(one, inverse(one)), 0.0, atol=1e-6)


@given(MOTIONS, MOTIONS)
def test_points_and_poses_transform_alike(one: Transform, two: Transform) -> None:
    """The position of a pose transforms as a point does."""
    assert np.allclose(apply(one, two[None, :2])[0], compose(one, two)[:2], atol=1e-6)


def square(turn: float) -> tuple[Transform, PoseGraph]:
    """Drive around a square with a turn error on each side; return the guess and its edges."""
    poses = [np.zeros(3)]
    graph = PoseGraph()
    step = np.array([1.0, 0.0, math.pi / 2 + turn])
    for index in range(4):
        poses.append(compose(poses[-1], step))
        graph.add(Edge(index, index + 1, step, np.diag([1e3, 1e3, 1e3]), trusted=True))
    return np.array(poses), graph


def test_a_loop_closes_the_square() -> None:
    """One edge from end to start spreads the error over all sides."""
    poses, graph = square(0.1)

    graph.add(Edge(0, 4, np.zeros(3), np.diag([1e4, 1e4, 1e4]), trusted=False))
    solved = graph.solve(poses)

    assert np.hypot(*poses[4, :2]) > 0.1
    assert np.hypot(*solved[4, :2]) < 0.03
    assert np.allclose(solved[0], 0.0, atol=1e-6)


def test_a_false_loop_distorts_nothing() -> None:
    """An edge that contradicts all others loses its weight."""
    poses, graph = square(0.0)

    graph.add(Edge(0, 4, np.zeros(3), np.diag([1e4, 1e4, 1e4]), trusted=False))
    graph.add(Edge(0, 2, np.array([9.0, -7.0, 0.3]), np.diag([1e4, 1e4, 1e4]), trusted=False))
    solved = graph.solve(poses)

    assert np.abs(solved - poses)[:, :2].max() < 0.05


@given(MOTIONS)
def test_the_error_of_a_track_does_not_depend_on_its_frame(motion: Transform) -> None:
    """An exact track has no error in any frame, and a distorted one has the same in all."""
    random = np.random.default_rng(3)
    truth = np.column_stack([random.uniform(-9, 9, (30, 2)), random.uniform(-3, 3, 30)])
    dented = truth.copy()
    dented[::2, 0] += 0.2

    assert trajectory_error(compose(motion, truth), truth) < 1e-6
    error = trajectory_error(compose(motion, dented), truth)
    assert error == pytest.approx(trajectory_error(dented, truth), rel=1e-6)
    assert 0.05 < error < 0.2
    assert np.allclose(
        compose(alignment(truth, compose(motion, truth)), truth[0])[:2],
        compose(motion, truth[0])[:2],
        atol=1e-6,
    )


def test_a_true_map_is_perfect_and_a_shifted_one_is_not() -> None:
    """The floor itself scores 1; shifted by three cells it scores less."""
    grid = np.full((60, 60), OCCUPIED, np.int8)
    grid[5:-5, 5:-5] = FREE
    grid[20:24, 10:40] = OCCUPIED
    floor = FloorMap("box", grid, GridFrame(60, 60, 0.05))
    seen = grid == FREE

    right = fidelity(grid, floor, seen)
    shifted = fidelity(np.roll(grid, 3, axis=1), floor, seen)

    assert (right.free_iou, right.agreement) == (1.0, 1.0)
    assert shifted.free_iou < 0.95
    assert shifted.occupied_f1 < right.occupied_f1


def corner() -> Transform:
    """Return the points of two walls that meet, (n, 2) metres."""
    along = np.arange(0.0, 4.0, 0.02)
    wall = np.full_like(along, 0.013)
    return np.vstack([np.column_stack([along, wall]), np.column_stack([wall, along])])


def test_a_scan_is_found_within_the_window() -> None:
    """A guess that is 30 cm and 8 degrees off is corrected to 2 cm."""
    walls, truth = corner(), np.array([1.2, 0.9, 0.3])
    scan = apply(inverse(truth), walls)
    field = likelihood_field([walls], np.zeros((1, 3)), walls, margin=1.5)

    guess = truth + np.array([0.25, -0.2, 0.14])
    match = search(field, scan, guess, window=0.5, turn=0.2)

    assert np.hypot(*(match.pose - truth)[:2]) < 0.02
    assert abs(match.pose[2] - truth[2]) < 0.01
    assert match.score > 0.9


def test_a_bare_corridor_keeps_the_odometry_along_it() -> None:
    """Between two walls the match corrects the pose across, and keeps the prior along them."""
    along = np.arange(-4.0, 4.0, 0.02)
    walls = np.vstack([np.column_stack([along, np.full_like(along, y)]) for y in (-1.012, 1.003)])
    field = likelihood_field([walls], np.zeros((1, 3)), walls, margin=1.5)
    scan = walls[np.abs(walls[:, 0]) < 2.0]

    match = refine(field, scan, np.array([0.3, 0.1, 0.0]), np.diag([400.0, 400.0, 1000.0]))

    assert match.pose[0] == pytest.approx(0.3, abs=0.03)
    assert match.pose[1] == pytest.approx(0.0, abs=0.02)
    assert match.information[1, 1] > 20 * match.information[0, 0]
