"""Many maps of unrelated frames: which of them belong together, and where each lies.

All pairs are registered. Of the accepted registrations a consistent set is kept, in the spirit of
pairwise consistency maximization (Mangelson et al., ICRA 2018): around every triangle the motions
must cancel, and the joint pose graph of what is left must agree with each of them. Nothing is
chained from pair to pair: one solution holds for all maps at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from app.exploration.grid import Grid, GridFrame
from app.exploration.mapping.pose_graph import Edge, PoseGraph
from app.exploration.merging.registration import DEFAULT_GATE, Gate, Registration, register
from app.exploration.se2 import Transform, between, compose, inverse

_OFF_M = 0.3  # a triangle or an edge that is further off is not consistent
_OFF_RAD = math.radians(2.0)
_SPREAD_M = 0.03  # of a registration, metres
_SPREAD_RAD = 0.004

Link = tuple[int, int]
"""Two maps by index, the smaller first; its motion is that of the second's frame in the first's."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Maps that belong together.

    Attributes:
        members: their indices, ascending.
        transforms: (members, 3) of each one's frame in the first member's.
    """

    members: tuple[int, ...]
    transforms: Transform


def relate(maps: Sequence[tuple[Grid, GridFrame]], gate: Gate = DEFAULT_GATE) -> list[Group]:
    """Register all pairs of maps and group those that belong together.

    Args:
        maps: occupancy grids, (rows, cols) int8, with frames that have nothing to do with each other.
        gate: what a registration must show.

    Returns:
        Groups in the order of their first members; a map that fits no other is one by itself.
    """
    links: dict[Link, Registration] = {}
    for one, two in combinations(range(len(maps)), 2):
        found = register(*maps[one], *maps[two])
        if found is not None and gate.accepts(found):
            links[one, two] = found
    return agree(len(maps), {link: (found.transform, found.walls) for link, found in links.items()})


def agree(count: int, links: Mapping[Link, tuple[Transform, float]]) -> list[Group]:
    """Keep a consistent set of links and place the maps by all of them jointly.

    Args:
        count: how many maps.
        links: for each, its motion, (3,), and the metres of wall that support it.
    """
    kept = dict(links)
    while True:
        blame = _blame(kept)
        if not blame:
            groups = [_placed(members, kept) for members in _components(count, kept)]
            worst = _worst(groups, kept)
            if worst is None:
                return groups
            del kept[worst]
        else:
            # The link of most bad triangles goes; of several, the one with the least support.
            del kept[min(blame, key=lambda link: (-blame[link], kept[link][1], link))]


def _blame(links: Mapping[Link, tuple[Transform, float]]) -> dict[Link, int]:
    """Count, for each link, the triangles that do not close less those that do, if any does not."""
    bad: dict[Link, int] = {}
    score: dict[Link, int] = {}
    nodes = sorted({node for link in links for node in link})
    for one, two, three in combinations(nodes, 3):
        sides = ((one, two), (two, three), (one, three))
        if not all(side in links for side in sides):
            continue
        around = compose(links[one, two][0], links[two, three][0])
        closes = _consistent(between(links[one, three][0], around))
        for side in sides:
            score[side] = score.get(side, 0) + (-1 if closes else 1)
            if not closes:
                bad[side] = 1
    return {link: score[link] for link in bad}


def _consistent(off: Transform) -> bool:
    return math.hypot(off[0], off[1]) <= _OFF_M and abs(off[2]) <= _OFF_RAD


def _components(count: int, links: Mapping[Link, tuple[Transform, float]]) -> list[list[int]]:
    """Return the maps that links connect, as sorted lists."""
    part = list(range(count))
    for one, two in links:
        old, new = max(part[one], part[two]), min(part[one], part[two])
        part = [new if value == old else value for value in part]
    return [[node for node in range(count) if part[node] == root] for root in sorted(set(part))]


def _placed(members: list[int], links: Mapping[Link, tuple[Transform, float]]) -> Group:
    """Place connected maps by one joint pose graph."""
    index = {member: place for place, member in enumerate(members)}
    poses: dict[int, Transform] = {members[0]: np.zeros(3)}
    graph = PoseGraph()
    information = np.diag([_SPREAD_M**-2, _SPREAD_M**-2, _SPREAD_RAD**-2])
    own = {link: value for link, value in links.items() if link[0] in index}
    while len(poses) < len(members):
        for (one, two), (motion, _) in own.items():
            if one in poses and two not in poses:
                poses[two] = compose(poses[one], motion)
            elif two in poses and one not in poses:
                poses[one] = compose(poses[two], inverse(motion))
    for (one, two), (motion, _) in own.items():
        graph.add(Edge(index[one], index[two], motion, information, trusted=True))
    guess = np.array([poses[member] for member in members])
    return Group(tuple(members), graph.solve(guess) if own else guess)


def _worst(groups: Sequence[Group], links: Mapping[Link, tuple[Transform, float]]) -> Link | None:
    """Return the link that the joint solution contradicts most, if it is not consistent."""
    at = {
        member: pose
        for group in groups
        for member, pose in zip(group.members, group.transforms, strict=True)
    }
    off = {link: between(links[link][0], between(at[link[0]], at[link[1]])) for link in links}
    wrong = [link for link in links if not _consistent(off[link])]
    return max(wrong, key=lambda link: float(np.hypot(*off[link][:2])), default=None)
