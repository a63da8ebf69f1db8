"""Robots without a stop follow others, so that they are near when a passage branches.

Where a team starts, and in caves, there are fewer stops than robots. A robot that waits for one where
it was needed last comes late: it follows a robot that drives to an open stop near by, at a distance.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from app.exploration.driver import Point
from app.exploration.grid import GridFrame
from app.exploration.planning.backtracking import path_length
from app.exploration.planning.goals import RobotState
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.shortest_paths import STRAIGHT, distance_field, path_to

_BEHIND_M = 2.0  # from a stop to the first robot behind it, and from there to the next
_FAR_M = 15.0  # the way to a stop from where it is followed


def ways_behind(
    robots: Sequence[RobotState], view: PlanningMap, frame: GridFrame, settings: PlannerSettings
) -> list[tuple[Point, ...]]:
    """Return the way of each robot without a goal towards the open stop of another.

    Robots spread evenly over these stops, the nearest first.

    Args:
        robots: the robots, with their goals.
        view: the planning map.
        frame: the mission's frame.
        settings: how to explore.

    Returns:
        For each robot waypoints, metres, map frame; none if it has a goal or nobody to follow near by.
    """
    least = settings.open_frontier_m / view.resolution
    goals = [robot.goal for robot in robots if robot.goal is not None]
    stops = [goal.stop_in(view) for goal in goals if len(goal.cells) >= least]
    ways: list[tuple[Point, ...]] = [() for _ in robots]
    if not stops:
        return ways
    fields = {}
    for index, robot in enumerate(robots):
        if robot.goal is None:
            cell = view.cell(frame, robot.pose)
            passable = view.passable(settings.radius + view.resolution, cell)
            fields[index] = passable, distance_field(passable, cell)
    far = _FAR_M / view.resolution * STRAIGHT
    behind = [0] * len(stops)
    while fields:
        costs = [
            (behind[which], int(field[stop]), index, which)
            for index, (_, field) in fields.items()
            for which, stop in enumerate(stops)
            if field[stop] < far
        ]
        if not costs:
            break
        _, _, index, which = min(costs)
        behind[which] += 1
        passable, field = fields.pop(index)
        pose = robots[index].pose
        cells = path_to(field, passable, view.position(frame, pose.x, pose.y), stops[which])
        points = [frame.centre(row + view.row0, col + view.col0) for row, col in cells]
        ways[index] = _ending_before((pose.x, pose.y), points, behind[which] * _BEHIND_M)
    return ways


def _ending_before(start: Point, path: Sequence[Point], metres: float) -> tuple[Point, ...]:
    """Return a path without its last metres; empty if it is no longer than these."""
    points = [start, *path]
    left = path_length(points) - metres
    kept: list[Point] = []
    for (x, y), (to_x, to_y) in pairwise(points):
        length = math.hypot(to_x - x, to_y - y)
        if left <= length:
            if left > 0.0:
                share = left / length
                kept.append((x + share * (to_x - x), y + share * (to_y - y)))
            break
        kept.append((to_x, to_y))
        left -= length
    return tuple(kept)
