"""Goals: a frontier, the place to see it from and the way there; made, judged, chosen jointly.

Pure functions of a survey and of where the robots stand.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, product

import numpy as np

from app.exploration.assignment import Costs, assign, discounted, unknown_in_sight
from app.exploration.driver import Point, Pose
from app.exploration.frontiers import Frontier
from app.exploration.grid import GridFrame, Mask
from app.exploration.planning import (
    STRAIGHT,
    UNREACHED,
    Cell,
    Cells,
    Field,
    clear_length,
    distance_field,
    in_sight,
    path_to,
)
from app.exploration.settings import Settings
from app.exploration.survey import Survey

_ALIVE = 0.3  # a goal stands while this share of its frontier is still frontier
_TARGETS_ACROSS = 5  # places to look from are tried this share of the look apart
_TARGETS_M = 0.3  # or so many metres, for from afar it takes the right place to see through a gap
_BACK_STEP_M = 0.5  # a robot that is boxed in looks so often from its track for a way
_BACK_M = 20.0  # and so far back


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


@dataclass(frozen=True, slots=True, eq=False)
class _Prospect:
    """One robot's ways to all frontiers: (frontiers,) costs and (frontiers, 2) local targets.

    They begin where it stands, or, of a robot that is boxed in, at the end of its way `back`.
    """

    room: float
    look: float
    passable: Mask
    field: Field
    costs: Cells
    targets: Cells
    back: tuple[Point, ...] = ()

    @property
    def leads_anywhere(self) -> bool:
        """Whether there is a way to any frontier."""
        return bool((self.costs < UNREACHED).any())

    @classmethod
    def none(cls, frontiers: int) -> "_Prospect":
        """A robot that gets nowhere."""
        nowhere = np.zeros((0, 0), np.int32)
        costs = np.full(frontiers, UNREACHED, np.int32)
        return cls(0.0, 0.0, nowhere > 0, nowhere, costs, nowhere)


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
            lambda cell: _prospect(
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
            lambda index: _search(seekers[index], frontiers, view, frame, rooms=rooms, looks=looks),
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
    left = _length(stations) - back
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


def _prospect(
    cell: Cell,
    frontiers: Sequence[Frontier],
    view: Survey,
    *,
    rooms: Sequence[float],
    looks: Sequence[float],
    limit: int,
) -> _Prospect:
    """Find a robot's ways; one that finds none makes do with less room, then with a far look."""
    for look, room in product(looks, rooms):
        lookouts = view.lookouts(
            frontiers,
            reach=round(look / view.resolution),
            stride=max(1, round(min(look / _TARGETS_ACROSS, _TARGETS_M) / view.resolution)),
        )
        if limit == UNREACHED and not view.region(room, cell).holds_any(lookouts.anywhere):
            continue
        passable = view.passable(room, cell)
        field = distance_field(passable, cell, limit=limit)
        costs, places = lookouts.cheapest(field)
        prospect = _Prospect(room, look, passable, field, costs, places)
        if prospect.leads_anywhere:
            return prospect
    return _Prospect.none(len(frontiers))


def _search(
    seeker: Seeker,
    frontiers: Sequence[Frontier],
    view: Survey,
    frame: GridFrame,
    *,
    rooms: Sequence[float],
    looks: Sequence[float],
) -> _Prospect:
    """Find a robot's ways on the whole map; one that is boxed in goes back the way it came.

    Walls are drawn a cell thicker than they are, and a place where a body was refused is barred:
    a robot may get in where no way is left to get out. It fitted wherever it drove.
    """
    for back in _ways_back(seeker):
        cell = view.cell_at(frame, *(back[-1] if back else (seeker.pose.x, seeker.pose.y)))
        prospect = _prospect(cell, frontiers, view, rooms=rooms, looks=looks, limit=UNREACHED)
        if prospect.leads_anywhere:
            return replace(prospect, back=back)
    return _Prospect.none(len(frontiers))


def _ways_back(seeker: Seeker) -> Iterator[tuple[Point, ...]]:
    """Yield ways along a robot's own track, each half a metre longer, up to some metres.

    Where the track comes through a point again, what lies between is left out.
    """
    yield ()
    way = [(seeker.pose.x, seeker.pose.y)]
    told = 0.0
    for point in reversed(seeker.track):
        if point in way:
            del way[way.index(point) + 1 :]
            continue
        way.append(point)
        driven = _length(way)
        if driven >= told + _BACK_STEP_M:
            told = driven
            yield tuple(way[1:])
        if driven >= _BACK_M:
            return


def _metres(prospects: Sequence[_Prospect], frame: GridFrame) -> Costs:
    """Return the length of every way, infinite where there is none."""
    ways = np.array([prospect.costs for prospect in prospects])
    back = np.array([[_length(prospect.back)] for prospect in prospects])
    return np.where(ways == UNREACHED, np.inf, ways * (frame.resolution / STRAIGHT) + back)


def _length(points: Sequence[Point]) -> float:
    """Measure a way, metres."""
    return sum(math.dist(start, end) for start, end in pairwise(points))


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
    prospect: _Prospect,
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
