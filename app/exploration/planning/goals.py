"""Goals: a frontier, the place to see it from and the way there; made, judged, chosen jointly.

Pure functions of a survey and of where the robots stand.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np

from app.exploration.driver import Point, Pose
from app.exploration.grid import GridFrame, Mask
from app.exploration.planning.assignment import Costs, assign, discounted, unknown_in_sight
from app.exploration.planning.frontier_routes import Prospect, search, way_length, ways_from
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.paths import (
    STRAIGHT,
    UNREACHED,
    Cell,
    Cells,
    clear_length,
    in_sight,
    path_to,
)
from app.exploration.planning.planning_map import Survey
from app.exploration.planning.settings import Settings

_ALIVE = 0.3  # a goal stands while this share of its frontier is still frontier


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """Where a robot is going.

    Attributes:
        cells: (n, 2) int32, the frontier, rows and columns of the mission's frame.
        target: the cell to look from, in the same frame.
        path: waypoints not yet reached, metres, map frame.
        room: metres of room that the way keeps.
        look: metres from which the frontier is looked at.
        helps: another robot looks at it; this one only stays close, for what shows up there.
        back: so many of the waypoints are the robot's own track, on which it fitted.
    """

    cells: Cells
    target: Cell
    path: tuple[Point, ...]
    room: float
    look: float
    helps: bool = False
    back: int = 0


@dataclass(frozen=True, slots=True)
class Seeker:
    """A robot that may be sent somewhere.

    Attributes:
        pose: where it stands.
        goal: where it is going now.
        bearing: the direction that its first goal should have, radians; None once it had one.
        track: the points that it drove through, metres, map frame.
    """

    pose: Pose
    goal: Goal | None = None
    bearing: float | None = None
    track: Sequence[Point] = ()


def stands(goal: Goal, pose: Pose, view: Survey, live: Mask, frame: GridFrame) -> bool:
    """Tell whether a goal is still worth driving to, and the way there still open.

    Args:
        goal: the goal.
        pose: where its robot stands.
        view: what is known.
        live: (rows, cols) bool of the view, frontier cells not given up.
        frame: the mission's frame.
    """
    alive = live[goal.cells[:, 0] - view.row0, goal.cells[:, 1] - view.col0]
    if alive.mean() < _ALIVE:
        return False
    points = [(pose.x, pose.y), *goal.path][goal.back :]
    passable = view.passable(goal.room, view.cell_at(frame, *points[0]))
    stations = [view.position(frame, x, y) for x, y in points]
    return all(math.isinf(clear_length(passable, start, end)) for start, end in pairwise(stations))


def choose(
    seekers: Sequence[Seeker],
    frontiers: Sequence[Frontier],
    view: Survey,
    frame: GridFrame,
    settings: Settings,
    *,
    afar: bool,
) -> list[Goal | None]:
    """Give robots goals jointly; the whole map is searched only for those left idle nearby.

    Args:
        seekers: the robots.
        frontiers: what may be sought, cells of the view.
        view: what is known.
        frame: the mission's frame.
        settings: how to explore.
        afar: what cannot be got near is looked at from afar.

    Returns:
        A goal for each robot, None for one that has nothing to do.
    """
    rooms = [settings.radius + frame.resolution, settings.radius]
    looks = [settings.look_m]
    if afar:
        # Walls are drawn a cell thicker than they are; a body that does not fit will say so.
        rooms.append(settings.radius - frame.resolution)
        looks.append(settings.look_far_m)
    near = round(settings.near_m / frame.resolution * STRAIGHT)
    cells = [view.cell(frame, seeker.pose) for seeker in seekers]
    prospects = list(
        _threads().map(
            lambda cell: ways_from(
                cell, frontiers, view, rooms=rooms[:1], looks=looks[:1], limit=near
            ),
            cells,
        )
    )
    worth = _worth(seekers, frontiers, view, frame, settings)
    apart = _apart(frontiers, view, settings.sight_m)

    def chosen_of(costs: Costs) -> dict[int, int]:
        if settings.discount_m > 0.0:
            return discounted(costs, apart, most=settings.discount_m, reach=settings.sight_m)
        return assign(costs)

    chosen = chosen_of(_metres(prospects, frame) - worth)
    searched: set[int] = set()
    while idle := set(range(len(seekers))) - set(chosen) - searched:
        order = sorted(idle)
        found = _threads().map(
            lambda index: search(
                seekers[index].pose,
                seekers[index].track,
                frontiers,
                view,
                frame,
                rooms=rooms,
                looks=looks,
            ),
            order,
        )
        for index, prospect in zip(order, found, strict=True):
            prospects[index] = prospect
        searched |= idle
        chosen = chosen_of(_metres(prospects, frame) - worth)
    goals: list[Goal | None] = [None] * len(seekers)
    for index, which in chosen.items():
        goals[index] = _goal(
            seekers[index].pose,
            prospects[index],
            frontiers[which],
            which=which,
            view=view,
            frame=frame,
        )
    helpers = [index for index, goal in enumerate(goals) if goal is None]
    if chosen and helpers and settings.help_m > 0.0 and not afar:
        crowd = np.bincount(list(chosen.values()), minlength=len(frontiers)).astype(np.float64)
        taken = crowd > 0.0
        metres = _metres(prospects, frame)
        for index in helpers:
            costs = np.where(taken, metres[index] + settings.help_m * crowd, np.inf)
            if not np.isfinite(costs).any():
                continue
            which = int(np.argmin(costs))
            crowd[which] += 1.0
            goals[index] = _helping(
                _goal(
                    seekers[index].pose,
                    prospects[index],
                    frontiers[which],
                    which=which,
                    view=view,
                    frame=frame,
                ),
                seekers[index].pose,
                settings.help_back_m,
            )
    return goals


def _apart(frontiers: Sequence[Frontier], view: Survey, reach: float) -> Costs:
    """Return metres between frontiers, infinite beyond a reach or where a wall stands between.

    They are those between the middle cells, (frontiers, frontiers) float64.
    """
    middles = np.array([_middle(frontier) for frontier in frontiers]) + 0.5
    off = (middles[:, None] - middles[None]) * view.resolution
    metres = np.hypot(off[..., 0], off[..., 1])
    return np.where(in_sight(view.open_air, middles, reach / view.resolution), metres, np.inf)


def _middle(frontier: Frontier) -> Cells:
    """Return the frontier's cell that lies nearest to its centroid."""
    off = frontier.cells - np.array(frontier.centroid)
    middle: Cells = frontier.cells[int(np.argmin((off * off).sum(axis=1)))]
    return middle


def _helping(goal: Goal, pose: Pose, back: float) -> Goal:
    """Make a goal one of staying close: its way ends some metres before its target."""
    stations = [(pose.x, pose.y), *goal.path]
    left = way_length(stations) - back
    path: list[Point] = []
    for start, end in pairwise(stations):
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
    return replace(goal, path=tuple(path), helps=True)


@cache
def _threads() -> ThreadPoolExecutor:
    """As many as there are cores: ways are found without the interpreter's lock."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ways")


# Threads do not live on in a forked child: it makes its own.
os.register_at_fork(after_in_child=_threads.cache_clear)


def _metres(prospects: Sequence[Prospect], frame: GridFrame) -> Costs:
    """Return the length of every way, infinite where there is none."""
    ways = np.array([prospect.costs for prospect in prospects])
    back = np.array([[way_length(prospect.back)] for prospect in prospects])
    return np.where(ways == UNREACHED, np.inf, ways * (frame.resolution / STRAIGHT) + back)


def _worth(
    seekers: Sequence[Seeker],
    frontiers: Sequence[Frontier],
    view: Survey,
    frame: GridFrame,
    settings: Settings,
) -> Costs:
    """Weigh what speaks for a frontier, in metres of way, (robots, frontiers) float64."""
    lengths = np.array([frontier.size for frontier in frontiers]) * frame.resolution
    gain = settings.gain * np.minimum(lengths, settings.gain_longest_m)
    if len(seekers) > 1:
        # Far and large goes first, which pays where others do what is near: alone it is slower.
        middles = np.array([_middle(frontier) for frontier in frontiers])
        behind = unknown_in_sight(view.grid, middles, settings.sight_m / view.resolution)
        ground = settings.view_gain * behind * view.resolution**2
        gain += np.minimum(ground, settings.view_gain_most)
    worth = np.tile(gain, (len(seekers), 1))
    owner = np.full(view.grid.shape, -1, np.int32)
    for which, frontier in enumerate(frontiers):
        owner[frontier.cells[:, 0], frontier.cells[:, 1]] = which
    for index, seeker in enumerate(seekers):
        if seeker.goal is not None:
            cells = seeker.goal.cells
            owners = np.unique(owner[cells[:, 0] - view.row0, cells[:, 1] - view.col0])
            worth[index, owners[owners >= 0]] += settings.keep_m
        if seeker.bearing is not None:
            for which, frontier in enumerate(frontiers):
                row, col = frontier.centroid
                x, y = frame.centre(row + view.row0, col + view.col0)
                off = math.atan2(y - seeker.pose.y, x - seeker.pose.x) - seeker.bearing
                worth[index, which] -= settings.divide_m * (1.0 - math.cos(off))
    return worth


def _goal(
    pose: Pose,
    prospect: Prospect,
    frontier: Frontier,
    *,
    which: int,
    view: Survey,
    frame: GridFrame,
) -> Goal:
    """Turn a choice into a way to drive."""
    row, col = (int(index) for index in prospect.targets[which])
    position = view.position(frame, *(prospect.back[-1] if prospect.back else (pose.x, pose.y)))
    way = path_to(prospect.field, prospect.passable, position, (row, col))
    return Goal(
        cells=frontier.cells + np.array((view.row0, view.col0), np.int32),
        target=(row + view.row0, col + view.col0),
        path=(
            *prospect.back,
            *(frame.centre(row + view.row0, col + view.col0) for row, col in way),
        ),
        room=prospect.room,
        look=prospect.look,
        back=len(prospect.back),
    )
