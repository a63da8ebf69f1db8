"""The next goals of a team: routes, prices, one joint assignment, and standby for the rest."""

from collections.abc import Sequence

import numpy as np

from app.exploration.grid import GridFrame
from app.exploration.planning.assignment import Costs, assign_discounted, assign_hungarian
from app.exploration.planning.frontier_costs import frontier_distances, frontier_gains, path_costs
from app.exploration.planning.frontier_routes import (
    FrontierRoutes,
    route_threads,
    routes_from,
    search_routes,
)
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.goals import Goal, RobotState, goal_at, standby_goal
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.shortest_paths import STRAIGHT


def choose_goals(
    robots: Sequence[RobotState],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
    *,
    far: bool,
) -> list[Goal | None]:
    """Choose the goals of all robots jointly.

    Routes are searched near each robot first, and on the whole map only for robots that get no
    frontier that way.

    Args:
        robots: the robots.
        frontiers: the frontiers to explore, cells of the planning map; at least one.
        view: the planning map.
        frame: the mission's frame.
        settings: how to explore.
        far: frontiers without a near viewpoint may be viewed from far away.

    Returns:
        A goal for each robot, None for a robot that has nothing to do.
    """
    routes, chosen = _assign(robots, frontiers, view, frame, settings, far=far)
    goals: list[Goal | None] = [None] * len(robots)

    def make(index: int, which: int) -> Goal:
        return goal_at(
            robots[index].pose,
            routes[index],
            frontiers[which],
            which=which,
            view=view,
            frame=frame,
        )

    for index, which in chosen.items():
        goals[index] = make(index, which)
    idle = [index for index, goal in enumerate(goals) if goal is None]
    if chosen and idle and settings.standby_cost_m > 0.0 and not far:
        crowd = np.bincount(list(chosen.values()), minlength=len(frontiers)).astype(np.float64)
        taken = crowd > 0.0
        metres = path_costs(routes, frame)
        for index in idle:
            costs = np.where(taken, metres[index] + settings.standby_cost_m * crowd, np.inf)
            if not np.isfinite(costs).any():
                continue
            which = int(np.argmin(costs))
            crowd[which] += 1.0
            # Those that wait for one frontier queue up before it: no two have one goal.
            queued = int(crowd[which]) - 1
            goals[index] = standby_goal(
                make(index, which), robots[index].pose, settings.standby_distance_m * queued
            )
    return goals


def _assign(
    robots: Sequence[RobotState],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
    *,
    far: bool,
) -> tuple[list[FrontierRoutes], dict[int, int]]:
    """Find routes and assign frontiers; return the routes, and robot to frontier by index."""
    clearances = [settings.radius + frame.resolution, settings.radius]
    view_distances = [settings.view_distance_m]
    if far:
        # Walls are drawn up to a cell too thick: if a robot does not fit, it reports that.
        clearances.append(settings.radius - frame.resolution)
        view_distances.append(settings.far_view_distance_m)
    limit = round(settings.local_search_m / frame.resolution * STRAIGHT)

    def search_near(robot: RobotState) -> FrontierRoutes:
        return routes_from(
            view.cell(frame, robot.pose),
            frontiers,
            view,
            clearances=clearances[:1],
            view_distances=view_distances[:1],
            limit=limit,
        )

    def search_map(robot: RobotState) -> FrontierRoutes:
        return search_routes(
            robot.pose,
            robot.track,
            frontiers,
            view,
            frame,
            clearances=clearances,
            view_distances=view_distances,
        )

    routes = list(route_threads().map(search_near, robots))
    gains = frontier_gains(robots, frontiers, view, frame, settings)
    distances = frontier_distances(frontiers, view, settings.sensor_range_m)

    def assign() -> dict[int, int]:
        prices = path_costs(routes, frame) - gains
        while True:
            chosen = (
                assign_discounted(
                    prices, distances, discount=settings.discount_m, reach=settings.sensor_range_m
                )
                if settings.discount_m > 0.0
                else assign_hungarian(prices)
            )
            again = _second_visitors(chosen, routes, prices)
            if not again:
                return chosen
            for robot in again:
                prices[robot, chosen[robot]] = np.inf

    chosen = assign()
    searched: set[int] = set()
    while idle := set(range(len(robots))) - set(chosen) - searched:
        order = sorted(idle)
        found = route_threads().map(search_map, [robots[index] for index in order])
        for index, robot_routes in zip(order, found, strict=True):
            routes[index] = robot_routes
        searched |= idle
        chosen = assign()
    return routes, chosen


def _second_visitors(
    chosen: dict[int, int], routes: Sequence[FrontierRoutes], prices: Costs
) -> list[int]:
    """Return the robots whose viewpoint another robot visits at a lower price.

    One viewpoint may see two frontiers: the robot that comes there first views both.
    """
    visitor: dict[tuple[int, ...], int] = {}
    again = []
    for robot in sorted(chosen, key=lambda robot: float(prices[robot, chosen[robot]])):
        cell = tuple(int(index) for index in routes[robot].targets[chosen[robot]])
        if visitor.setdefault(cell, robot) != robot:
            again.append(robot)
    return again
