"""A mission drawn for people: the map, each robot's path, what frontiers are left.

The same mission gives the same bytes. Robots wear the colours of Okabe and Ito, "Color Universal
Design" (2008), which stay apart for colour-blind eyes.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.driver import Point
from app.exploration.files import write_whole
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame

Picture = npt.NDArray[np.uint8]
"""(height, width, 3) uint8 in OpenCV's order, blue first; the top row first."""

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
_BORDER_M = 0.5  # unknown ground shown around the known
_PAD = 24
_LINE = 30  # pixels of a line of text
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FRACTION = 4  # bits of sub-pixel position


def draw(
    grid: Grid,
    frame: GridFrame,
    paths: Sequence[Sequence[Point]],
    frontiers: Sequence[Point] = (),
    *,
    title: str = "",
    facts: Sequence[str] = (),
) -> Picture:
    """Draw a map with what the robots did on it.

    Args:
        grid: (rows, cols) int8 occupancy.
        frame: where the grid lies.
        paths: for each robot by slot the points that it drove through, metres, map frame.
        frontiers: a point of each frontier left, metres, map frame.
        title: one line above the map; ASCII, for the font has no more.
        facts: lines of text for the legend.

    Returns:
        (height, width, 3) uint8, blue first, top row first.
    """
    row0, col0, row1, col1 = _shown(grid, frame)
    part = grid[row0:row1, col0:col1]
    scale = min(max(_LONGER_SIDE / max(part.shape), 0.05), 16.0)
    sheet = _paint(part, scale)

    def pixel(point: Point) -> tuple[float, float]:
        row, col = frame.in_cells(*point)
        return (col - col0) * scale, sheet.shape[0] - (row - row0) * scale

    for point in frontiers:
        _cross(sheet, pixel(point))
    ways = [[pixel(point) for point in path] for path in paths]
    for slot, way in enumerate(ways):
        _way(sheet, way, _ROBOTS[slot % len(_ROBOTS)])
    for slot, way in enumerate(ways):
        _ends(sheet, way, _ROBOTS[slot % len(_ROBOTS)])
    cv2.rectangle(sheet, (0, 0), (sheet.shape[1] - 1, sheet.shape[0] - 1), _INK, 1)
    legend = _legend(sheet.shape[0], len(paths), len(frontiers), scale / frame.resolution, facts)
    return _page(sheet, legend, title)


def save_picture(path: Path, picture: Picture) -> None:
    """Write a picture as PNG, replaced whole.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    done, content = cv2.imencode(".png", picture)
    if not done:
        raise OSError(f"picture {path.name}: cannot be encoded")
    write_whole(path, content.tobytes())


def _shown(grid: Grid, frame: GridFrame) -> tuple[int, int, int, int]:
    """Return the rectangle of cells worth showing: the known ones with a border."""
    known = grid != UNKNOWN
    if not known.any():
        return 0, 0, frame.rows, frame.cols
    border = round(_BORDER_M / frame.resolution)
    rows, cols = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return (
        max(int(rows[0]) - border, 0),
        max(int(cols[0]) - border, 0),
        min(int(rows[-1]) + 1 + border, frame.rows),
        min(int(cols[-1]) + 1 + border, frame.cols),
    )


def _paint(part: Grid, scale: float) -> Picture:
    """Colour the cells and turn the sheet top row first, at the given pixels a cell."""
    cells = np.empty((*part.shape, 3), np.uint8)
    cells[part == UNKNOWN] = _UNKNOWN
    cells[part == FREE] = _PAPER
    cells[part == OCCUPIED] = _WALL
    size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
    how = cv2.INTER_NEAREST if scale >= 1.0 else cv2.INTER_AREA
    return np.ascontiguousarray(cv2.resize(cells[::-1], size, interpolation=how), np.uint8)


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    """Turn a pixel position into OpenCV's fixed point."""
    unit = 1 << _FRACTION
    return round(point[0] * unit), round(point[1] * unit)


def _way(sheet: Picture, way: Sequence[tuple[float, float]], colour: _Colour) -> None:
    """Draw a path, on a light rim that keeps crossing paths apart."""
    points = np.array([_fixed(point) for point in way], np.int32).reshape(-1, 1, 2)
    if len(points) > 1:
        cv2.polylines(sheet, [points], False, _PAPER, 5, cv2.LINE_AA, _FRACTION)
        cv2.polylines(sheet, [points], False, colour, 2, cv2.LINE_AA, _FRACTION)


def _ends(sheet: Picture, way: Sequence[tuple[float, float]], colour: _Colour) -> None:
    """Mark where a robot started, with a ring, and where it ended, with a square."""
    if way:
        _ring(sheet, way[0], colour)
        _square(sheet, way[-1], colour)


def _ring(sheet: Picture, at: tuple[float, float], colour: _Colour) -> None:
    unit = 1 << _FRACTION
    cv2.circle(sheet, _fixed(at), 8 * unit, _PAPER, -1, cv2.LINE_AA, _FRACTION)
    cv2.circle(sheet, _fixed(at), 7 * unit, colour, 3, cv2.LINE_AA, _FRACTION)


def _square(sheet: Picture, at: tuple[float, float], colour: _Colour) -> None:
    x, y = round(at[0]), round(at[1])
    cv2.rectangle(sheet, (x - 8, y - 8), (x + 8, y + 8), _PAPER, -1)
    cv2.rectangle(sheet, (x - 6, y - 6), (x + 6, y + 6), colour, -1)


def _cross(sheet: Picture, at: tuple[float, float]) -> None:
    x, y = round(at[0]), round(at[1])
    cv2.drawMarker(sheet, (x, y), _PAPER, cv2.MARKER_TILTED_CROSS, 14, 4, cv2.LINE_AA)
    cv2.drawMarker(sheet, (x, y), _FRONTIER, cv2.MARKER_TILTED_CROSS, 12, 2, cv2.LINE_AA)


def _write(sheet: Picture, text: str, x: int, y: int, size: float = 0.55) -> None:
    cv2.putText(sheet, text, (x, y), _FONT, size, _INK, 1, cv2.LINE_AA)


def _legend(
    height: int, robots: int, frontiers: int, pixels_a_metre: float, facts: Sequence[str]
) -> Picture:
    """Draw what the signs mean, how long a metre is, and the facts given."""
    lines = robots + 2 + (frontiers > 0) + len(facts) + 4
    sheet = np.full((max(height, lines * _LINE), 260, 3), 255, np.uint8)
    y = _LINE // 2
    for slot in range(robots):
        colour = _ROBOTS[slot % len(_ROBOTS)]
        cv2.line(sheet, (4, y), (44, y), colour, 2, cv2.LINE_AA)
        _write(sheet, f"robot {slot}", 56, y + 6)
        y += _LINE
    _ring(sheet, (24.0, float(y)), _INK)
    _write(sheet, "start", 56, y + 6)
    y += _LINE
    _square(sheet, (24.0, float(y)), _INK)
    _write(sheet, "end", 56, y + 6)
    y += _LINE
    if frontiers:
        _cross(sheet, (24.0, float(y)))
        _write(sheet, f"frontier left ({frontiers})", 56, y + 6)
        y += _LINE
    y += _LINE // 2
    metres = _round_length(200.0 / pixels_a_metre)
    right = 4 + round(metres * pixels_a_metre)
    cv2.line(sheet, (4, y), (right, y), _INK, 2)
    for x in (4, right):
        cv2.line(sheet, (x, y - 5), (x, y + 5), _INK, 2)
    _write(sheet, f"{metres:g} m", 4, y + _LINE - 6)
    y += 2 * _LINE
    for fact in facts:
        _write(sheet, fact, 4, y + 6)
        y += _LINE
    return sheet


def _round_length(longest: float) -> float:
    """Return the longest of 1, 2, 5, 10, ... metres (or their tenths) that fits."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= longest)


def _page(sheet: Picture, legend: Picture, title: str) -> Picture:
    """Lay map, legend and title on one page."""
    head = _PAD + (_LINE if title else 0)
    height = head + max(sheet.shape[0], legend.shape[0]) + _PAD
    width = sheet.shape[1] + legend.shape[1] + 3 * _PAD
    page = np.full((height, width, 3), 255, np.uint8)
    page[head : head + sheet.shape[0], _PAD : _PAD + sheet.shape[1]] = sheet
    left = 2 * _PAD + sheet.shape[1]
    page[head : head + legend.shape[0], left : left + legend.shape[1]] = legend
    if title:
        _write(page, title, _PAD, head - 14, 0.7)
    return page
