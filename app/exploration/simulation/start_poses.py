"""Where the robots of a team start on a true floor; the seed decides."""

import math

import cv2
import numpy as np

from app.exploration.clearance import traversable_cells
from app.exploration.driver import Pose, StartError
from app.exploration.grid import FloorMap
from app.exploration.shortest_paths import distance_field

_START_SPACING_M = 0.6  # between robots at the start, so that discs of 0.2 m do not touch
_BASE_STREAM = 6  # separates a base's random numbers from others of its slot


def start_poses(
    floor: FloorMap, robots: int, seed: int, *, radius: float = 0.2, scattered: bool = False
) -> list[Pose]:
    """Choose where a team starts: together around one entry point, all in reach of each other.

    The entry lies in the largest part of the floor that a disc can move in. A scattered team
    starts at random places of that part, all equally likely, as the previous mission may have left
    it. Its first robot starts at the entry too.

    Args:
        floor: the true floor.
        robots: number of robots.
        seed: equal seeds give equal poses.
        radius: of a robot, metres.
        scattered: start each robot at a random place instead of all together.

    Returns:
        One pose for each robot, by slot.

    Raises:
        StartError: the floor has no space for one robot, or not enough for all.
    """
    if robots < 1:
        raise StartError(f"map {floor.name!r}: a team needs at least one robot, not {robots}")
    fits = traversable_cells(floor, radius)
    count, labels = cv2.connectedComponents(fits.astype(np.uint8), connectivity=4)
    if count == 1:
        raise StartError(f"map {floor.name!r}: no place where a disc of {radius:g} m fits")
    largest = 1 + int(np.argmax(np.bincount(labels.ravel(), minlength=count)[1:]))
    cells = np.argwhere(labels == largest)
    random = np.random.default_rng(seed)
    entry = cells[random.integers(len(cells))]
    if scattered:
        candidates = np.vstack([entry[None], random.permutation(cells)])
    else:
        distances = distance_field(labels == largest, (int(entry[0]), int(entry[1])))
        candidates = cells[np.argsort(distances[cells[:, 0], cells[:, 1]], kind="stable")]
    spacing = _START_SPACING_M / floor.frame.resolution
    chosen = candidates[:0]
    while len(chosen) < robots and len(candidates) > 0:
        chosen = np.vstack([chosen, candidates[:1]])
        candidates = candidates[np.hypot(*(candidates - candidates[0]).T) >= spacing]
    if len(chosen) < robots:
        raise StartError(
            f"map {floor.name!r}: space to start for {len(chosen)} robots, not for {robots}"
        )
    return [Pose(*floor.frame.centre(int(row), int(col))) for row, col in chosen]


def true_starts(floor: FloorMap, robots: int, seed: int) -> list[Pose]:
    """Return the start poses of a team with unknown poses, each with a random heading.

    Args:
        floor: the true floor.
        robots: number of robots.
        seed: equal seeds give equal poses.

    Raises:
        StartError: the floor has not enough space for the robots.
    """
    return [
        Pose(start.x, start.y, random_heading(base_random(seed, slot)))
        for slot, start in enumerate(start_poses(floor, robots, seed))
    ]


def base_random(seed: int, slot: int) -> np.random.Generator:
    """Return the random numbers of a simulated base; its first draw is the start's heading."""
    return np.random.default_rng([seed, slot, _BASE_STREAM])


def random_heading(random: np.random.Generator) -> float:
    """Draw a heading, radians."""
    return float(random.uniform(-math.pi, math.pi))
