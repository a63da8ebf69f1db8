"""Routes for a whole team over everything that is left to see, when nothing large is left.

While large areas are unknown, every view changes the plan, and robots choose goals one by one
(`goal_selection`). What remains after that is small, spread over the whole floor, and can be
listed. Then the shortest mission is a routing problem: few stops that together see all of it
(`view_cover`), and routes over them whose longest is short (`min_max_routes`).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.exploration.driver import Point, Pose
from app.exploration.grid import Cell, Cells, GridFrame, Mask
from app.exploration.planning.frontier_routes import (
    FrontierRoutes,
    backtracks,
    path_length,
    route_threads,
)
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.goals import Goal, RobotState, goal_at
from app.exploration.planning.min_max_routes import Metres, plan_routes, route_lengths
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.sightings import Indices, Sightings
from app.exploration.planning.stop_distances import CoarseMap
from app.exploration.planning.view_cover import cover
from app.exploration.shortest_paths import UNREACHED, distance_field

_SURE_BEAMS = 1.5  # largest angle between beams, in widths of a cell, at which a cell is seen
_STRIDE_M = 0.2  # spacing of the poses that are tried first
_SHARE = 0.5  # a pose sees a frontier if it sees this share of what any pose sees of it
_MUCH_SHORTER = 0.9  # of the longest route: a plan that sends robots back has to be worth it
_MAX_STOPS = 500  # bound of the work of one plan; the rest is planned when these are done


@dataclass(frozen=True, slots=True, eq=False)
class RouteStart:
    """Where a robot's route starts.

    Attributes:
        backtrack: points of the robot's track that it drives back first.
        cell: local cell behind them.
        standing: (rows, cols) bool, where it can get to from there.
    """

    backtrack: tuple[Point, ...]
    cell: Cell
    standing: Mask


def route_views(
    robots: Sequence[RobotState],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
) -> list[Goal | None]:
    """Plan routes over all frontiers that can be seen for certain.

    Args:
        robots: the robots.
        frontiers: the frontiers to see, cells of the planning map.
        view: the planning map.
        frame: the mission's frame.
        settings: how to explore.

    Returns:
        The first stop of each robot's route as its goal, None for a robot that is not needed.
    """
    goals: list[Goal | None] = [None] * len(robots)
    if not frontiers or not robots:
        return goals
    starts, sightings = _starts_and_sightings(robots, frontiers, view, frame, settings)
    current = {
        index: (robot.goal.target[0] - view.row0, robot.goal.target[1] - view.col0)
        for index, robot in enumerate(robots)
        if robot.goal is not None
    }
    chosen = cover(sightings, keep=list(current.values()))[:_MAX_STOPS]
    if not chosen:
        return goals
    stops = sightings.poses[[pose for pose, _ in chosen]]
    start_m, between_m = distances(starts, stops, view)
    offset = np.array([path_length(start.backtrack) for start in starts])
    index_of = {(int(row), int(col)): stop for stop, (row, col) in enumerate(stops)}
    heading = {
        robot: index_of[cell]
        for robot, cell in current.items()
        if cell in index_of and np.isfinite(start_m[robot, index_of[cell]])
    }
    routes = _plan_steadily(start_m, between_m, offset, heading)
    taken: set[Cell] = set()
    for index, route in enumerate(routes):
        if route:
            wanted = chosen[route[0]][1]
            goal = goal_at_best_pose(
                robots[index].pose,
                starts[index],
                poses_that_see(sightings, wanted),
                Frontier(np.concatenate([frontiers[which].cells for which in wanted])),
                after=stops[route[1]] if len(route) > 1 else None,
                taken=taken,
                view=view,
                frame=frame,
                settings=settings,
            )
            later = stops[route[1:]] + np.array((view.row0, view.col0), np.int32)
            if goal is not None:
                taken.add((goal.target[0] - view.row0, goal.target[1] - view.col0))
                later_cells = tuple((int(row), int(col)) for row, col in later)
                goal = replace(goal, route=later_cells, routed=True)
            goals[index] = goal
    return goals


def _plan_steadily(
    start_m: Metres, between_m: Metres, offset: Metres, heading: Mapping[int, int]
) -> list[list[int]]:
    """Plan routes that begin where robots are heading, unless others are much shorter.

    A plan is a heuristic: planned again halfway, it may prefer the other end of a route as often
    as it is asked. A robot would drive back and forth without end.

    Args:
        start_m: (robots, stops) metres from each robot to each stop.
        between_m: (stops, stops) metres between stops.
        offset: (robots,) metres before a robot can start its route.
        heading: the stop that a robot is driving to, by robot; distinct.
    """
    free = plan_routes(start_m, between_m, offset=offset)
    if not heading:
        return free
    kept_start, kept_offset = start_m.copy(), offset.copy()
    for robot, stop in heading.items():
        kept_start[robot] = np.where(np.isfinite(start_m[robot]), between_m[stop], np.inf)
        kept_offset[robot] += start_m[robot, stop]
    kept_start[:, list(heading.values())] = np.inf
    kept = plan_routes(kept_start, between_m, offset=kept_offset)
    routes = [
        [heading[robot], *route] if robot in heading else route for robot, route in enumerate(kept)
    ]
    longest_free = route_lengths(free, start_m, between_m, offset=offset).max()
    longest = route_lengths(routes, start_m, between_m, offset=offset).max()
    return free if longest_free < _MUCH_SHORTER * longest else routes


def view_reach(view: PlanningMap, settings: PlannerSettings) -> int:
    """Return the distance up to which a robot sees a single cell for certain, cells."""
    sure = _SURE_BEAMS / settings.beam_spacing_rad
    return max(1, math.floor(min(sure, settings.sensor_range_m / view.resolution)))


def _starts_and_sightings(
    robots: Sequence[RobotState],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
) -> tuple[list[RouteStart], Sightings]:
    """Return where routes start, and what is seen from the regions around.

    Walls are drawn up to a cell too thick, so that a robot's map may show no way out of where it
    is. A robot that sees no frontier from its region backtracks to where its track left another.
    """
    starts = [start_of(robot, view, frame, settings) for robot in robots]
    sightings = frontier_sightings(frontiers, view, standing_of(starts), settings)
    boxed_in = False
    for index, robot in enumerate(robots):
        own = starts[index].standing
        if own[sightings.poses[:, 0], sightings.poses[:, 1]].any():
            continue
        for backtrack in backtracks(robot.pose, robot.track):
            if backtrack and not own[view.cell_at(frame, *backtrack[-1])]:
                starts[index] = start_of(robot, view, frame, settings, backtrack=backtrack)
                boxed_in = True
                break
    if boxed_in:
        sightings = frontier_sightings(frontiers, view, standing_of(starts), settings)
    return starts, sightings


def start_of(
    robot: RobotState,
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
    *,
    backtrack: tuple[Point, ...] = (),
) -> RouteStart:
    """Return where a robot starts, with its region."""
    cell = view.cell_at(frame, *(backtrack[-1] if backtrack else (robot.pose.x, robot.pose.y)))
    return RouteStart(backtrack, cell, view.reachable(settings.radius, cell).mask)


def standing_of(starts: Sequence[RouteStart]) -> Mask:
    """Return where any robot can get to."""
    standing: Mask = np.logical_or.reduce([start.standing for start in starts])
    return standing


def frontier_sightings(
    frontiers: Sequence[Frontier], view: PlanningMap, standing: Mask, settings: PlannerSettings
) -> Sightings:
    """Return which pose sees which frontier: most of what can be seen of its cells at all."""
    cells = np.concatenate([frontier.cells for frontier in frontiers])
    owner = np.repeat(np.arange(len(frontiers)), [frontier.size for frontier in frontiers])
    single = view.sightings(
        cells,
        standing,
        reach=view_reach(view, settings),
        stride=max(1, round(_STRIDE_M / view.resolution)),
    )
    poses = max(len(single.poses), 1)
    pairs, counts = np.unique(owner[single.target] * poses + single.pose, return_counts=True)
    frontier, pose = np.divmod(pairs, poses)
    most = np.zeros(len(frontiers), np.int64)
    np.maximum.at(most, frontier, counts)
    enough = counts >= _SHARE * most[frontier]
    firsts = np.array([each.cells[0] for each in frontiers], np.int32)
    return Sightings(firsts, single.poses, frontier[enough], pose[enough])


def distances(
    starts: Sequence[RouteStart], stops: Cells, view: PlanningMap
) -> tuple[Metres, Metres]:
    """Return the path lengths from the robots to the stops, and between the stops."""
    cells, coarse = _start_cells(starts, view)
    metres = coarse.distances(stops, np.concatenate([cells, stops]), route_threads())
    start_m = np.ascontiguousarray(metres[:, : len(starts)].T)
    for robot, start in enumerate(starts):
        start_m[robot, ~start.standing[stops[:, 0], stops[:, 1]]] = np.inf
    between_m = metres[:, len(starts) :]
    return start_m, np.minimum(between_m, between_m.T)


def _start_cells(starts: Sequence[RouteStart], view: PlanningMap) -> tuple[Cells, CoarseMap]:
    """Return the cells where routes start, (robots, 2) int32, and the map that they are on."""
    cells = np.array([start.cell for start in starts], np.int32)
    passable = standing_of(starts)
    passable[cells[:, 0], cells[:, 1]] = True
    coarse = CoarseMap(passable, view.resolution)
    return cells, coarse


def nearest_first(starts: Sequence[RouteStart], poses: Cells, view: PlanningMap) -> Indices:
    """Return the indices of poses in the order of the path length from the nearest robot."""
    cells, coarse = _start_cells(starts, view)
    metres = coarse.distances(cells, poses, route_threads())
    return np.argsort(metres.min(axis=0), kind="stable")


def poses_that_see(sightings: Sightings, wanted: Indices) -> Cells:
    """Return the poses that see all of some frontiers, (n, 2) int32."""
    counts = np.bincount(
        sightings.pose[np.isin(sightings.target, wanted)], minlength=len(sightings.poses)
    )
    poses: Cells = sightings.poses[counts == len(wanted)]
    return poses


def goal_at_best_pose(
    pose: Pose,
    start: RouteStart,
    poses: Cells,
    frontier: Frontier,
    *,
    after: Cells | None,
    taken: Collection[Cell],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
) -> Goal | None:
    """Return the way to the pose that lies best on the way to the next stop.

    The way is wide of walls if there is such a way.

    Args:
        pose: the robot's pose.
        start: where its route starts.
        poses: (n, 2) int32, cells from which the frontier is seen.
        frontier: the frontier, cells of the planning map.
        after: (2,) int32, the stop after that; None at the end of the route.
        taken: local cells that other robots drive to.
        view: the planning map.
        frame: the mission's frame.
        settings: how to explore.
    """
    for cell in taken:
        poses = poses[(poses != cell).any(axis=1)]
    rows, cols = poses.T
    for clearance in (settings.radius + view.resolution, settings.radius):
        passable = view.passable(clearance, start.cell)
        field = distance_field(passable, start.cell)
        reached = poses[passable[rows, cols] & (field[rows, cols] < UNREACHED)]
        if not len(reached):
            continue
        costs = field[reached[:, 0], reached[:, 1]].astype(np.int64)
        if after is not None:
            onward = distance_field(passable, (int(after[0]), int(after[1])))
            costs += onward[reached[:, 0], reached[:, 1]]
        best = int(np.argmin(costs))
        target = (int(reached[best, 0]), int(reached[best, 1]))
        routes = FrontierRoutes(
            clearance,
            view_reach(view, settings) * view.resolution,
            passable,
            field,
            field[target][None],
            np.array([target], np.int32),
            start.backtrack,
        )
        return goal_at(pose, routes, frontier, which=0, view=view, frame=frame)
    return None
