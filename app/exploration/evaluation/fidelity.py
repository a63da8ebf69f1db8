"""Accuracy of estimated poses and of maps in their own frame."""

from dataclasses import dataclass

import cv2
import numpy as np

from app.exploration.grid import FREE, OCCUPIED, FloorMap, Grid, Mask
from app.exploration.se2 import Transform, compose


def alignment(estimated: Transform, truth: Transform) -> Transform:
    """Find the rigid transform that aligns one track with another with the least squared error.

    Horn, "Closed-form solution of absolute orientation" (1987), in the plane, without scale.

    Args:
        estimated: (n, 3) poses.
        truth: (n, 3) poses of the same moments in another frame.

    Returns:
        (3,) from the first frame to the second.
    """
    here, there = estimated[:, :2], truth[:, :2]
    middle, goal = here.mean(axis=0), there.mean(axis=0)
    spread = (here - middle).T @ (there - goal)
    angle = float(np.arctan2(spread[0, 1] - spread[1, 0], spread[0, 0] + spread[1, 1]))
    if np.hypot(*(here - middle).T).max(initial=0.0) < 0.1:  # noqa: PLR2004, the robot did not move
        off = truth[:, 2] - estimated[:, 2]
        angle = float(np.arctan2(np.sin(off).mean(), np.cos(off).mean()))
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.array([cos * middle[0] - sin * middle[1], sin * middle[0] + cos * middle[1]])
    return np.array([*(goal - turned), angle])


def trajectory_error(estimated: Transform, truth: Transform) -> float:
    """Return the absolute trajectory error (ATE): RMS metres after `alignment`.

    Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems" (IROS 2012).

    Args:
        estimated: (n, 3) poses, of one robot or of a team in one frame.
        truth: (n, 3) poses of the same moments.
    """
    placed = compose(alignment(estimated, truth), estimated)
    return float(np.sqrt(np.square(placed[:, :2] - truth[:, :2]).sum(axis=1).mean()))


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well a map shows the observable part of a floor.

    Attributes:
        free_iou: intersection over union of the map's free cells and the observable ones.
        occupied_f1: harmonic mean of the share of the map's occupied cells within 10 cm of a
            surface and the share of surface cells within 10 cm of an occupied one.
        agreement: share of the cells free or occupied on both that agree.
    """

    free_iou: float
    occupied_f1: float
    agreement: float


def fidelity(merged: Grid, floor: FloorMap, observable: Mask, *, near: float = 0.1) -> Fidelity:
    """Compare a map with the floor; surfaces are blocked cells that touch an observable one.

    Args:
        merged: (rows, cols) int8 occupancy in the floor's frame.
        floor: the true floor.
        observable: (rows, cols) bool, from `map_quality.observable`.
        near: metres within which an occupied cell is right.

    Raises:
        ValueError: the map's shape is not the floor's.
    """
    if merged.shape != floor.grid.shape:
        raise ValueError(f"map {merged.shape} differs in shape from the floor {floor.grid.shape}")
    free = merged == FREE
    union = int(np.count_nonzero(free | observable))
    near_observable = cv2.dilate(observable.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    surface = near_observable & (floor.grid != FREE)
    occupied = merged == OCCUPIED
    reach = near / floor.frame.resolution + 1e-3
    right = _share_near(occupied, surface, reach)
    found = _share_near(surface, occupied, reach)
    both = (free | occupied) & (floor.grid != -1)
    agree = both & (occupied == (floor.grid == OCCUPIED))
    return Fidelity(
        free_iou=int(np.count_nonzero(free & observable)) / union if union else 1.0,
        occupied_f1=2.0 * right * found / (right + found) if right + found else 0.0,
        agreement=int(np.count_nonzero(agree)) / max(int(np.count_nonzero(both)), 1),
    )


def _share_near(cells: Mask, goal: Mask, reach: float) -> float:
    """Return the share of cells that lie within a distance, cells, of other cells."""
    count = int(np.count_nonzero(cells))
    if not count or not goal.any():
        return 0.0
    distance = cv2.distanceTransform((~goal).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int(np.count_nonzero(distance[cells] <= reach)) / count
