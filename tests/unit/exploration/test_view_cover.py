"""A view counts if it cannot fail, and few poses together see everything."""

import numpy as np
import pytest

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Cells, Grid, Mask
from app.exploration.planning.frontiers import frontier_cells
from app.exploration.planning.sightings import SightingCache, Sightings, find_sightings
from app.exploration.planning.view_cover import cover


def room() -> Grid:
    """Draw a room with two niches in its upper wall whose ends are unknown."""
    grid = np.full((40, 60), OCCUPIED, np.int8)
    grid[5:25, 5:55] = FREE
    for col in (10, 50):
        grid[25:30, col] = FREE
        grid[30, col] = UNKNOWN
    return grid


def sightings_of(grid: Grid, *, reach: int = 60, stride: int = 4) -> tuple[Cells, Sightings]:
    """Return the frontier cells of a room, and what is seen from its lower half."""
    targets = np.argwhere(frontier_cells(grid)).astype(np.int32)
    standing = np.zeros(grid.shape, np.bool_)
    standing[6:15, 6:54] = True
    return targets, find_sightings(grid, targets, standing, reach=reach, stride=stride)


def seen(found: Sightings) -> Mask:
    """Return which frontier cells are seen from any pose, (n,) bool."""
    return np.bincount(found.target, minlength=len(found.targets)) > 0


def test_a_niche_is_seen_from_below_only() -> None:
    """Each end of a niche is seen by other poses, almost below it."""
    targets, found = sightings_of(room())

    assert seen(found).all()
    for index, (_, col) in enumerate(targets):
        below = found.poses[found.pose[found.target == index]]
        assert np.abs(below[:, 1] - col).max() <= 3


def test_a_place_between_the_poses_of_the_lattice_is_found() -> None:
    """A niche that no pose of a wide lattice sees into is looked at from all cells."""
    _, found = sightings_of(room(), stride=16)

    assert seen(found).all()


def test_an_unknown_cell_hides_what_is_behind() -> None:
    """A line through an unknown cell is a guess: it does not count."""
    grid = room()
    grid[26, 10] = UNKNOWN

    targets, found = sightings_of(grid)

    cells = {tuple(cell) for cell in targets[seen(found)].tolist()}
    assert (25, 10) in cells
    assert (29, 10) not in cells


def test_a_pose_out_of_reach_sees_nothing() -> None:
    """What is farther away than the reach is not seen."""
    _, found = sightings_of(room(), reach=10)

    assert not seen(found).any()


@pytest.mark.parametrize("seed", range(12))
def test_cached_sightings_equal_new_ones(seed: int) -> None:
    """While a map and what robots get to change here and there, the cache hides no change."""
    random = np.random.default_rng(seed)
    grid = np.where(random.random((70, 90)) < 0.06, OCCUPIED, FREE).astype(np.int8)
    grid[random.random(grid.shape) < 0.03] = UNKNOWN
    standing = grid == FREE
    cache = SightingCache(reach=6, stride=3)
    for _ in range(8):
        targets = np.argwhere(frontier_cells(grid)).astype(np.int32)
        targets = targets[random.random(len(targets)) < 0.7]

        cached = cache.find(grid, (0, 0), targets, standing)

        anew = find_sightings(grid, targets, standing, reach=6, stride=3)
        for name in ("targets", "poses", "target", "pose"):
            assert np.array_equal(getattr(cached, name), getattr(anew, name))
        row, col = random.integers(0, (60, 80))
        grid, standing = grid.copy(), standing.copy()
        grid[row : row + 4, col : col + 4] = random.choice([FREE, OCCUPIED, UNKNOWN])
        row, col = random.integers(0, (60, 80))
        standing[row : row + 3, col : col + 3] ^= True


def test_cached_sightings_follow_a_map_that_grows() -> None:
    """When the map gets a row more at its lower side, every cell moves, and so do the poses."""
    cache = SightingCache(reach=60, stride=4)
    grid = room()
    standing = grid == FREE
    targets = np.argwhere(frontier_cells(grid)).astype(np.int32)
    cache.find(grid, (5, 0), targets, standing)

    larger, more = np.vstack([grid[:1], grid]), np.vstack([standing[:1], standing])
    moved = targets + np.array((1, 0), np.int32)
    cached = cache.find(larger, (4, 0), moved, more)

    anew = find_sightings(larger, moved, more, reach=60, stride=4)
    assert np.array_equal(cached.poses, anew.poses)
    assert np.array_equal(cached.pose, anew.pose)


def test_one_pose_covers_what_two_would() -> None:
    """The cover takes the pose that sees all three targets, and what was chosen before if told."""
    cells = np.zeros((3, 2), np.int32)
    poses = np.array([(1, 1), (2, 2), (3, 3)], np.int32)
    target, pose = np.array([0, 0, 1, 1, 2]), np.array([0, 2, 1, 2, 2])
    found = Sightings(cells, poses, target, pose)

    assert [(chosen, seen.tolist()) for chosen, seen in cover(found)] == [(2, [0, 1, 2])]
    kept = cover(found, keep=[(1, 1), (9, 9)])
    assert [(chosen, seen.tolist()) for chosen, seen in kept] == [(0, [0]), (2, [1, 2])]
