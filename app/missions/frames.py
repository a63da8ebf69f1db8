"""A mission as one sees it: the map and who is where, second by second, in small pieces.

A `Recorder` says what changed since its last frame; a `Player` puts the frames together again, at
any time later and from the pieces alone. A recorder that is new, as after the death of the one
before, begins with a whole frame: pieces of two recorders may follow each other.
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

_MOST_CELLS = 1 << 18  # of one piece: even noise stays below the limit of a message
_MOST_BYTES = 36_000  # of one piece's cells, compressed
_MOST_POINTS = 1500  # of one piece's paths
_SMALL = 24_000  # characters of cells that leave room for all else in one piece
_THINNED_M = 0.05  # how far a drawn path may lie beside the driven one


class BadFrame(ValueError):
    """A piece does not fit the mission that it is played for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A robot as the mission knows it.

    Attributes:
        name: Its id.
        pose: Where it stood last, metres and radians, map frame.
        driven_m: How far it has driven, metres.
        goal: Where it is sent, metres, map frame; None if nowhere.
        lost: Why it takes no more part, '' if it does.
        path: The points that it has driven through, metres, map frame; those since the frame
            before, where it was put together from pieces.
        apart: It is in a map of its own that the shown one has nothing of yet: its pose and goal
            lie there.
    """

    name: str
    pose: Pose
    driven_m: float
    goal: Point | None = None
    lost: str = ""
    path: Sequence[Point] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A mission at one moment.

    Attributes:
        simulated_s: Mission seconds.
        fraction: Share of the frame's cells that are known, 0 to 1.
        robots: By slot.
        frontiers: A point of each frontier that is left, metres, map frame.
        cells: (rows, cols) int8 occupancy: what the team knows.
    """

    simulated_s: float
    fraction: float
    robots: tuple[Seen, ...]
    frontiers: tuple[Point, ...]
    cells: Grid


class Recorder:
    """Makes pieces of frames, each as small as what changed.

    Args:
        frame: Where the mission's grid lies.
    """

    def __init__(self, frame: GridFrame) -> None:
        self._frame = frame
        self._cells = np.full((frame.rows, frame.cols), UNKNOWN, np.int8)
        self._drawn: dict[str, int] = {}
        self._apart: set[str] | None = None

    def pieces(self, frame: Frame) -> list[dict[str, Any]]:
        """What changed since the last frame, as JSON values; all but the last hold cells or paths.

        When other robots are in the shown map than before, all is told anew: it may be another map.

        Raises:
            BadFrame: The cells are not those of the mission's grid.
        """
        if frame.cells.shape != self._cells.shape:
            raise BadFrame(f"cells are {frame.cells.shape}, not {self._cells.shape}")
        apart = {robot.name for robot in frame.robots if robot.apart}
        is_new = apart != self._apart
        if is_new:
            self._apart = apart
            self._cells = np.full_like(frame.cells, UNKNOWN)
            self._drawn.clear()
        parts: list[dict[str, Any]] = [{"cells": cells} for cells in self._changes(frame.cells)]
        self._cells = frame.cells.copy()
        told = _told(frame) | {"paths": {}}
        if len(parts) == 1 and len(parts[0]["cells"]["data"]) <= _SMALL:
            told |= parts.pop()
        paths = {robot.name: path for robot in frame.robots if (path := self._new_path(robot))}
        if sum(map(len, paths.values())) <= _MOST_POINTS:
            told["paths"] = paths
        else:
            parts += [
                {"paths": {name: path[first : first + _MOST_POINTS]}}
                for name, path in paths.items()
                for first in range(0, len(path), _MOST_POINTS)
            ]
        parts.append(told)
        if is_new:
            parts[0]["grid"] = self._frame.to_dict()
        return parts

    def _new_path(self, robot: Seen) -> list[list[float]]:
        """Where a robot drove since the last frame, from where it was then."""
        drawn, self._drawn[robot.name] = self._drawn.get(robot.name, 0), len(robot.path)
        if robot.apart or len(robot.path) == drawn:
            return []
        points = np.array(robot.path[max(drawn - 1, 0) :], np.float32)
        thinned = cv2.approxPolyDP(points[:, None], _THINNED_M, closed=False)
        return [_rounded((float(x), float(y))) for x, y in thinned[:, 0]]

    def _changes(self, cells: Grid) -> Iterator[dict[str, Any]]:
        """The changed part of the grid, in bands that each fit into a message."""
        changed = cells != self._cells
        rows = np.flatnonzero(changed.any(axis=1))
        if not rows.size:
            return
        cols = np.flatnonzero(changed.any(axis=0))
        row0, row1, col0, col1 = (int(n) for n in (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1))
        yield from _bands(cells[row0:row1, col0:col1], row0, col0)


def _bands(cells: Grid, row0: int, col0: int) -> Iterator[dict[str, Any]]:
    rows, cols = cells.shape
    packed = zlib.compress(cells.tobytes(), 6) if cells.size <= _MOST_CELLS else b""
    if packed and len(packed) <= _MOST_BYTES:
        data = base64.b64encode(packed).decode()
        yield {"row0": row0, "col0": col0, "shape": [rows, cols], "data": data}
    elif rows > 1:
        yield from _bands(cells[: rows // 2], row0, col0)
        yield from _bands(cells[rows // 2 :], row0 + rows // 2, col0)
    else:
        yield from _bands(cells[:, : cols // 2], row0, col0)
        yield from _bands(cells[:, cols // 2 :], row0, col0 + cols // 2)


def _told(frame: Frame) -> dict[str, Any]:
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
            }
            for robot in frame.robots
        ],
        "frontiers": [_rounded(point) for point in frame.frontiers],
    }


def _rounded(point: Point) -> list[float]:
    return [round(point[0], 2), round(point[1], 2)]


class Player:
    """Puts a mission together from the pieces of its frames, in their order.

    Attributes:
        grid: Where the cells lie; None before the first piece.
    """

    def __init__(self) -> None:
        self.grid: GridFrame | None = None
        self._cells: Grid = np.zeros((0, 0), np.int8)
        self._paths: dict[str, list[Point]] = {}

    def take(self, piece: Mapping[str, Any]) -> Frame | None:
        """Lay a piece over what was there.

        Returns:
            The frame that the piece ends, its cells not to be changed; None inside one, and as
            long as the beginning has not been seen.

        Raises:
            BadFrame: The piece does not lie in the grid.
        """
        if "grid" in piece:
            self.grid = GridFrame.from_dict(piece["grid"])
            self._cells = np.full((self.grid.rows, self.grid.cols), UNKNOWN, np.int8)
        if self.grid is None:
            return None
        if cells := piece.get("cells"):
            self._lay(cells)
        for name, points in piece.get("paths", {}).items():
            self._paths.setdefault(name, []).extend((x, y) for x, y in points)
        if "simulated_s" not in piece:
            return None
        paths, self._paths = self._paths, {}
        return Frame(
            simulated_s=piece["simulated_s"],
            fraction=piece["fraction"],
            robots=tuple(_seen(robot, paths.get(robot["name"], [])) for robot in piece["robots"]),
            frontiers=tuple((x, y) for x, y in piece["frontiers"]),
            cells=self._cells,
        )

    def _lay(self, cells: Mapping[str, Any]) -> None:
        row0, col0, (rows, cols) = cells["row0"], cells["col0"], cells["shape"]
        data = zlib.decompress(base64.b64decode(cells["data"]))
        place = self._cells[row0 : row0 + rows, col0 : col0 + cols]
        if min(row0, col0) < 0 or place.shape != (rows, cols) or len(data) != rows * cols:
            raise BadFrame(f"{rows} x {cols} cells at ({row0}, {col0}) are not in the grid")
        # A frame that was given out keeps the cells that it had.
        self._cells = self._cells.copy()
        place = self._cells[row0 : row0 + rows, col0 : col0 + cols]
        place[:] = np.frombuffer(data, np.int8).reshape(rows, cols)


def _seen(robot: Mapping[str, Any], path: Sequence[Point]) -> Seen:
    goal: Sequence[float] | None = robot["goal"]
    return Seen(
        name=robot["name"],
        pose=Pose(*robot["pose"]),
        driven_m=robot["driven_m"],
        goal=(goal[0], goal[1]) if goal else None,
        lost=robot["lost"],
        path=tuple(path),
        # What was recorded before there was this has none.
        apart=robot.get("apart", False),
    )
