"""The phases of an exploration: how goals are chosen while the map grows, slows, and is almost done.

- While the map grows, robots choose goals one by one (`goal_selection`).
- When it grows more slowly, they also view small frontiers on the way (`detours`).
- When it has almost ceased to grow, routes are planned over all that is left (`view_routing`).
"""

from collections.abc import Sequence
from enum import Enum

import numpy as np

from app.exploration.grid import GridFrame
from app.exploration.planning.detours import take_on_the_way
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.goal_selection import choose_goals
from app.exploration.planning.goals import Goal, RobotState
from app.exploration.planning.growth import LONG_WINDOW, SHORT_WINDOW, Growth
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.view_routing import (
    frontier_sightings,
    route_views,
    standing_of,
    start_of,
)


class Phase(Enum):
    """How fast the map grows."""

    GROWING = 1
    SLOWING = 2
    DIMINISHED = 3


def phase_of(growth: Growth, settings: PlannerSettings) -> Phase:
    """Return the phase of an exploration from how its map has grown.

    A long drive through a corridor shows little, too: the map slows only if a long part of the way
    has found little.
    """
    recent = growth.recent_share(SHORT_WINDOW)
    if (
        growth.recent_share(LONG_WINDOW) >= settings.lasting_share
        or recent >= settings.slowing_share
    ):
        return Phase.GROWING
    return Phase.SLOWING if recent >= settings.diminished_share else Phase.DIMINISHED


def choose_or_route(
    robots: Sequence[RobotState],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
    *,
    phase: Phase,
) -> list[Goal | None]:
    """Choose goals while the map grows, and route what is left after that.

    A wide frontier that is left then may hide a room: it is explored first.

    Args:
        robots: the robots.
        frontiers: the frontiers to see, cells of the planning map.
        view: the planning map.
        frame: the mission's frame.
        settings: how to explore.
        phase: how fast the map grows.
    """
    if phase is not Phase.DIMINISHED:
        goals = choose_goals(robots, frontiers, view, frame, settings, far=False)
        if any(goals):
            if phase is Phase.GROWING:
                return goals
            return take_on_the_way(robots, goals, frontiers, view, frame=frame, settings=settings)
    least = settings.open_frontier_m / view.resolution
    wide = _seen_for_certain(
        [each for each in frontiers if each.extent >= least], robots, view, frame, settings
    )
    goals = [None] * len(robots)
    rest = list(frontiers)
    if wide:
        goals = choose_goals(robots, wide, view, frame, settings, far=False)
        goals = [None if goal is not None and goal.standby else goal for goal in goals]
        if any(goals):
            goals = take_on_the_way(robots, goals, frontiers, view, frame=frame, settings=settings)
            taken = {id(each) for each in wide}
            rest = [each for each in frontiers if id(each) not in taken]
            rest = _without_goals(rest, goals, view)
    free = [index for index, goal in enumerate(goals) if goal is None]
    routed = route_views([robots[index] for index in free], rest, view, frame, settings)
    visited = {goal.target for goal in goals if goal is not None}
    for index, goal in zip(free, routed, strict=True):
        if goal is not None and goal.target not in visited:
            goals[index] = goal
    return goals


def _without_goals(
    frontiers: Sequence[Frontier], goals: Sequence[Goal | None], view: PlanningMap
) -> list[Frontier]:
    """Return the frontiers that no goal views."""
    viewed = np.zeros(view.grid.shape, np.bool_)
    for goal in goals:
        if goal is not None:
            viewed[goal.cells[:, 0] - view.row0, goal.cells[:, 1] - view.col0] = True
    return [each for each in frontiers if not viewed[each.cells[0, 0], each.cells[0, 1]]]


def _seen_for_certain(
    frontiers: Sequence[Frontier],
    robots: Sequence[RobotState],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
) -> list[Frontier]:
    """Return the frontiers that a robot can see for certain, at least up to one for each robot."""
    if not frontiers:
        return []
    starts = [start_of(robot, view, frame, settings) for robot in robots]
    standing = standing_of(starts)
    found: list[Frontier] = []
    for frontier in sorted(frontiers, key=lambda frontier: -frontier.extent):
        if frontier_sightings([frontier], view, standing, settings).target.size:
            found.append(frontier)
        if len(found) == len(robots):
            break
    return found
