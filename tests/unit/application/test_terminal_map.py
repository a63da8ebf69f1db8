"""Maps drawn in characters."""

import math

import numpy as np

from app.cli.terminal_map import draw_map
from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, GridFrame
from app.missions.frames import Frame, RobotView

_GRID = GridFrame(8, 10, 1.0)


def _drawn(*robots: RobotView, width: int = 10, height: int = 8) -> list[str]:
    cells = np.full((8, 10), UNKNOWN, np.int8)
    cells[0:4, 0:6] = FREE
    cells[0:2, 5] = OCCUPIED
    frame = Frame(1.0, 0.3, robots, ((8.5, 7.5),), cells)
    return draw_map(frame, _GRID, width=width, height=height).plain.splitlines()


def test_a_map_is_drawn_north_up() -> None:
    """The row with the lowest y is the last line, and a line is two rows high."""
    assert _drawn() == ["        ? ", "          ", "······    ", "·····█    "]


def test_robots_their_goals_and_losses_are_marked() -> None:
    """Arrows show headings, `o` goals, `!` lost robots."""
    lines = _drawn(
        RobotView("r1", Pose(0.5, 0.5, math.pi / 2), 0.0, goal=(3.5, 3.5)),
        RobotView("r2", Pose(2.5, 0.5, -math.pi), 0.0),
        RobotView("r3", Pose(4.5, 0.5), 0.0, goal=(1.5, 3.5), lost="gone"),
    )
    assert lines[3] == "↑·←·!█    "
    assert lines[2] == "···o··    "


def test_a_large_map_is_scaled_down() -> None:
    """Scaling never hides a wall."""
    lines = _drawn(width=5, height=8)
    assert [len(line) for line in lines] == [5, 5]
    assert lines[1] == "··█  "
