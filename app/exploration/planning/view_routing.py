"""Where the robots of a team go next: routes over few stops that together see all frontiers.

What is left to see is listed, and a few stops are chosen that together see all of it (`view_cover`).
A stop is open if it sees a wide frontier, behind which there may be a room; the others see gaps and
corners. Open stops come first: routes over them are planned for the whole team, the longest as short
as possible (`min_max_routes`), and each robot drives to its first stop. On the way it takes the other
stops that it would have to come back for (`detours`). Robots without an open stop follow routes over
the others, and at the end all do.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.driver import Point, Pose
from app.exploration.grid import Cell, Cells, GridFrame, Mask
from app.exploration.planning.backtracking import backtracks, path_length
from app.exploration.planning.detours import best_detours
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.goals import Goal, RobotState, goal_at
from app.exploration.planning.min_max_routes import Metres, plan_routes, route_lengths
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.sightings import Indices, Sightings
from app.exploration.planning.stop_distances import CoarseMap, route_threads
from app.exploration.planning.view_cover import cover
from app.exploration.shortest_paths import UNREACHED, distance_field

_STRIDE_M = 0.2  # spacing of the poses that are tried first
_SAMPLES = 8  # cells that stand for a frontier when it is looked at
_SHARE = 0.5  # a pose sees a frontier if it sees this share of what any pose sees of it
_MUCH_SHORTER = 0.9  # of the longest route: a plan that sends robots back has to be worth it
_PASSING = 0.1  # share by which each robot raises the price of detours: it sees much in passing
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


@dataclass(frozen=True, slots=True, eq=False)
class _Stops:
    """Stops that together see all frontiers, and the ways to them.

    Attributes:
        starts: where the robots' routes start.
        heading: local cell that each robot is driving to.
        sightings: from where the frontiers are seen.
        wanted: for each stop the indices of the frontiers that it is for.
        cells: (stops, 2) int32, local cells.
        opened: number of open stops, which come first.
        start_m: (robots, stops) metres.
        between_m: (stops, stops) metres.
        through_m: (opened, opened) metres, through unknown cells where that is shorter.
    """

    starts: Sequence[RouteStart]
    heading: Sequence[Cell | None]
    sightings: Sightings
    wanted: Sequence[Indices]
    cells: Cells
    opened: int
    start_m: Metres
    between_m: Metres
    through_m: Metres


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
    stops = _choose_stops(robots, frontiers, view, frame, settings)
    driven_m = sum(robot.driven_m for robot in robots)
    routes = _plan(stops, driven_m=driven_m, price=settings.detour_price)
    kept = [
        bool(route) and cell == tuple(stops.cells[route[0]])
        for route, cell in zip(routes, stops.heading, strict=True)
    ]
    taken = [cell for cell, keeps in zip(stops.heading, kept, strict=True) if cell and keeps]
    for index, route in enumerate(routes):
        if not route:
            continue
        wanted = stops.wanted[route[0]]
        frontier = Frontier(np.concatenate([frontiers[which].cells for which in wanted]))
        later, goal = stops.cells[route[1:]], robots[index].goal
        if goal is not None and kept[index]:
            goal = goal.with_news(frontier, later, view)
        else:
            goal = goal_at_best_pose(
                robots[index].pose,
                stops.starts[index],
                poses_that_see(stops.sightings, wanted),
                frontier,
                route=later,
                taken=taken,
                view=view,
                frame=frame,
                settings=settings,
            )
            if goal is not None:
                taken.append(goal.stop_in(view))
        goals[index] = goal
    return goals


def _choose_stops(
    robots: Sequence[RobotState],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    settings: PlannerSettings,
) -> _Stops:
    """Choose few stops that see all wide frontiers, and few that see all others.

    Where robots are heading comes first. One stop for both would often lie deep in a room, where a
    robot that passes does not come.
    """
    starts, sightings = _starts_and_sightings(robots, frontiers, view, frame, settings)
    least = settings.open_frontier_m / view.resolution
    wide = np.array([frontier.extent >= least for frontier in frontiers])
    heading = [None if robot.goal is None else robot.goal.stop_in(view) for robot in robots]
    keep = [cell for cell in heading if cell is not None]
    opened = cover(sightings.of(wide), keep=keep)[:_MAX_STOPS]
    chosen = opened + cover(sightings.of(~wide), keep=keep)[:_MAX_STOPS]
    cells = sightings.poses[[pose for pose, _ in chosen]]
    distances = _distances(starts, cells, len(opened), view, settings)
    wanted = [wanted for _, wanted in chosen]
    return _Stops(starts, heading, sightings, wanted, cells, len(opened), *distances)


def _plan(stops: _Stops, *, driven_m: float, price: float) -> list[list[int]]:
    """Plan the stops of each robot in order, at least the next two.

    Open stops are as far from each other as the way through what is unknown: two ends of an aisle are
    work for one robot.

    Args:
        stops: the stops.
        driven_m: metres that the team has driven.
        price: what a metre of detour has to save (`best_detours`).
    """
    offset = np.array([path_length(start.backtrack) for start in stops.starts])
    everybody = np.arange(len(stops.starts))

    def routes_over(robots: Indices, chosen: Indices, between_m: Metres) -> list[list[int]]:
        start_m = stops.start_m[np.ix_(robots, chosen)]
        place = {(int(row), int(col)): at for at, (row, col) in enumerate(stops.cells[chosen])}
        heading = {
            at: place[cell]
            for at, cell in enumerate(stops.heading[robot] for robot in robots)
            if cell in place and np.isfinite(start_m[at, place[cell]])
        }
        between_m = between_m[np.ix_(chosen, chosen)]
        routes = _plan_steadily(start_m, between_m, offset[robots], heading)
        return [[int(chosen[at]) for at in route] for route in routes]

    routes = routes_over(everybody, np.arange(stops.opened), stops.through_m)
    other = np.arange(stops.opened, len(stops.cells))
    aims = [route[0] if route else None for route in routes]
    price *= 1.0 + _PASSING * len(aims)
    between_m = stops.between_m
    for detour in best_detours(
        stops.start_m, between_m, aims, other, price=price, driven_m=driven_m
    ):
        routes[detour.robot][:0] = detour.stops
        other = np.setdiff1d(other, detour.stops)
    free = np.array([robot for robot, aim in enumerate(aims) if aim is None], np.int64)
    for robot, route in zip(free, routes_over(free, other, between_m), strict=True):
        routes[robot] = route
    return routes


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
    sightings = _frontier_sightings(frontiers, view, _standing_of(starts), settings)
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
        sightings = _frontier_sightings(frontiers, view, _standing_of(starts), settings)
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


def _standing_of(starts: Sequence[RouteStart]) -> Mask:
    """Return where any robot can get to."""
    standing: Mask = np.logical_or.reduce([start.standing for start in starts])
    return standing


def _frontier_sightings(
    frontiers: Sequence[Frontier], view: PlanningMap, standing: Mask, settings: PlannerSettings
) -> Sightings:
    """Return which pose sees which frontier: most of what can be seen of its cells at all."""
    samples = [frontier.cells[:: -(-frontier.size // _SAMPLES)] for frontier in frontiers]
    cells = np.concatenate(samples)
    owner = np.repeat(np.arange(len(frontiers)), [len(sample) for sample in samples])
    single = view.sightings(
        cells,
        standing,
        reach=settings.view_reach(view.resolution),
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


def _distances(
    starts: Sequence[RouteStart],
    stops: Cells,
    opened: int,
    view: PlanningMap,
    settings: PlannerSettings,
) -> tuple[Metres, Metres, Metres]:
    """Return the path lengths from the robots to the stops, between the stops, and between open stops.

    The last are those through unknown cells, where these are shorter.
    """
    cells = np.array([start.cell for start in starts], np.int32)
    passable = _standing_of(starts)
    passable[cells[:, 0], cells[:, 1]] = True
    coarse = CoarseMap(passable, view.resolution)
    metres = coarse.distances(stops, np.concatenate([cells, stops]), route_threads())
    start_m = np.ascontiguousarray(metres[:, : len(starts)].T)
    for robot, start in enumerate(starts):
        start_m[robot, ~start.standing[stops[:, 0], stops[:, 1]]] = np.inf
    between_m = metres[:, len(starts) :]
    if_free = CoarseMap(passable | view.passable_if_free(settings.radius), view.resolution)
    through_m = if_free.distances(stops[:opened], stops[:opened], route_threads())
    return start_m, np.minimum(between_m, between_m.T), np.minimum(through_m, through_m.T)


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
    route: Cells,
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
        route: (n, 2) int32, the stops after that.
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
        if len(route):
            onward = distance_field(passable, (int(route[0, 0]), int(route[0, 1])))
            costs += onward[reached[:, 0], reached[:, 1]]
        row, col = reached[int(np.argmin(costs))]
        return goal_at(
            pose,
            (int(row), int(col)),
            frontier,
            passable=passable,
            field=field,
            clearance=clearance,
            backtrack=start.backtrack,
            route=route,
            view=view,
            frame=frame,
        )
    return None
