"""A robot's ways to all frontiers: near it, on the whole map, or back on its own track."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from app.exploration.driver import Point, Pose
from app.exploration.grid import GridFrame, Mask
from app.exploration.planning.frontiers import Frontier
from app.exploration.planning.paths import UNREACHED, Cell, Cells, Field, distance_field
from app.exploration.planning.planning_map import Survey

_TARGETS_ACROSS = 5  # places to look from are tried this share of the look apart
_TARGETS_M = 0.3  # or so many metres, for from afar it takes the right place to see through a gap
_BACK_STEP_M = 0.5  # a robot that is boxed in looks so often from its track for a way
_BACK_M = 20.0  # and so far back


@dataclass(frozen=True, slots=True, eq=False)
class Prospect:
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
    def none(cls, frontiers: int) -> "Prospect":
        """A robot that gets nowhere."""
        nowhere = np.zeros((0, 0), np.int32)
        costs = np.full(frontiers, UNREACHED, np.int32)
        return cls(0.0, 0.0, nowhere > 0, nowhere, costs, nowhere)


def ways_from(
    cell: Cell,
    frontiers: Sequence[Frontier],
    view: Survey,
    *,
    rooms: Sequence[float],
    looks: Sequence[float],
    limit: int,
) -> Prospect:
    """Find the ways from a cell, up to a cost; where there are none, with less room, then a far look."""
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
        prospect = Prospect(room, look, passable, field, costs, places)
        if prospect.leads_anywhere:
            return prospect
    return Prospect.none(len(frontiers))


def search(
    pose: Pose,
    track: Sequence[Point],
    frontiers: Sequence[Frontier],
    view: Survey,
    frame: GridFrame,
    *,
    rooms: Sequence[float],
    looks: Sequence[float],
) -> Prospect:
    """Find a robot's ways on the whole map; one that is boxed in goes back the way it came.

    Walls are drawn a cell thicker than they are, and a place where a body was refused is barred:
    a robot may get in where no way is left to get out. It fitted wherever it drove.
    """
    for back in _ways_back(pose, track):
        cell = view.cell_at(frame, *(back[-1] if back else (pose.x, pose.y)))
        prospect = ways_from(cell, frontiers, view, rooms=rooms, looks=looks, limit=UNREACHED)
        if prospect.leads_anywhere:
            return replace(prospect, back=back)
    return Prospect.none(len(frontiers))


def _ways_back(pose: Pose, track: Sequence[Point]) -> Iterator[tuple[Point, ...]]:
    """Yield ways along a robot's own track, each half a metre longer, up to some metres.

    Where the track comes through a point again, what lies between is left out.
    """
    yield ()
    way = [(pose.x, pose.y)]
    told = 0.0
    for point in reversed(track):
        if point in way:
            del way[way.index(point) + 1 :]
            continue
        way.append(point)
        driven = way_length(way)
        if driven >= told + _BACK_STEP_M:
            told = driven
            yield tuple(way[1:])
        if driven >= _BACK_M:
            return


def way_length(points: Sequence[Point]) -> float:
    """Measure a way, metres."""
    return sum(math.dist(start, end) for start, end in pairwise(points))
