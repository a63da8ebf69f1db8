"""Stops on the way: what is cheaper to see now than to come back for.

A robot that drives to its goal leaves small frontiers behind. Each of them is a stop of the routes
at the end. If the way back to it, as these routes measure it, is longer than the detour now, the
robot views it first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.exploration.grid import GridFrame
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.goals import Goal, RobotState
from app.exploration.planning.min_max_routes import Metres, plan_routes
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.view_cover import cover
from app.exploration.planning.view_routing import (
    distances,
    frontier_sightings,
    goal_at_best_pose,
    nearest_first,
    poses_that_see,
    standing_of,
    start_of,
)

_SEGMENT = 5  # stops; the most that are taken on the way at once
_MAX_STOPS = 500


@dataclass(frozen=True, slots=True)
class Detour:
    """Stops that a robot visits before its goal.

    Attributes:
        gain: metres that it saves, less the price of the detour.
        robot: index of the robot.
        stops: indices of the stops, in order.
    """

    gain: float
    robot: int
    stops: tuple[int, ...]


def take_on_the_way(
    robots: Sequence[RobotState],
    goals: Sequence[Goal | None],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    *,
    frame: GridFrame,
    settings: PlannerSettings,
) -> list[Goal | None]:
    """Send robots to stops on the way to their goals where coming back for them would cost more.

    Args:
        robots: the robots.
        goals: the goal of each robot.
        frontiers: all frontiers, cells of the planning map.
        view: the planning map.
        frame: the mission's frame.
        settings: how to explore.

    Returns:
        The goals, some of them replaced by a stop on the way.
    """
    found = list(goals)
    corner = np.array((view.row0, view.col0), np.int32)
    driving = {
        index: goal
        for index, goal in enumerate(goals)
        if goal is not None and not goal.standby and not goal.backtrack
    }
    aims = {tuple((goal.cells[0] - corner).tolist()) for goal in driving.values()}
    least = settings.open_frontier_m / view.resolution
    small = [
        each
        for each in frontiers
        if each.extent < least and tuple(each.cells[0].tolist()) not in aims
    ]
    if not driving or not small:
        return found
    order = list(driving)
    starts = [start_of(robots[index], view, frame, settings) for index in order]
    sightings = frontier_sightings(small, view, standing_of(starts), settings)
    sightings = sightings.in_order(nearest_first(starts, sightings.poses, view))
    current = [
        (goal.target[0] - view.row0, goal.target[1] - view.col0)
        for goal in (robots[index].goal for index in order)
        if goal is not None and goal.routed
    ]
    chosen = cover(sightings, keep=current)[:_MAX_STOPS]
    if not chosen:
        return found
    anchors = np.array([driving[index].target for index in order], np.int32) - corner
    places = np.concatenate([sightings.poses[[pose for pose, _ in chosen]], anchors])
    start_m, between_m = distances(starts, places, view)
    stops = len(chosen)
    for detour in best_detours(start_m, between_m, stops, price=settings.detour_price):
        index = order[detour.robot]
        wanted = chosen[detour.stops[0]][1]
        after = places[detour.stops[1] if len(detour.stops) > 1 else stops + detour.robot]
        goal = goal_at_best_pose(
            robots[index].pose,
            starts[detour.robot],
            poses_that_see(sightings, wanted),
            Frontier(np.concatenate([small[which].cells for which in wanted])),
            after=after,
            taken=[
                (other.target[0] - view.row0, other.target[1] - view.col0)
                for other in found
                if other is not None and other is not found[index]
            ],
            view=view,
            frame=frame,
            settings=settings,
        )
        if goal is not None:
            found[index] = replace(goal, routed=True)
    return found


def best_detours(start_m: Metres, between_m: Metres, stops: int, *, price: float) -> list[Detour]:
    """Find the detours that save more than they cost, at most one for each robot.

    Args:
        start_m: (robots, stops + robots) metres from each robot to each stop, and to each goal.
        between_m: (stops + robots, stops + robots) metres between these places.
        stops: number of stops.
        price: metres of way back that a metre of detour has to save.

    Returns:
        Detours without common stops.
    """
    robots = len(start_m)
    ahead = np.array([start_m[robot, stops + robot] for robot in range(robots)])
    driving = np.isfinite(ahead)
    later_m = np.where(
        np.isfinite(start_m[:, :stops]) & driving[:, None], between_m[stops:, :stops], np.inf
    )
    routes = plan_routes(later_m, between_m[:stops, :stops], offset=np.where(driving, ahead, 0.0))
    options: list[Detour] = []
    for owner, route in enumerate(routes):
        path = [stops + owner, *route]
        for first in range(1, len(path)):
            inner = 0.0
            for last in range(first, min(first + _SEGMENT, len(path))):
                if last > first:
                    inner += between_m[path[last - 1], path[last]]
                back = between_m[path[first - 1], path[first]] + inner
                if last + 1 < len(path):
                    back += between_m[path[last], path[last + 1]]
                    back -= between_m[path[first - 1], path[last + 1]]
                segment = tuple(path[first : last + 1])
                for robot in np.flatnonzero(driving).tolist():
                    for stretch in (segment, segment[::-1]):
                        now = (
                            start_m[robot, stretch[0]]
                            + inner
                            + between_m[stretch[-1], stops + robot]
                            - ahead[robot]
                        )
                        gain = back - price * now
                        if np.isfinite(gain) and gain > 0.0:
                            options.append(Detour(float(gain), robot, stretch))
    taken: set[int] = set()
    busy: set[int] = set()
    best: list[Detour] = []
    for option in sorted(options, key=lambda option: -option.gain):
        if option.robot not in busy and taken.isdisjoint(option.stops):
            best.append(option)
            busy.add(option.robot)
            taken.update(option.stops)
    return best
