"""Consensus of many registrations: which maps belong together, and where each lies.

All pairs are registered. A consistent set of the accepted registrations is kept, in the spirit of
pairwise consistency maximization (Mangelson et al., ICRA 2018): the transforms around each triangle
must cancel, and the joint pose graph of the rest must fit each of them. Maps are not chained pair
by pair: one solution holds for all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from app.exploration.grid import Grid, GridFrame
from app.exploration.mapping.pose_graph import Edge, PoseGraph
from app.exploration.merging.registration import (
    DEFAULT_GATE,
    Registration,
    RegistrationGate,
    register,
)
from app.exploration.se2 import Transform, between, compose, inverse

_MAX_ERROR_M = 0.3  # a triangle or link with a larger error is inconsistent
_MAX_ERROR_RAD = math.radians(2.0)
_SIGMA_M = 0.03  # standard deviation of a registration, metres
_SIGMA_RAD = 0.004  # standard deviation of a registration, radians

Link = tuple[int, int]
"""Two maps by index, the smaller first; its transform is from the second's frame to the first's."""


@dataclass(frozen=True, slots=True, eq=False)
class MapGroup:
    """Maps that belong together.

    Attributes:
        members: their indices, ascending.
        transforms: (members, 3) from each map's frame to the first member's.
    """

    members: tuple[int, ...]
    transforms: Transform


def group_maps(
    maps: Sequence[tuple[Grid, GridFrame]], gate: RegistrationGate = DEFAULT_GATE
) -> list[MapGroup]:
    """Register all pairs of maps and group those that belong together.

    Args:
        maps: occupancy grids, (rows, cols) int8, each in an unrelated frame.
        gate: what a registration must show to be accepted.

    Returns:
        Groups in the order of their first members; a map that matches no other is a group of one.
    """
    links: dict[Link, Registration] = {}
    for one, two in combinations(range(len(maps)), 2):
        found = register(*maps[one], *maps[two])
        if found is not None and gate.accepts(found):
            links[one, two] = found
    return consistent_groups(
        len(maps), {link: (found.transform, found.walls) for link, found in links.items()}
    )


def consistent_groups(count: int, links: Mapping[Link, tuple[Transform, float]]) -> list[MapGroup]:
    """Keep a consistent set of links and place the maps by all of them jointly.

    Args:
        count: number of maps.
        links: for each, its transform, (3,), and the metres of wall that support it.
    """
    kept = dict(links)
    while True:
        scores = _triangle_scores(kept)
        if not scores:
            groups = [_place_group(members, kept) for members in _components(count, kept)]
            worst = _worst_link(groups, kept)
            if worst is None:
                return groups
            del kept[worst]
        else:
            # Drop the link in the most inconsistent triangles; among equals, that with least wall.
            del kept[min(scores, key=lambda link: (-scores[link], kept[link][1], link))]


def _triangle_scores(links: Mapping[Link, tuple[Transform, float]]) -> dict[Link, int]:
    """Score each link in an inconsistent triangle: inconsistent triangles less consistent ones."""
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
    return math.hypot(off[0], off[1]) <= _MAX_ERROR_M and abs(off[2]) <= _MAX_ERROR_RAD


def _components(count: int, links: Mapping[Link, tuple[Transform, float]]) -> list[list[int]]:
    """Return the maps that links connect, as sorted lists."""
    part = list(range(count))
    for one, two in links:
        old, new = max(part[one], part[two]), min(part[one], part[two])
        part = [new if value == old else value for value in part]
    return [[node for node in range(count) if part[node] == root] for root in sorted(set(part))]


def _place_group(members: list[int], links: Mapping[Link, tuple[Transform, float]]) -> MapGroup:
    """Place connected maps by one joint pose graph."""
    index = {member: place for place, member in enumerate(members)}
    poses: dict[int, Transform] = {members[0]: np.zeros(3)}
    graph = PoseGraph()
    information = np.diag([_SIGMA_M**-2, _SIGMA_M**-2, _SIGMA_RAD**-2])
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
    return MapGroup(tuple(members), graph.solve(guess) if own else guess)


def _worst_link(
    groups: Sequence[MapGroup], links: Mapping[Link, tuple[Transform, float]]
) -> Link | None:
    """Return the link that contradicts the joint solution most, None if all are consistent."""
    at = {
        member: pose
        for group in groups
        for member, pose in zip(group.members, group.transforms, strict=True)
    }
    off = {link: between(links[link][0], between(at[link[0]], at[link[1]])) for link in links}
    wrong = [link for link in links if not _consistent(off[link])]
    return max(wrong, key=lambda link: float(np.hypot(*off[link][:2])), default=None)
