"""Frames of missions: encoding into pieces and decoding."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame
from app.missions.frames import BadFrame, Frame, FrameDecoder, FrameEncoder, RobotView

_GRID = GridFrame(12, 17, 0.05)
_VALUES = st.sampled_from([UNKNOWN, FREE, OCCUPIED])
_CELLS = arrays.arrays(np.int8, (12, 17), elements=_VALUES)


def _frame(cells: Grid, second: float = 1.0) -> Frame:
    robots = (
        RobotView("r1", Pose(1.25, 2.5, 0.5), 3.5, goal=(4.0, 5.0)),
        RobotView("r2", Pose(0.0, 0.0, -1.0), 0.0, lost="it was not heard of"),
    )
    return Frame(second, 0.25, robots, ((1.5, 2.5),), cells)


def _play(pieces: list[dict[str, Any]]) -> list[Frame]:
    decoder = FrameDecoder()
    found = [decoder.decode(json.loads(json.dumps(piece))) for piece in pieces]
    return [frame for frame in found if frame]


@given(st.lists(_CELLS, min_size=1, max_size=5))
def test_encoded_frames_are_decoded(shown: list[Grid]) -> None:
    """Every frame is restored completely, whatever changed between frames."""
    encoder = FrameEncoder(_GRID)
    pieces = [
        piece
        for second, cells in enumerate(shown)
        for piece in encoder.encode(_frame(cells, float(second)))
    ]
    played = _play(pieces)
    assert [frame.simulated_s for frame in played] == [float(n) for n in range(len(shown))]
    for frame, cells in zip(played, shown, strict=True):
        assert np.array_equal(frame.cells, cells)
        assert (frame.robots, frame.frontiers) == (_frame(cells).robots, _frame(cells).frontiers)


def test_only_changes_are_encoded() -> None:
    """One changed cell gives a piece of one cell; no change gives a piece without cells."""
    encoder = FrameEncoder(_GRID)
    cells = np.full((12, 17), UNKNOWN, np.int8)
    encoder.encode(_frame(cells))
    cells[3, 4] = FREE
    (piece,) = encoder.encode(_frame(cells))
    assert piece["cells"]["shape"] == [1, 1]
    (piece,) = encoder.encode(_frame(cells))
    assert "cells" not in piece


def test_a_large_noisy_map_fits_into_messages() -> None:
    """A large frame is split into several messages and restored as one frame."""
    random = np.random.default_rng(1)
    grid = GridFrame(900, 1100, 0.05)
    cells = random.choice(np.array([UNKNOWN, FREE, OCCUPIED], np.int8), (900, 1100))
    pieces = FrameEncoder(grid).encode(_frame(cells))
    assert len(pieces) > 1
    assert max(len(json.dumps(piece)) for piece in pieces) < 60_000
    (frame,) = _play(pieces)
    assert np.array_equal(frame.cells, cells)


def test_a_new_encoder_starts_with_a_key_frame() -> None:
    """A new encoder starts with a key frame, which clears what the previous one drew."""
    first = np.full((12, 17), FREE, np.int8)
    second = np.full((12, 17), UNKNOWN, np.int8)
    second[0, 0] = OCCUPIED
    played = _play(
        [*FrameEncoder(_GRID).encode(_frame(first)), *FrameEncoder(_GRID).encode(_frame(second))]
    )
    assert np.array_equal(played[0].cells, first)
    assert np.array_equal(played[1].cells, second)


def test_pieces_before_a_key_frame_give_no_frame() -> None:
    """A recording whose first entries were trimmed gives no wrong frames."""
    encoder = FrameEncoder(_GRID)
    cells = np.full((12, 17), FREE, np.int8)
    encoder.encode(_frame(cells))
    assert _play(encoder.encode(_frame(cells))) == []


def test_cells_outside_the_grid_are_refused() -> None:
    """A piece of another mission is an error, not a damaged map."""
    cells = np.full((12, 17), FREE, np.int8)
    (piece,) = FrameEncoder(_GRID).encode(_frame(cells))
    piece["cells"]["row0"] = 1
    with pytest.raises(BadFrame, match="12 x 17 cells at"):
        FrameDecoder().decode(piece)
    with pytest.raises(BadFrame, match="cells are"):
        FrameEncoder(_GRID).encode(_frame(np.zeros((3, 3), np.int8)))


def test_each_path_segment_is_encoded_once() -> None:
    """Each frame has exactly the path since the previous frame, starting at its end."""
    cells = np.full((12, 17), FREE, np.int8)
    encoder, way = FrameEncoder(_GRID), [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (2.0, 3.0)]
    pieces = []
    for points in (2, 4, 4):
        robot = RobotView("r1", Pose(0, 0, 0), 0.0, path=way[:points])
        pieces += encoder.encode(Frame(1.0, 0.5, (robot,), (), cells))
    told = [list(frame.robots[0].path) for frame in _play(pieces)]
    assert told == [[(0.0, 0.0), (1.0, 0.0)], [(1.0, 0.0), (2.0, 0.0), (2.0, 3.0)], []]


def test_long_paths_over_a_noisy_map_fit_into_messages() -> None:
    """The complete paths of twenty robots, as after a takeover, are split into several pieces."""
    random = np.random.default_rng(1)
    grid = GridFrame(900, 1100, 0.05)
    cells = random.choice(np.array([UNKNOWN, FREE, OCCUPIED], np.int8), (900, 1100))
    ways = [
        [(round(x, 2), round(y, 2)) for x, y in random.uniform(0, 40, (4000, 2))] for _ in range(20)
    ]
    robots = tuple(
        RobotView(f"robot-{n}", Pose(0, 0, 0), 0.0, path=way) for n, way in enumerate(ways)
    )
    pieces = FrameEncoder(grid).encode(Frame(1.0, 0.5, robots, (), cells))
    assert max(len(json.dumps(piece)) for piece in pieces) < 60_000
    (frame,) = _play(pieces)
    assert np.array_equal(frame.cells, cells)
    for robot, way in zip(frame.robots, ways, strict=True):
        assert (robot.path[0], robot.path[-1]) == (way[0], way[-1])
        assert len(robot.path) > 3900  # some points lie on the line between their neighbours


def test_planned_paths_fit_into_messages() -> None:
    """Their corners, and of a long plan the first."""
    encoder = FrameEncoder(_GRID)
    cells = np.full((12, 17), UNKNOWN, np.int8)
    corner = [(0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.2, 0.3)]
    zigzag = [(100.25 * n, 100.25 * (n % 2)) for n in range(1000)]
    robots = tuple(
        RobotView(f"robot-{n:02}", Pose(0, 0, 0), 1.0, plan=corner if n == 0 else zigzag)
        for n in range(64)
    )
    pieces = encoder.encode(Frame(1.0, 0.5, robots, ((1.5, 2.5),) * 300, cells))
    assert max(len(json.dumps(piece)) for piece in pieces) < 64 * 1024
    (frame,) = _play(pieces)
    assert frame.robots[0].plan == ((0.0, 0.0), (0.2, 0.0), (0.2, 0.3))
    assert frame.robots[1].plan == tuple(zigzag[:12])


def test_a_change_of_the_shown_robots_gives_a_key_frame() -> None:
    """A key frame follows, because the shown map may be another one."""
    encoder, decoder = FrameEncoder(_GRID), FrameDecoder()
    first = np.full((12, 17), FREE, np.int8)
    second = np.full((12, 17), UNKNOWN, np.int8)
    way = [(0.0, 0.0), (1.0, 0.0)]
    for cells, apart in ((first, True), (second, False)):
        robot = RobotView("r1", Pose(0, 0, 0), 0.0, path=way, apart=apart)
        (piece,) = encoder.encode(Frame(1.0, 0.5, (robot,), (), cells))
        assert "grid" in piece
        frame = decoder.decode(piece)
        assert frame is not None
        assert np.array_equal(frame.cells, cells)
        assert frame.robots[0].apart is apart
        assert list(frame.robots[0].path) == ([] if apart else way)
