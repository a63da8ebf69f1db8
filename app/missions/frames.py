"""Frames of a mission: the map and the robots at one moment, delta-encoded into small pieces.

A `FrameEncoder` encodes what changed since its last frame. A `FrameDecoder` restores the frames
from nothing but the pieces, at any later time. A new encoder, as after the death of a handler,
starts with a key frame, so the pieces of two encoders may follow each other in one recording.
"""

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from app.exploration.driver import Point, Pose
from app.exploration.grid import UNKNOWN, Grid, GridFrame
from app.exploration.planning.remaining import Remaining

# Limits of one piece, which must fit into one message.
_MAX_CELLS = 1 << 18  # a larger box is halved before it is compressed
_MAX_BYTES = 36_000  # of compressed cells
_MAX_POINTS = 1200  # of paths
_MAX_PLAN_POINTS = 12  # of one robot
_MAX_INLINE = 16_000  # characters of encoded cells that leave room for the rest of the frame
_PATH_TOLERANCE_M = 0.05  # largest distance of the simplified path from the driven one


class BadFrame(ValueError):
    """A piece does not fit the grid of the recording."""


@dataclass(frozen=True, slots=True)
class RobotView:
    """A robot's state in a frame.

    Attributes:
        name: The robot's id.
        pose: Its last known pose, metres and radians, map frame.
        driven_m: The distance that it has driven, metres.
        goal: Its current goal, metres, map frame; None if it has none.
        lost: Why it left the mission; '' while it takes part.
        path: The points that it has driven through, metres, map frame. In a decoded frame, only
            those since the previous frame.
        plan: The way that it is to drive to its goal, metres, map frame; () if it is not known.
        apart: True while its map is not merged into the shown one. Its pose and goal are then in
            the frame of its map.
        activity: `exploring`; `following` another robot, to be near when it is needed; `idle`:
            nothing is left for it; '' if it is not known.
        unheard_s: How old its part of the map is, simulated seconds; 0 while its radio reaches.
    """

    name: str
    pose: Pose
    driven_m: float
    goal: Point | None = None
    lost: str = ""
    path: Sequence[Point] = ()
    apart: bool = False
    plan: Sequence[Point] = ()
    activity: str = ""
    unheard_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A mission at one moment.

    Attributes:
        simulated_s: Seconds of simulated time since the start.
        fraction: Share of the grid's cells that are known, 0 to 1.
        robots: The robots by slot.
        frontiers: A point of each remaining frontier, metres, map frame.
        cells: (rows, cols) int8 occupancy, as the team knows it.
        remaining: What is estimated to be left; None if it is not known.
    """

    simulated_s: float
    fraction: float
    robots: tuple[RobotView, ...]
    frontiers: tuple[Point, ...]
    cells: Grid
    remaining: Remaining | None = None


class FrameEncoder:
    """Encodes frames as pieces that hold only what changed.

    Args:
        frame: The pose and resolution of the mission's grid.
    """

    def __init__(self, frame: GridFrame) -> None:
        self._frame = frame
        self._cells = np.full((frame.rows, frame.cols), UNKNOWN, np.int8)
        self._encoded_points: dict[str, int] = {}
        self._apart: set[str] | None = None

    def encode(self, frame: Frame) -> list[dict[str, Any]]:
        """Encode what changed since the last frame, as JSON values.

        All pieces but the last hold only cells or paths. When the set of robots in the shown map
        changes, this encodes a key frame, because the shown map may be another one.

        Raises:
            BadFrame: The cells do not have the shape of the mission's grid.
        """
        if frame.cells.shape != self._cells.shape:
            raise BadFrame(f"cells are {frame.cells.shape}, not {self._cells.shape}")
        apart = {robot.name for robot in frame.robots if robot.apart}
        is_key_frame = apart != self._apart
        if is_key_frame:
            self._apart = apart
            self._cells = np.full_like(frame.cells, UNKNOWN)
            self._encoded_points.clear()
        pieces: list[dict[str, Any]] = [{"cells": cells} for cells in self._changes(frame.cells)]
        self._cells = frame.cells.copy()
        last = _metadata(frame) | {"paths": {}}
        if len(pieces) == 1 and len(pieces[0]["cells"]["data"]) <= _MAX_INLINE:
            last |= pieces.pop()
        paths = {robot.name: path for robot in frame.robots if (path := self._new_path(robot))}
        if sum(map(len, paths.values())) <= _MAX_POINTS:
            last["paths"] = paths
        else:
            pieces += [
                {"paths": {name: path[first : first + _MAX_POINTS]}}
                for name, path in paths.items()
                for first in range(0, len(path), _MAX_POINTS)
            ]
        pieces.append(last)
        if is_key_frame:
            pieces[0]["grid"] = self._frame.to_dict()
        return pieces

    def _new_path(self, robot: RobotView) -> list[list[float]]:
        """Return the simplified path since the last frame, starting where the last one ended."""
        encoded, self._encoded_points[robot.name] = (
            self._encoded_points.get(robot.name, 0),
            len(robot.path),
        )
        if robot.apart or len(robot.path) == encoded:
            return []
        return _simplified(robot.path[max(encoded - 1, 0) :])

    def _changes(self, cells: Grid) -> Iterator[dict[str, Any]]:
        """Yield the bounding box of all changed cells, in bands that each fit into a message."""
        changed = cells != self._cells
        rows = np.flatnonzero(changed.any(axis=1))
        if not rows.size:
            return
        cols = np.flatnonzero(changed.any(axis=0))
        row0, row1, col0, col1 = (int(n) for n in (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1))
        yield from _bands(cells[row0:row1, col0:col1], row0, col0)


def _simplified(path: Sequence[Point]) -> list[list[float]]:
    points = np.array(path, np.float32)
    corners = cv2.approxPolyDP(points[:, None], _PATH_TOLERANCE_M, closed=False)
    return [_rounded((float(x), float(y))) for x, y in corners[:, 0]]


def _plan(robot: RobotView) -> list[list[float]]:
    """The corners of a plan; of a long one the first, which are driven first."""
    return _simplified(robot.plan)[:_MAX_PLAN_POINTS] if len(robot.plan) > 1 else []


def _bands(cells: Grid, row0: int, col0: int) -> Iterator[dict[str, Any]]:
    rows, cols = cells.shape
    packed = zlib.compress(cells.tobytes(), 6) if cells.size <= _MAX_CELLS else b""
    if packed and len(packed) <= _MAX_BYTES:
        data = base64.b64encode(packed).decode()
        yield {"row0": row0, "col0": col0, "shape": [rows, cols], "data": data}
    elif rows > 1:
        yield from _bands(cells[: rows // 2], row0, col0)
        yield from _bands(cells[rows // 2 :], row0 + rows // 2, col0)
    else:
        yield from _bands(cells[:, : cols // 2], row0, col0)
        yield from _bands(cells[:, cols // 2 :], row0, col0 + cols // 2)


def _metadata(frame: Frame) -> dict[str, Any]:
    return {
        "simulated_s": frame.simulated_s,
        "fraction": round(frame.fraction, 4),
        "robots": [
            {
                "name": robot.name,
                "pose": [
                    round(robot.pose.x, 3),
                    round(robot.pose.y, 3),
                    round(robot.pose.heading, 4),
                ],
                "driven_m": round(robot.driven_m, 2),
                "goal": robot.goal and _rounded(robot.goal),
                "lost": robot.lost,
                "apart": robot.apart,
                "plan": _plan(robot),
                "activity": robot.activity,
                "unheard_s": round(robot.unheard_s, 1),
            }
            for robot in frame.robots
        ],
        "frontiers": [_rounded(point) for point in frame.frontiers],
        "remaining": frame.remaining.to_dict() if frame.remaining else None,
    }


def _rounded(point: Point) -> list[float]:
    return [round(point[0], 2), round(point[1], 2)]


class FrameDecoder:
    """Restores a mission's frames from their pieces, taken in order.

    Attributes:
        grid: The pose and resolution of the grid; None before the first key frame.
    """

    def __init__(self) -> None:
        self.grid: GridFrame | None = None
        self._cells: Grid = np.zeros((0, 0), np.int8)
        self._paths: dict[str, list[Point]] = {}

    def decode(self, piece: Mapping[str, Any]) -> Frame | None:
        """Apply a piece.

        Returns:
            The frame that the piece completes; do not change its cells. None inside a frame and
            before the first key frame.

        Raises:
            BadFrame: The piece is malformed or exceeds the grid; nothing was applied.
        """
        try:
            return self._decode(piece)
        except BadFrame:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise BadFrame(f"a piece is malformed: {type(error).__name__}: {error}") from error

    def _decode(self, piece: Mapping[str, Any]) -> Frame | None:
        if "grid" in piece:
            self.grid = GridFrame.from_dict(piece["grid"])
            self._cells = np.full((self.grid.rows, self.grid.cols), UNKNOWN, np.int8)
        if self.grid is None:
            return None
        if cells := piece.get("cells"):
            self._apply_cells(cells)
        for name, points in piece.get("paths", {}).items():
            self._paths.setdefault(name, []).extend((x, y) for x, y in points)
        if "simulated_s" not in piece:
            return None
        paths, self._paths = self._paths, {}
        return Frame(
            simulated_s=piece["simulated_s"],
            fraction=piece["fraction"],
            robots=tuple(
                _robot_view(robot, paths.get(robot["name"], [])) for robot in piece["robots"]
            ),
            frontiers=tuple((x, y) for x, y in piece["frontiers"]),
            cells=self._cells,
            # Older recordings have no such field.
            remaining=Remaining(**piece["remaining"]) if piece.get("remaining") else None,
        )

    def _apply_cells(self, cells: Mapping[str, Any]) -> None:
        row0, col0, (rows, cols) = cells["row0"], cells["col0"], cells["shape"]
        window = self._cells[row0 : row0 + rows, col0 : col0 + cols]
        if min(row0, col0) < 0 or window.shape != (rows, cols):
            raise BadFrame(f"{rows} x {cols} cells at ({row0}, {col0}) exceed the grid")
        try:
            unpacker = zlib.decompressobj()
            # One byte more than there are cells shows that there are too many.
            data = unpacker.decompress(base64.b64decode(cells["data"]), rows * cols + 1)
        except zlib.error as error:
            raise BadFrame(f"cells cannot be read: {error}") from error
        if len(data) != rows * cols:
            raise BadFrame(f"{rows} x {cols} cells at ({row0}, {col0}) are {len(data)} or more")
        # Frames that were returned before keep their cells.
        self._cells = self._cells.copy()
        window = self._cells[row0 : row0 + rows, col0 : col0 + cols]
        window[:] = np.frombuffer(data, np.int8).reshape(rows, cols)


def _robot_view(robot: Mapping[str, Any], path: Sequence[Point]) -> RobotView:
    goal: Sequence[float] | None = robot["goal"]
    return RobotView(
        name=robot["name"],
        pose=Pose(*robot["pose"]),
        driven_m=robot["driven_m"],
        goal=(goal[0], goal[1]) if goal else None,
        lost=robot["lost"],
        path=tuple(path),
        # Older recordings have no such fields.
        apart=robot.get("apart", False),
        plan=tuple((x, y) for x, y in robot.get("plan", ())),
        activity=robot.get("activity", ""),
        unheard_s=robot.get("unheard_s", 0.0),
    )
