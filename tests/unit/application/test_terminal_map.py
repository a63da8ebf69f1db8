"""Maps drawn in characters."""

import math

import numpy as np
import pytest
from rich.console import Console

from app.cli.terminal_map import draw_coloured_map, draw_map, draw_on, scale_bar
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


def test_a_coloured_map_has_two_rows_in_a_character() -> None:
    """Each half has the colour of its cells; a robot stands on its half."""
    cells = np.full((4, 3), UNKNOWN, np.int8)
    cells[0, 0], cells[1, 0], cells[2, 1] = FREE, OCCUPIED, FREE
    grid = GridFrame(4, 3, 1.0)
    robot = RobotView("r1", Pose(2.5, 0.5), 0.0)
    text = draw_coloured_map(Frame(1.0, 0.3, (robot,), (), cells), grid, width=3, height=2)
    assert text.plain.splitlines() == ["▀▀▀", "▀▀→"]
    styles = [str(span.style) for span in text.spans]
    assert styles[3] == "grey0 on grey89"  # occupied above free
    assert styles[1] == "grey39 on grey89"  # unknown above free
    assert styles[5] == "bold blue on grey39"


@pytest.mark.parametrize(
    ("resolution", "width", "height"), [(1.0, 10, 8), (0.05, 79, 20), (0.3, 200, 3)]
)
def test_the_scale_bar_is_as_long_as_it_says(resolution: float, width: int, height: int) -> None:
    """Within a column."""
    grid = GridFrame(400, 600, resolution)
    bar, _, metres = scale_bar(grid, width=width, height=height).partition(" ")
    columns = max(600 / width, 400 / (2 * height)) * resolution
    assert abs(len(bar) * columns - float(metres.removesuffix(" m"))) <= columns


def test_a_console_without_colours_gets_a_map_that_needs_none() -> None:
    """And a scale below it, in each case."""
    cells = np.full((8, 10), FREE, np.int8)
    frame = Frame(1.0, 0.3, (), (), cells)
    for colours, symbol in ((None, "·"), ("truecolor", "▀")):
        console = Console(color_system=colours, width=40, height=30)  # type: ignore[arg-type]
        lines = draw_on(console, frame, _GRID, height=5).plain.splitlines()
        assert symbol in lines[0]
        assert lines[-1].endswith(" m")
