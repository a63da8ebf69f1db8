"""Quality of a map against the true floor: coverage and accuracy.

Only the evaluation and the simulation know the true floor. Coverage counts only cells that robots
of this size could see, so that sealed rooms do not count.
"""

from typing import cast

import numpy as np

from app.exploration.clearance import traversable_cells
from app.exploration.driver import Pose, StartError
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, FloorMap, Grid, Mask
from app.exploration.lidar import LidarSpec, beam_angles, mark_visible
from app.exploration.shortest_paths import UNREACHED, distance_field

_LATTICE_M = 0.4
_BEAMS = 720


def reachable(floor: FloorMap, start: Pose, *, radius: float = 0.2) -> Mask:
    """Find where a disc can get to from a start; unknown cells of the floor are solid.

    Args:
        floor: the true floor.
        start: a pose at which the disc fits.
        radius: of the disc, metres.

    Returns:
        (rows, cols) bool, possible cells of the disc's centre.

    Raises:
        StartError: the disc does not fit at the start.
    """
    fits = traversable_cells(floor, radius)
    cell = floor.frame.cell(start.x, start.y)
    if not floor.frame.contains(*cell) or not fits[cell]:
        raise StartError(
            f"map {floor.name!r}: a disc of {radius:g} m does not fit at "
            f"({start.x:.2f}, {start.y:.2f})"
        )
    return distance_field(fits, cell) < UNREACHED


def observable(
    floor: FloorMap, start: Pose, *, radius: float = 0.2, max_range: float = LidarSpec().max_range
) -> Mask:
    """Find the free cells that a lidar could see from any place that a disc can get to.

    They are the union of scans of 720 beams from every reachable cell of a 0.4 m lattice.

    Args:
        floor: the true floor.
        start: a pose at which the disc fits.
        radius: of the disc, metres.
        max_range: of the lidar, metres.

    Returns:
        (rows, cols) bool, free cells only.

    Raises:
        StartError: the disc does not fit at the start.
    """
    reached = reachable(floor, start, radius=radius)
    step = max(1, round(_LATTICE_M / floor.frame.resolution))
    lattice = np.zeros_like(reached)
    row, col = floor.frame.cell(start.x, start.y)
    lattice[row % step :: step, col % step :: step] = True
    angles = beam_angles(_BEAMS)
    seen = mark_visible(
        floor.grid != FREE,
        np.argwhere(reached & lattice),
        angles,
        max_range / floor.frame.resolution,
    )
    return cast("Mask", seen & (floor.grid == FREE))


def coverage(merged: Grid, floor: FloorMap, observable: Mask) -> float:
    """Measure the share of the observable free cells that a map knows.

    Args:
        merged: (rows, cols) int8 occupancy in the floor's frame.
        floor: the true floor.
        observable: (rows, cols) bool, from `observable`.

    Returns:
        0 to 1; 1 if nothing is observable.

    Raises:
        ValueError: the map's shape is not the floor's.
    """
    _same_shape(merged, floor)
    if not observable.any():
        return 1.0
    known = int(np.count_nonzero(observable & (merged != UNKNOWN)))
    return known / int(np.count_nonzero(observable))


def accuracy(merged: Grid, floor: FloorMap) -> float:
    """Measure the share of the cells known both in a map and on the floor that agree.

    Args:
        merged: (rows, cols) int8 occupancy in the floor's frame.
        floor: the true floor.

    Returns:
        0 to 1; 1 if no cell is known in both.

    Raises:
        ValueError: the map's shape is not the floor's.
    """
    _same_shape(merged, floor)
    both = (merged != UNKNOWN) & (floor.grid != UNKNOWN)
    if not both.any():
        return 1.0
    agree = both & ((merged == OCCUPIED) == (floor.grid == OCCUPIED))
    return int(np.count_nonzero(agree)) / int(np.count_nonzero(both))


def _same_shape(merged: Grid, floor: FloorMap) -> None:
    """Reject maps of different shapes."""
    if merged.shape != floor.grid.shape:
        raise ValueError(f"map {merged.shape} differs in shape from the floor {floor.grid.shape}")
