"""Draws a mission's map in characters, which are readable without colour."""

import math
from itertools import cycle

import numpy as np
from rich.text import Text

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, GridFrame
from app.missions.frames import Frame

_CELLS = {UNKNOWN: " ", FREE: "·", OCCUPIED: "█"}
_ARROWS = "→↗↑↖←↙↓↘"
_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan")
_ASPECT = 2  # a character is twice as tall as it is wide


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
    scale = max(grid.cols / width, grid.rows / (height * _ASPECT))
    shape = (math.ceil(grid.rows / (scale * _ASPECT)), math.ceil(grid.cols / scale))
    symbols = np.full(shape, _CELLS[UNKNOWN])
    for value in (FREE, OCCUPIED):
        symbols[_any(frame.cells == value, shape, scale)] = _CELLS[value]
    colours: dict[tuple[int, int], str] = {}

    def put(x: float, y: float, symbol: str, colour: str) -> None:
        row, col = grid.in_cells(x, y)
        position = int(row / (scale * _ASPECT)), int(col / scale)
        if 0 <= position[0] < shape[0] and 0 <= position[1] < shape[1]:
            symbols[position], colours[position] = symbol, colour

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
    text = Text(no_wrap=True, overflow="crop")
    for row in range(shape[0] - 1, -1, -1):  # the row with the lowest y is the last line
        for col in range(shape[1]):
            text.append(str(symbols[row, col]), colours.get((row, col)))
        text.append("\n")
    return text


def _any(cells: np.ndarray, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Return for each block whether any of its cells is set, (lines, columns) bool."""
    rows, cols = np.nonzero(cells)
    found = np.zeros(shape, np.bool_)
    found[(rows / (scale * _ASPECT)).astype(np.intp), (cols / scale).astype(np.intp)] = True
    return found
