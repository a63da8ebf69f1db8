"""Layers of evidence: merge several robots' layers, move a layer into another frame.

Layers in one frame add up cell by cell. Layers of unknown relative pose are first moved into one
frame: `consensus` finds the transforms, `transform_layer` applies them.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame, LogOdds


def merge_layers(layers: Sequence[LogOdds]) -> Grid:
    """Add log-odds cell by cell, as independent evidence (Thrun, Burgard and Fox, ch. 9).

    Args:
        layers: at least one, each (rows, cols) int8 log-odds units in the same frame.

    Returns:
        (rows, cols) int8 occupancy, see `occupancy`.

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


def transform_layer(
    layer: LogOdds, frame: GridFrame, transform: npt.NDArray[np.float64], target: GridFrame
) -> LogOdds:
    """Move evidence into another frame; each cell takes the value of the nearest source cell.

    Args:
        layer: (rows, cols) int8 log-odds units.
        frame: where it lies in its own frame.
        transform: (3,) x, y, angle from that frame to the target's.
        target: the grid to fill.

    Returns:
        (rows, cols) int8 of the target, 0 outside the layer.
    """
    cos, sin = math.cos(transform[2]), math.sin(transform[2])
    scale = target.resolution / frame.resolution
    turn = scale * np.array([[cos, sin], [-sin, cos]])
    # The centre of the target's cell (0, 0) in the layer's frame, in cells.
    x, y = target.centre(0, 0)
    off = np.array([x - transform[0], y - transform[1]])
    corner = np.array([[cos, sin], [-sin, cos]]) @ off
    corner = (corner - [frame.origin_x, frame.origin_y]) / frame.resolution - 0.5
    moved = cv2.warpAffine(
        layer.view(np.uint8),
        np.column_stack([turn, corner]),
        (target.cols, target.rows),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderValue=0,
    )
    return np.ascontiguousarray(moved, np.uint8).view(np.int8)


def occupancy(evidence: npt.NDArray[np.int8] | npt.NDArray[np.int16]) -> Grid:
    """Convert log-odds units to occupancy: by their sign, UNKNOWN for 0.

    A single hit or miss is at least 0.85 from even odds, in log-odds; a dead band around zero would
    only hide cells on which two robots disagree.
    """
    grid = np.full(evidence.shape, UNKNOWN, np.int8)
    grid[evidence < 0] = FREE
    grid[evidence > 0] = OCCUPIED
    return grid
