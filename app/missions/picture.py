"""Draws the picture of a mission: the map, each robot's path, the remaining frontiers.

Equal missions give equal bytes. Robots have the colours of Okabe and Ito, "Color Universal
Design" (2008), which colour-blind readers can tell apart.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.driver import Point
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame
from app.exploration.map_files import write_atomically

Picture = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, BGR as in OpenCV; the top row first."""

_Colour = tuple[int, int, int]

_PAPER: _Colour = (255, 255, 255)
_INK: _Colour = (40, 40, 40)
_UNKNOWN: _Colour = (222, 218, 214)
_WALL: _Colour = (60, 50, 45)
_FRONTIER: _Colour = (0, 0, 0)
_ROBOTS: tuple[_Colour, ...] = (
    (178, 114, 0),  # blue
    (0, 94, 213),  # vermillion
    (115, 158, 0),  # bluish green
    (167, 121, 204),  # reddish purple
    (0, 159, 230),  # orange
    (233, 180, 86),  # sky blue
    (66, 228, 240),  # yellow
)
_LONGER_SIDE = 1200  # pixels of the map itself
_MARGIN_M = 0.5  # unknown space shown around the known cells
_PAD = 24
_LINE = 30  # pixels per line of text
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FRACTION = 4  # bits of a sub-pixel position


def draw(
    grid: Grid,
    frame: GridFrame,
    paths: Sequence[Sequence[Point]],
    frontiers: Sequence[Point] = (),
    *,
    names: Sequence[str] = (),
    title: str = "",
    facts: Sequence[str] = (),
) -> Picture:
    """Draw a map with the paths of the robots.

    Args:
        grid: (rows, cols) int8 occupancy.
        frame: The pose and resolution of the grid.
        paths: For each robot by slot the points that it drove through, metres, map frame.
        frontiers: A point of each remaining frontier, metres, map frame.
        names: The names of these robots in the fleet; none: their numbers, from 1.
        title: One line above the map; ASCII, because the font has no other characters.
        facts: Lines of text for the legend.

    Returns:
        (height, width, 3) uint8, BGR, top row first.
    """
    row0, col0, row1, col1 = _shown(grid, frame)
    shown = grid[row0:row1, col0:col1]
    scale = min(max(_LONGER_SIDE / max(shown.shape), 0.05), 16.0)
    image = _paint(shown, scale)

    def pixel(point: Point) -> tuple[float, float]:
        row, col = frame.in_cells(*point)
        return (col - col0) * scale, image.shape[0] - (row - row0) * scale

    for point in frontiers:
        _cross(image, pixel(point))
    pixel_paths = [[pixel(point) for point in path] for path in paths]
    for slot, path in enumerate(pixel_paths):
        _draw_path(image, path, _ROBOTS[slot % len(_ROBOTS)])
    for slot, path in enumerate(pixel_paths):
        _mark_ends(image, path, _ROBOTS[slot % len(_ROBOTS)])
    cv2.rectangle(image, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), _INK, 1)
    labels = list(names) or [f"robot {number}" for number in range(1, len(paths) + 1)]
    legend = _legend(image.shape[0], labels, len(frontiers), scale / frame.resolution, facts)
    return _compose(image, legend, title)


def save_picture(path: Path, picture: Picture) -> None:
    """Write a picture as PNG; an existing file is replaced atomically.

    Raises:
        OSError: The folder is missing, full or not writable.
    """
    encoded, content = cv2.imencode(".png", picture)
    if not encoded:
        raise OSError(f"picture {path.name}: cannot be encoded")
    write_atomically(path, content.tobytes())


def _shown(grid: Grid, frame: GridFrame) -> tuple[int, int, int, int]:
    """Return the bounding box of the known cells with a margin: row0, col0, row1, col1."""
    known = grid != UNKNOWN
    if not known.any():
        return 0, 0, frame.rows, frame.cols
    margin = round(_MARGIN_M / frame.resolution)
    rows, cols = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return (
        max(int(rows[0]) - margin, 0),
        max(int(cols[0]) - margin, 0),
        min(int(rows[-1]) + 1 + margin, frame.rows),
        min(int(cols[-1]) + 1 + margin, frame.cols),
    )


def _paint(shown: Grid, scale: float) -> Picture:
    """Colour the cells, top row first, at the given pixels per cell."""
    cells = np.empty((*shown.shape, 3), np.uint8)
    cells[shown == UNKNOWN] = _UNKNOWN
    cells[shown == FREE] = _PAPER
    cells[shown == OCCUPIED] = _WALL
    size = (max(round(shown.shape[1] * scale), 1), max(round(shown.shape[0] * scale), 1))
    interpolation = cv2.INTER_NEAREST if scale >= 1.0 else cv2.INTER_AREA
    return np.ascontiguousarray(
        cv2.resize(cells[::-1], size, interpolation=interpolation), np.uint8
    )


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    """Convert a pixel position to OpenCV's fixed-point numbers."""
    unit = 1 << _FRACTION
    return round(point[0] * unit), round(point[1] * unit)


def _draw_path(image: Picture, path: Sequence[tuple[float, float]], colour: _Colour) -> None:
    """Draw a path on a light outline that separates crossing paths."""
    points = np.array([_fixed(point) for point in path], np.int32).reshape(-1, 1, 2)
    if len(points) > 1:
        cv2.polylines(image, [points], False, _PAPER, 5, cv2.LINE_AA, _FRACTION)
        cv2.polylines(image, [points], False, colour, 2, cv2.LINE_AA, _FRACTION)


def _mark_ends(image: Picture, path: Sequence[tuple[float, float]], colour: _Colour) -> None:
    """Mark the start of a path with a ring and its end with a square."""
    if path:
        _ring(image, path[0], colour)
        _square(image, path[-1], colour)


def _ring(image: Picture, at: tuple[float, float], colour: _Colour) -> None:
    unit = 1 << _FRACTION
    cv2.circle(image, _fixed(at), 8 * unit, _PAPER, -1, cv2.LINE_AA, _FRACTION)
    cv2.circle(image, _fixed(at), 7 * unit, colour, 3, cv2.LINE_AA, _FRACTION)


def _square(image: Picture, at: tuple[float, float], colour: _Colour) -> None:
    x, y = round(at[0]), round(at[1])
    cv2.rectangle(image, (x - 8, y - 8), (x + 8, y + 8), _PAPER, -1)
    cv2.rectangle(image, (x - 6, y - 6), (x + 6, y + 6), colour, -1)


def _cross(image: Picture, at: tuple[float, float]) -> None:
    x, y = round(at[0]), round(at[1])
    cv2.drawMarker(image, (x, y), _PAPER, cv2.MARKER_TILTED_CROSS, 14, 4, cv2.LINE_AA)
    cv2.drawMarker(image, (x, y), _FRONTIER, cv2.MARKER_TILTED_CROSS, 12, 2, cv2.LINE_AA)


def _write(image: Picture, text: str, x: int, y: int, size: float = 0.55) -> None:
    cv2.putText(image, text, (x, y), _FONT, size, _INK, 1, cv2.LINE_AA)


def _legend(
    height: int,
    robots: Sequence[str],
    frontiers: int,
    pixels_per_metre: float,
    facts: Sequence[str],
) -> Picture:
    """Draw the legend: the symbols, a scale bar, and the given facts."""
    lines = len(robots) + 2 + (frontiers > 0) + len(facts) + 4
    image = np.full((max(height, lines * _LINE), 260, 3), 255, np.uint8)
    y = _LINE // 2
    for slot, name in enumerate(robots):
        colour = _ROBOTS[slot % len(_ROBOTS)]
        cv2.line(image, (4, y), (44, y), colour, 2, cv2.LINE_AA)
        _write(image, name, 56, y + 6)
        y += _LINE
    _ring(image, (24.0, float(y)), _INK)
    _write(image, "start", 56, y + 6)
    y += _LINE
    _square(image, (24.0, float(y)), _INK)
    _write(image, "end", 56, y + 6)
    y += _LINE
    if frontiers:
        _cross(image, (24.0, float(y)))
        _write(image, f"frontier left ({frontiers})", 56, y + 6)
        y += _LINE
    y += _LINE // 2
    metres = _round_length(200.0 / pixels_per_metre)
    right = 4 + round(metres * pixels_per_metre)
    cv2.line(image, (4, y), (right, y), _INK, 2)
    for x in (4, right):
        cv2.line(image, (x, y - 5), (x, y + 5), _INK, 2)
    _write(image, f"{metres:g} m", 4, y + _LINE - 6)
    y += 2 * _LINE
    for fact in facts:
        _write(image, fact, 4, y + 6)
        y += _LINE
    return image


def _round_length(longest: float) -> float:
    """Return the longest of 1, 2, 5, 10, ... metres (or tenths of them) that fits."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= longest)


def _compose(image: Picture, legend: Picture, title: str) -> Picture:
    """Arrange map, legend and title on one page."""
    header = _PAD + (_LINE if title else 0)
    height = header + max(image.shape[0], legend.shape[0]) + _PAD
    width = image.shape[1] + legend.shape[1] + 3 * _PAD
    page = np.full((height, width, 3), 255, np.uint8)
    page[header : header + image.shape[0], _PAD : _PAD + image.shape[1]] = image
    left = 2 * _PAD + image.shape[1]
    page[header : header + legend.shape[0], left : left + legend.shape[1]] = legend
    if title:
        _write(page, title, _PAD, header - 14, 0.7)
    return page
