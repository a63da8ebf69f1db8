"""Goals of robots: a frontier, the viewpoint to see it from and the path there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from app.exploration.clearance import clear_length
from app.exploration.driver import Point, Pose
from app.exploration.grid import Cell, Cells, GridFrame, Mask
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.shortest_paths import DistanceField, path_to

Activity = Literal["exploring", "following", "idle"]
"""A robot drives to a stop, follows another to be near when it is needed, or has nothing to do."""

_MIN_REMAINING = 0.3  # a goal stays valid while this share of its frontier is still frontier


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """A stop that a robot is going to.

    Attributes:
        cells: (n, 2) int32, the frontier that is seen from there, rows and columns of the mission's
            frame.
        target: the stop, row and column of the mission's frame.
        path: waypoints not yet reached, metres, map frame.
        clearance: metres to the nearest obstacle that the path keeps.
        backtrack: number of waypoints that are on the robot's own track, where it fits.
        route: the stops that follow, rows and columns of the mission's frame.
    """

    cells: Cells
    target: Cell
    path: tuple[Point, ...]
    clearance: float
    backtrack: int = 0
    route: tuple[Cell, ...] = ()

    def stop_in(self, view: PlanningMap) -> Cell:
        """Return the stop as a cell of the planning map."""
        return self.target[0] - view.row0, self.target[1] - view.col0

    def with_news(self, frontier: Frontier, route: Cells, view: PlanningMap) -> "Goal":
        """Return the same stop with what is left of its frontier, and with the stops that follow now."""
        corner = np.array((view.row0, view.col0), np.int32)
        later = tuple((int(row), int(col)) for row, col in route + corner)
        return replace(self, cells=frontier.cells + corner, route=later)


@dataclass(frozen=True, slots=True)
class RobotState:
    """A robot that may be given a goal.

    Attributes:
        pose: where it stands.
        goal: its current goal.
        track: points that it drove through, metres, map frame.
        driven_m: metres that it has driven.
    """

    pose: Pose
    goal: Goal | None = None
    track: Sequence[Point] = ()
    driven_m: float = 0.0


def is_valid(goal: Goal, pose: Pose, view: PlanningMap, live: Mask, frame: GridFrame) -> bool:
    """Return whether enough of a goal's frontier remains and its path is still free.

    Args:
        goal: the goal.
        pose: its robot's pose.
        view: the planning map.
        live: (rows, cols) bool of the planning map, frontier cells that are not abandoned.
        frame: the mission's frame.
    """
    remaining = live[goal.cells[:, 0] - view.row0, goal.cells[:, 1] - view.col0]
    if remaining.mean() < _MIN_REMAINING:
        return False
    points = [(pose.x, pose.y), *goal.path][goal.backtrack :]
    passable = view.passable(goal.clearance, view.cell_at(frame, *points[0]))
    waypoints = [view.position(frame, x, y) for x, y in points]
    return all(math.isinf(clear_length(passable, start, end)) for start, end in pairwise(waypoints))


def goal_at(
    pose: Pose,
    stop: Cell,
    frontier: Frontier,
    *,
    passable: Mask,
    field: DistanceField,
    clearance: float,
    backtrack: Sequence[Point],
    route: Cells,
    view: PlanningMap,
    frame: GridFrame,
) -> Goal:
    """Make a goal of a robot's way to a stop.

    Args:
        pose: the robot's pose.
        stop: local cell of the stop.
        frontier: the frontier that is seen from there, cells of the planning map.
        passable: (rows, cols) bool, cells that the way may use.
        field: (rows, cols) int32 path costs from the start of the way.
        clearance: metres to the nearest obstacle that the way keeps.
        backtrack: points of the robot's own track that it drives back first; the way starts at the
            last of them, or at the robot.
        route: (n, 2) int32, local cells of the stops that follow.
        view: the planning map.
        frame: the mission's frame.
    """
    corner = np.array((view.row0, view.col0), np.int32)
    start = backtrack[-1] if backtrack else (pose.x, pose.y)
    waypoints = path_to(field, passable, view.position(frame, *start), stop)
    return Goal(
        cells=frontier.cells + corner,
        target=(stop[0] + view.row0, stop[1] + view.col0),
        path=(
            *backtrack,
            *(frame.centre(row + view.row0, col + view.col0) for row, col in waypoints),
        ),
        clearance=clearance,
        backtrack=len(backtrack),
        route=tuple((int(row), int(col)) for row, col in route + corner),
    )
