"""A robot's routes to all frontiers: near it, on the whole map, or back along its own track."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, product
from math import dist

import numpy as np

from app.exploration.driver import Point, Pose
from app.exploration.grid import Cell, Cells, GridFrame, Mask
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.planning_map import PlanningMap
from app.exploration.shortest_paths import UNREACHED, DistanceField, distance_field

_CANDIDATES_PER_VIEW = 5  # candidate viewpoints across one view distance
_CANDIDATE_STEP_M = 0.3  # maximum spacing: a far view through a gap needs an exact position
_BACKTRACK_STEP_M = 0.5  # spacing of the points on its track from which a boxed-in robot searches
_BACKTRACK_M = 20.0  # length of the track that it searches


@dataclass(frozen=True, slots=True, eq=False)
class FrontierRoutes:
    """One robot's routes to all frontiers.

    Attributes:
        clearance: metres to the nearest obstacle that the routes keep.
        view_distance: metres from a viewpoint to its frontier.
        passable: (rows, cols) bool, cells that the routes may use.
        field: (rows, cols) int32 path costs from the start of the routes.
        costs: (frontiers,) int32 path costs, UNREACHED without a route.
        targets: (frontiers, 2) int32, the viewpoint of each frontier, local row and column.
        backtrack: points of the robot's own track that it drives back first; the routes start at
            the last of them, or at the robot.
    """

    clearance: float
    view_distance: float
    passable: Mask
    field: DistanceField
    costs: Cells
    targets: Cells
    backtrack: tuple[Point, ...] = ()

    @property
    def reach_any(self) -> bool:
        """Whether there is a route to any frontier."""
        return bool((self.costs < UNREACHED).any())

    @classmethod
    def none(cls, frontiers: int) -> "FrontierRoutes":
        """Return the routes of a robot that reaches no frontier."""
        empty = np.zeros((0, 0), np.int32)
        costs = np.full(frontiers, UNREACHED, np.int32)
        return cls(0.0, 0.0, empty > 0, empty, costs, empty)


def routes_from(
    cell: Cell,
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    *,
    clearances: Sequence[float],
    view_distances: Sequence[float],
    limit: int,
) -> FrontierRoutes:
    """Find the routes from a cell to all frontiers.

    Combinations of view distance and clearance are tried in order, clearances first, until one
    yields a route.

    Args:
        cell: start of the routes, local row and column.
        frontiers: the frontiers, cells of the planning map.
        view: the planning map.
        clearances: metres to keep from obstacles, preferred first.
        view_distances: metres from viewpoint to frontier, preferred first.
        limit: maximum path cost.
    """
    for view_distance, clearance in product(view_distances, clearances):
        spacing = min(view_distance / _CANDIDATES_PER_VIEW, _CANDIDATE_STEP_M)
        viewpoints = view.viewpoints(
            frontiers,
            reach=round(view_distance / view.resolution),
            stride=max(1, round(spacing / view.resolution)),
        )
        if limit == UNREACHED and not view.reachable(clearance, cell).contains_any(
            viewpoints.distinct
        ):
            continue
        passable = view.passable(clearance, cell)
        field = distance_field(passable, cell, limit=limit)
        costs, targets = viewpoints.cheapest(field)
        routes = FrontierRoutes(clearance, view_distance, passable, field, costs, targets)
        if routes.reach_any:
            return routes
    return FrontierRoutes.none(len(frontiers))


def search_routes(
    pose: Pose,
    track: Sequence[Point],
    frontiers: Sequence[Frontier],
    view: PlanningMap,
    frame: GridFrame,
    *,
    clearances: Sequence[float],
    view_distances: Sequence[float],
) -> FrontierRoutes:
    """Find a robot's routes on the whole map; a boxed-in robot backtracks along its own track.

    Walls are drawn up to a cell too thick, and collision cells are barred, so a robot may enter a
    place that its map offers no route out of. But it fits wherever it has driven before.

    Args:
        pose: the robot's pose.
        track: points that the robot drove through, metres, map frame.
        frontiers: the frontiers, cells of the planning map.
        view: the planning map.
        frame: the mission's frame.
        clearances: metres to keep from obstacles, preferred first.
        view_distances: metres from viewpoint to frontier, preferred first.
    """
    for backtrack in backtracks(pose, track):
        cell = view.cell_at(frame, *(backtrack[-1] if backtrack else (pose.x, pose.y)))
        routes = routes_from(
            cell,
            frontiers,
            view,
            clearances=clearances,
            view_distances=view_distances,
            limit=UNREACHED,
        )
        if routes.reach_any:
            return replace(routes, backtrack=backtrack)
    return FrontierRoutes.none(len(frontiers))


def backtracks(pose: Pose, track: Sequence[Point]) -> Iterator[tuple[Point, ...]]:
    """Yield paths back along a robot's track, each half a metre longer than the last.

    The first is empty. Where the track passes a point twice, the loop between is cut out.
    """
    yield ()
    path = [(pose.x, pose.y)]
    yielded = 0.0
    for point in reversed(track):
        if point in path:
            del path[path.index(point) + 1 :]
            continue
        path.append(point)
        length = path_length(path)
        if length >= yielded + _BACKTRACK_STEP_M:
            yielded = length
            yield tuple(path[1:])
        if length >= _BACKTRACK_M:
            return


def path_length(points: Sequence[Point]) -> float:
    """Return the length of a path, metres."""
    return sum(dist(start, end) for start, end in pairwise(points))


@cache
def route_threads() -> ThreadPoolExecutor:
    """Return a pool of one thread per core; the search for routes releases the GIL."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="routes")


# A forked child does not inherit the threads: it makes its own pool.
os.register_at_fork(after_in_child=route_threads.cache_clear)
