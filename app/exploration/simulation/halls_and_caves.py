"""Floors drawn from a seed other than offices: halls with racks and pillars, and caves.

Benchmarks use them together with `floor_plans.draw_office` and real maps: an office is many rooms,
a hall is one, and a cave has no straight walls to align to.
"""

import math

import cv2
import numpy as np

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, FloorMap, GridFrame
from app.exploration.simulation.floor_plans import FloorDrawing

_WALL = 0.3
_RACK_DEPTH = 1.2
_AISLE = 2.4
_PILLAR = 0.6
_MISSING = 0.12  # share of the racks
_CAVE_GRAIN = 1.6  # typical width of a cave's passages, metres
_CAVE_OPEN = 0.56  # share of open cells before unreachable ones are filled
_MIN_CLEARANCE = 0.35  # metres from the middle of a passage to its wall


def draw_hall(
    seed: int, *, width: float = 36.0, height: float = 24.0, resolution: float = 0.05
) -> FloorMap:
    """Draw a hall: rows of racks with cross aisles, a loading bay with pallets and pillars.

    Args:
        seed: equal seeds give equal floors.
        width: of the building, metres, at least 16.
        height: of the building, metres, at least 12.
        resolution: metres per cell.

    Returns:
        A floor named `hall`.
    """
    random = np.random.default_rng([seed, 1])
    drawing = FloorDrawing(width, height, resolution)
    drawing.fill(_WALL, _WALL, width - _WALL, height - _WALL, FREE)
    bay = round(width * float(random.uniform(0.2, 0.3)), 1)
    top = height - _WALL - _AISLE
    x = bay + _AISLE
    while x + _RACK_DEPTH < width - _WALL - _AISLE:
        y = _WALL + _AISLE
        while y < top - 2.0:
            length = min(round(float(random.uniform(3.0, 8.0)), 1), top - y)
            if random.random() > _MISSING:  # a few racks are missing
                drawing.fill(x, y, x + _RACK_DEPTH, y + length, OCCUPIED)
            y += length + round(float(random.uniform(1.4, 2.4)), 1)
        x += _RACK_DEPTH + _AISLE
    for y in np.arange(_WALL + 4.0, height - 4.0, 5.0):
        drawing.block(bay, float(y), _PILLAR, _PILLAR)
    for _ in range(round(bay * height / 25.0)):
        drawing.block(
            round(float(random.uniform(1.5, bay - 1.5)), 1),
            round(float(random.uniform(1.5, height - 1.5)), 1),
            1.2,
            0.8,
        )
    _office_corner(drawing, height, random)
    return FloorMap("hall", drawing.grid, drawing.frame)


def _office_corner(drawing: FloorDrawing, height: float, random: np.random.Generator) -> None:
    """Wall off a room in a corner of the bay, with a gate on its side."""
    side, tall = 4.0, 5.0
    bottom = height - _WALL - tall
    drawing.fill(_WALL, bottom - _WALL, _WALL + side + _WALL, height - _WALL, OCCUPIED)
    drawing.fill(_WALL, bottom, _WALL + side, height - _WALL, FREE)
    gate = bottom + round(float(random.uniform(0.3, tall - 1.5)), 1)
    drawing.fill(_WALL + side, gate, _WALL + side + _WALL, gate + 1.1, FREE)


def draw_cave(
    seed: int, *, width: float = 32.0, height: float = 24.0, resolution: float = 0.05
) -> FloorMap:
    """Draw a cave: smoothed noise cut at a level, so that walls are curved and loops are many.

    Args:
        seed: equal seeds give equal floors.
        width: of the cave, metres, at least 8.
        height: of the cave, metres, at least 8.
        resolution: metres per cell.

    Returns:
        A floor named `cave`, one connected piece that a robot of 0.2 m radius can drive through.
    """
    random = np.random.default_rng([seed, 2])
    rows, cols = math.ceil(height / resolution), math.ceil(width / resolution)
    noise = random.standard_normal((math.ceil(height / 0.2), math.ceil(width / 0.2)))
    smooth = cv2.GaussianBlur(noise, (0, 0), _CAVE_GRAIN / 0.2 / 2.0)
    level = cv2.resize(smooth, (cols, rows), interpolation=cv2.INTER_CUBIC)
    open_cells = level < np.quantile(level, _CAVE_OPEN)
    rim = round(0.6 / resolution)
    open_cells[:rim] = open_cells[-rim:] = False
    open_cells[:, :rim] = open_cells[:, -rim:] = False
    clearance = cv2.distanceTransform(
        open_cells.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    _, labels = cv2.connectedComponents((clearance * resolution > _MIN_CLEARANCE).astype(np.uint8))
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    distance = cv2.distanceTransform(
        (labels != largest).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    cave = open_cells & (distance * resolution <= _MIN_CLEARANCE)
    rock = cv2.dilate(cave.astype(np.uint8), np.ones((2 * rim - 1, 2 * rim - 1), np.uint8)) > 0
    grid = np.full((rows, cols), UNKNOWN, np.int8)
    grid[rock] = OCCUPIED
    grid[cave] = FREE
    return FloorMap("cave", grid, GridFrame(rows, cols, resolution))
