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
from app.exploration.planning.frontier_routes import FrontierRoutes, path_length
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.shortest_paths import path_to

Activity = Literal["exploring", "standby", "idle"]
"""A robot drives to a viewpoint; waits for what opens up there; or has nothing to do."""

_MIN_REMAINING = 0.3  # a goal stays valid while this share of its frontier is still frontier


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """Where a robot is going.

    Attributes:
        cells: (n, 2) int32, the frontier, rows and columns of the mission's frame.
        target: the viewpoint, row and column of the mission's frame.
        path: waypoints not yet reached, metres, map frame.
        clearance: metres to the nearest obstacle that the path keeps.
        view_distance: metres from which the frontier is viewed.
        standby: another robot views the frontier; this one waits nearby for new frontiers there.
        backtrack: number of waypoints that are on the robot's own track, where it fits.
        route: the stops that follow, rows and columns of the mission's frame.
        routed: it is a stop of a planned route, from which its frontier is seen for certain.
    """

    cells: Cells
    target: Cell
    path: tuple[Point, ...]
    clearance: float
    view_distance: float
    standby: bool = False
    backtrack: int = 0
    route: tuple[Cell, ...] = ()
    routed: bool = False


@dataclass(frozen=True, slots=True)
class RobotState:
    """A robot that may be given a goal.

    Attributes:
        pose: where it stands.
        goal: its current goal.
        bearing: preferred direction of its first goal, radians; None once it had a goal.
        track: points that it drove through, metres, map frame.
    """

    pose: Pose
    goal: Goal | None = None
    bearing: float | None = None
    track: Sequence[Point] = ()


def activity_of(goal: Goal | None) -> Activity:
    """Return what a robot with a goal does."""
    if goal is None:
        return "idle"
    return "standby" if goal.standby else "exploring"


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
    routes: FrontierRoutes,
    frontier: Frontier,
    *,
    which: int,
    view: PlanningMap,
    frame: GridFrame,
) -> Goal:
    """Make a goal of a robot's route to a frontier.

    Args:
        pose: the robot's pose.
        routes: its routes to all frontiers.
        frontier: the frontier, cells of the planning map.
        which: index of the frontier in the routes.
        view: the planning map.
        frame: the mission's frame.
    """
    row, col = (int(index) for index in routes.targets[which])
    start = routes.backtrack[-1] if routes.backtrack else (pose.x, pose.y)
    waypoints = path_to(routes.field, routes.passable, view.position(frame, *start), (row, col))
    return Goal(
        cells=frontier.cells + np.array((view.row0, view.col0), np.int32),
        target=(row + view.row0, col + view.col0),
        path=(
            *routes.backtrack,
            *(frame.centre(row + view.row0, col + view.col0) for row, col in waypoints),
        ),
        clearance=routes.clearance,
        view_distance=routes.view_distance,
        backtrack=len(routes.backtrack),
    )


def standby_goal(goal: Goal, pose: Pose, distance: float) -> Goal:
    """Make a goal a standby goal: its path ends `distance` metres before its viewpoint."""
    waypoints = [(pose.x, pose.y), *goal.path]
    left = path_length(waypoints) - distance
    path: list[Point] = []
    for start, end in pairwise(waypoints):
        length = math.dist(start, end)
        if length >= left:
            if left > 0.0:
                share = left / length
                x, y = (
                    start[0] + share * (end[0] - start[0]),
                    start[1] + share * (end[1] - start[1]),
                )
                path.append((x, y))
            break
        path.append(end)
        left -= length
    return replace(goal, path=tuple(path), standby=True)
