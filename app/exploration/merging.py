"""Several robots' evidence made one map.

All layers lie in one frame, so cells add up. Layers of unknown relative pose are first brought
into one frame; that registration goes before this sum.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid
from app.exploration.lidar import LogOdds


def merge(layers: Sequence[LogOdds]) -> Grid:
    """Add log-odds cell by cell: independent evidence (Thrun, Burgard and Fox, ch. 9).

    Args:
        layers: at least one, each (rows, cols) int8 log-odds units in the same frame.

    Returns:
        (rows, cols) int8 occupancy: see `occupancy`.

    Raises:
        ValueError: there is no layer, or they differ in shape.
    """
    if not layers:
        raise ValueError("no layer to merge")
    shapes = {layer.shape for layer in layers}
    if len(shapes) > 1:
        raise ValueError(f"layers differ in shape: {sorted(shapes)}")
    total = np.zeros(layers[0].shape, np.int16)
    for layer in layers:
        total += layer
    return occupancy(total)


def occupancy(evidence: npt.NDArray[np.int8] | npt.NDArray[np.int16]) -> Grid:
    """Turn log-odds units into occupancy: any evidence decides, and none is UNKNOWN.

    A single return or miss is 0.85 or more from even odds, so a dead band around zero would
    only hide cells on which two robots disagree.
    """
    grid = np.full(evidence.shape, UNKNOWN, np.int8)
    grid[evidence < 0] = FREE
    grid[evidence > 0] = OCCUPIED
    return grid
