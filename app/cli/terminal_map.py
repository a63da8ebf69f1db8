"""A mission's map in characters, which says the same without colour."""

import math
from itertools import cycle

import numpy as np
from rich.text import Text

from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, GridFrame
from app.missions.frames import Frame

_CELLS = {UNKNOWN: " ", FREE: "·", OCCUPIED: "█"}
_ARROWS = "→↗↑↖←↙↓↘"
_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan")
_TALL = 2  # a character is twice as tall as it is wide


def draw_map(frame: Frame, grid: GridFrame, *, width: int, height: int) -> Text:
    """Draw what a team knows: walls, free ground, frontiers (`?`), robots and their goals (`o`).

    A character stands for a block of cells: a wall if one of them is a wall, else free ground if
    one of them is free. A robot is an arrow in the direction of its heading; a lost one is `!`.

    Args:
        frame: The mission at one moment.
        grid: Where its cells lie.
        width: The most columns to use.
        height: The most lines to use.
    """
    side = max(grid.cols / width, grid.rows / (height * _TALL))
    shape = (math.ceil(grid.rows / (side * _TALL)), math.ceil(grid.cols / side))
    signs = np.full(shape, _CELLS[UNKNOWN])
    for value in (FREE, OCCUPIED):
        signs[_any(frame.cells == value, shape, side)] = _CELLS[value]
    colours: dict[tuple[int, int], str] = {}

    def put(x: float, y: float, sign: str, colour: str) -> None:
        row, col = grid.in_cells(x, y)
        place = int(row / (side * _TALL)), int(col / side)
        if 0 <= place[0] < shape[0] and 0 <= place[1] < shape[1]:
            signs[place], colours[place] = sign, colour

    for x, y in frame.frontiers:
        put(x, y, "?", "dim")
    for robot, colour in zip(frame.robots, cycle(_COLOURS), strict=False):
        if robot.goal and not (robot.lost or robot.apart):
            put(*robot.goal, "o", colour)
    for robot, colour in zip(frame.robots, cycle(_COLOURS), strict=False):
        if robot.apart:
            continue
        eighth = round(robot.pose.heading / (math.pi / 4)) % 8
        sign = "!" if robot.lost else _ARROWS[eighth]
        put(robot.pose.x, robot.pose.y, sign, f"bold {colour}")
    text = Text(no_wrap=True, overflow="crop")
    for row in range(shape[0] - 1, -1, -1):  # the row of lowest y is the last line
        for col in range(shape[1]):
            text.append(str(signs[row, col]), colours.get((row, col)))
        text.append("\n")
    return text


def _any(cells: np.ndarray, shape: tuple[int, int], side: float) -> np.ndarray:
    """Whether a block has such a cell, (lines, columns) bool."""
    rows, cols = np.nonzero(cells)
    found = np.zeros(shape, np.bool_)
    found[(rows / (side * _TALL)).astype(np.intp), (cols / side).astype(np.intp)] = True
    return found
