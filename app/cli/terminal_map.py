"""Draws a mission's map in characters: readable without colour, or with two cells in a character."""

import math
from itertools import cycle

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, GridFrame
from app.missions.frames import Frame

_CELLS = {UNKNOWN: " ", FREE: "·", OCCUPIED: "█"}
_ARROWS = "→↗↑↖←↙↓↘"
_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan")
_ASPECT = 2  # a character is twice as tall as it is wide
# Of the upper or lower half of a character.
_HALVES = {UNKNOWN: "grey39", FREE: "grey89", OCCUPIED: "grey0"}
# Of marks that have no colour of a robot.
_PLAIN = {"dim": "grey0"}
_MAX_BAR = 20
_STEPS = (5, 2, 1)

Shape = tuple[int, int]


def draw_on(console: Console, frame: Frame, grid: GridFrame, *, height: int) -> Text:
    """Draw the map as a console can show it, with a scale below.

    Args:
        console: The console; one without colours gets a map that needs none.
        frame: The frame to draw.
        grid: The pose and resolution of its grid.
        height: The maximum number of lines, without the scale.
    """
    draw = draw_coloured_map if console.color_system else draw_map
    size = {"width": console.size.width - 1, "height": height}
    return draw(frame, grid, **size).append(scale_bar(grid, **size), "dim")


def draw_map(frame: Frame, grid: GridFrame, *, width: int, height: int) -> Text:
    """Draw the known map: walls, free space, frontiers (`?`), robots and their goals (`o`).

    A character represents a block of cells: a wall if any cell is occupied, else free space if
    any cell is free. A robot is an arrow in the direction of its heading; a lost one is `!`.

    Args:
        frame: The frame to draw.
        grid: The pose and resolution of its grid.
        width: The maximum number of columns.
        height: The maximum number of lines.
    """
    scale = _cells_per_column(grid, width, height)
    shape = (math.ceil(grid.rows / (scale * _ASPECT)), math.ceil(grid.cols / scale))
    values = _blocks(frame, shape, scale, _ASPECT)
    marks = _marks(frame, grid, shape, scale)
    text = Text(no_wrap=True, overflow="crop")
    for row in range(shape[0] - 1, -1, -1):  # the row with the lowest y is the last line
        for col in range(shape[1]):
            text.append(*marks.get((row, col), (_CELLS[int(values[row, col])], None)))
        text.append("\n")
    return text


def draw_coloured_map(frame: Frame, grid: GridFrame, *, width: int, height: int) -> Text:
    """Draw the same with two blocks of cells in each character, as colours of its halves.

    Args:
        frame: The frame to draw.
        grid: The pose and resolution of its grid.
        width: The maximum number of columns.
        height: The maximum number of lines.
    """
    scale = _cells_per_column(grid, width, height)
    lines = math.ceil(grid.rows / (scale * _ASPECT))
    shape = (lines, math.ceil(grid.cols / scale))
    values = _blocks(frame, (lines * _ASPECT, shape[1]), scale, 1)
    marks = _marks(frame, grid, shape, scale)
    text = Text(no_wrap=True, overflow="crop")
    for row in range(lines - 1, -1, -1):
        for col in range(shape[1]):
            lower, upper = (_HALVES[int(values[_ASPECT * row + half, col])] for half in (0, 1))
            if mark := marks.get((row, col)):
                text.append(mark[0], f"{_PLAIN.get(mark[1], mark[1])} on {lower}")
            else:
                text.append("▀", f"{upper} on {lower}")
        text.append("\n")
    return text


def scale_bar(grid: GridFrame, *, width: int, height: int) -> str:
    """A bar that is as long as it says, on a map that is drawn with the same arguments."""
    per_column = _cells_per_column(grid, width, height) * grid.resolution
    power = 10.0 ** math.floor(math.log10(_MAX_BAR * per_column))
    metres = next(step * power for step in _STEPS if step * power <= _MAX_BAR * per_column)
    return f"├{'─' * max(0, round(metres / per_column) - 2)}┤ {metres:g} m"


def _cells_per_column(grid: GridFrame, width: int, height: int) -> float:
    return max(grid.cols / width, grid.rows / (height * _ASPECT))


def _blocks(frame: Frame, shape: Shape, scale: float, aspect: int) -> npt.NDArray[np.int8]:
    """The state of each block of cells, (lines, columns): walls hide free space."""
    values = np.full(shape, UNKNOWN, np.int8)
    for value in (FREE, OCCUPIED):
        rows, cols = np.nonzero(frame.cells == value)
        values[(rows / (scale * aspect)).astype(np.intp), (cols / scale).astype(np.intp)] = value
    return values


def _marks(
    frame: Frame, grid: GridFrame, shape: Shape, scale: float
) -> dict[tuple[int, int], tuple[str, str]]:
    """What stands on the map, by line and column: a symbol and its style."""
    marks: dict[tuple[int, int], tuple[str, str]] = {}

    def put(x: float, y: float, symbol: str, colour: str) -> None:
        row, col = grid.in_cells(x, y)
        position = int(row / (scale * _ASPECT)), int(col / scale)
        if 0 <= position[0] < shape[0] and 0 <= position[1] < shape[1]:
            marks[position] = symbol, colour

    for x, y in frame.frontiers:
        put(x, y, "?", "dim")
    for robot, colour in zip(frame.robots, cycle(_COLOURS), strict=False):
        if robot.goal and not (robot.lost or robot.apart):
            put(*robot.goal, "o", colour)
    for robot, colour in zip(frame.robots, cycle(_COLOURS), strict=False):
        if robot.apart:
            continue
        eighth = round(robot.pose.heading / (math.pi / 4)) % 8
        symbol = "!" if robot.lost else _ARROWS[eighth]
        put(robot.pose.x, robot.pose.y, symbol, f"bold {colour}")
    return marks
