"""Routes of several robots over all stops that are left, the longest route as short as possible.

The problem is the min-max multi-depot travelling salesman problem with open routes. A route is
built by cheapest insertion, and improved by the usual local searches: moving segments of up to
three stops within a route and between routes (or-opt), exchanging two stops, and 2-opt within a
route. See França et al., "The m-Traveling Salesman Problem with Minmax Objective"
(Transportation Science 1995).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

Metres = npt.NDArray[np.float64]
"""Path lengths, float64 metres, infinite without a path."""

_Table = npt.NDArray[np.int64]

# The longest route counts by far the most, and a shorter sum decides between equal ones.
_POWER = 8.0
_SUM_WEIGHT = 0.02
_SEGMENT = 3  # stops; the longest segment that or-opt moves
_SWEEPS = 30  # bound of the work of one search
_WORK = 300  # stops; smaller plans are searched from several insertion orders
_MOST_TRIALS = 10
_FAR = 1e7  # metres; no path
_LEAST_GAIN = 1e-9


def plan_routes(
    start: Metres,
    between: Metres,
    *,
    offset: Metres | None = None,
) -> list[list[int]]:
    """Distribute stops over robots and order them.

    Args:
        start: (robots, stops) metres from each robot to each stop.
        between: (stops, stops) metres between stops, symmetric.
        offset: (robots,) metres that each robot has to drive before it can start its route.

    Returns:
        The stops of each robot in order. A stop that no robot reaches is in no route.
    """
    robots, stops = start.shape
    if not robots or not stops:
        return [[] for _ in range(robots)]
    limited = np.minimum(start, _FAR), np.minimum(between, _FAR)
    head_start = np.zeros(robots) if offset is None else offset.astype(np.float64)
    reached = np.asarray((start < _FAR).any(axis=0))
    # The stops that are farthest from all robots shape the routes, so they are inserted first.
    order = np.argsort(-limited[0].min(axis=0), kind="stable")
    random = np.random.default_rng(0)
    best, plan = np.inf, [[0]]
    for _ in range(min(max(_WORK // stops, 1), _MOST_TRIALS)):
        tried = np.zeros((robots, stops + 1), np.int64)
        used = np.zeros(robots, np.int64)
        _insert(tried, used, order[reached[order]], *limited, head_start)
        _improve(tried, used, *limited, head_start)
        lengths = _lengths(tried, used, *limited, head_start)
        value = float(lengths.max()) + _SUM_WEIGHT * float(lengths.sum())
        if value < best:
            best = value
            plan = [[int(stop) for stop in tried[robot, : used[robot]]] for robot in range(robots)]
        order = random.permutation(stops)
    return plan


def _improve(table: _Table, sizes: _Table, start: Metres, between: Metres, offset: Metres) -> None:
    """Search around a plan until nothing there is better."""
    for _ in range(_SWEEPS):
        scale = max(float(_lengths(table, sizes, start, between, offset).max()), 1.0)
        improved = _move_segments(table, sizes, start, between, offset, scale)
        improved |= _exchange(table, sizes, start, between, offset, scale)
        improved |= _two_opt(table, sizes, start, between)
        if not improved:
            return


def route_lengths(
    routes: Sequence[Sequence[int]],
    start: Metres,
    between: Metres,
    *,
    offset: Metres | None = None,
) -> Metres:
    """Return the length of each robot's route, (robots,) metres, its offset included."""
    found = np.zeros(len(routes)) if offset is None else offset.astype(np.float64)
    for robot, route in enumerate(routes):
        for position, stop in enumerate(route):
            found[robot] += between[route[position - 1], stop] if position else start[robot, stop]
    return found


@njit(cache=True, nogil=True)
def _leg(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    table: _Table, start: Metres, between: Metres, robot: int, from_index: int, stop: int
) -> float:
    """Return the metres from a position in a route to a stop; position -1 is the robot itself."""
    if from_index < 0:
        return float(start[robot, stop])
    return float(between[table[robot, from_index], stop])


@njit(cache=True, nogil=True)
def _lengths(
    table: _Table, sizes: _Table, start: Metres, between: Metres, offset: Metres
) -> Metres:
    lengths = offset.copy()
    for robot in range(sizes.size):
        for position in range(sizes[robot]):
            lengths[robot] += _leg(
                table, start, between, robot, position - 1, table[robot, position]
            )
    return lengths


@njit(cache=True, nogil=True)
def _price(length: float, scale: float) -> float:
    share = length / scale
    return float(share**_POWER + _SUM_WEIGHT * share)


@njit(cache=True, nogil=True)
def _detour(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    table: _Table,
    sizes: _Table,
    start: Metres,
    between: Metres,
    robot: int,
    position: int,
    first: int,
    last: int,
) -> float:
    """Return the metres that a route grows by if a segment is put in at a position, less its own."""
    longer = _leg(table, start, between, robot, position - 1, first)
    if position < sizes[robot]:
        after = table[robot, position]
        longer += between[last, after] - _leg(table, start, between, robot, position - 1, after)
    return float(longer)


@njit(cache=True, nogil=True)
def _insert(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    table: _Table, sizes: _Table, missing: _Table, start: Metres, between: Metres, offset: Metres
) -> None:
    """Insert each stop where the route that it makes is shortest."""
    lengths = _lengths(table, sizes, start, between, offset)
    for stop in missing:
        best, to_robot, to_index, added = np.inf, -1, -1, 0.0
        for robot in range(sizes.size):
            if start[robot, stop] >= _FAR:
                continue
            for position in range(sizes[robot] + 1):
                longer = _detour(table, sizes, start, between, robot, position, stop, stop)
                # A longer sum is the smaller evil beside a longer longest route.
                value = lengths[robot] + 2.0 * longer
                if value < best:
                    best, to_robot, to_index, added = value, robot, position, longer
        if to_robot < 0:
            continue
        for position in range(sizes[to_robot], to_index, -1):
            table[to_robot, position] = table[to_robot, position - 1]
        table[to_robot, to_index] = stop
        sizes[to_robot] += 1
        lengths[to_robot] += added


@njit(cache=True, nogil=True)
def _move_segments(  # noqa: C901, PLR0912, PLR0917, compiled: one loop in one function
    table: _Table, sizes: _Table, start: Metres, between: Metres, offset: Metres, scale: float
) -> bool:
    """Move segments, within a route or to another, each to its best position; return if any moved."""
    improved = False
    lengths = _lengths(table, sizes, start, between, offset)
    held = np.zeros(_SEGMENT, np.int64)
    for robot in range(sizes.size):
        for length in range(1, _SEGMENT + 1):
            position = 0
            while position + length <= sizes[robot]:
                inner = 0.0
                for step in range(length):
                    held[step] = table[robot, position + step]
                    if step:
                        inner += between[held[step - 1], held[step]]
                size = sizes[robot]
                before = lengths[robot]
                # Take the segment out.
                for at in range(position, size - length):
                    table[robot, at] = table[robot, at + length]
                sizes[robot] = size - length
                first, last = held[0], held[length - 1]
                without = (
                    before
                    - inner
                    - _detour(table, sizes, start, between, robot, position, first, last)
                )
                best, to_robot, to_index, turned = -_LEAST_GAIN, robot, position, False
                to_length = before
                for other in range(sizes.size):
                    reached = True
                    for step in range(length):
                        if start[other, held[step]] >= _FAR:
                            reached = False
                    if not reached:
                        continue
                    base = without if other == robot else lengths[other]
                    for at in range(sizes[other] + 1):
                        for turn in range(1 if length == 1 else 2):
                            head, tail = (last, first) if turn else (first, last)
                            new = (
                                base
                                + inner
                                + _detour(table, sizes, start, between, other, at, head, tail)
                            )
                            if other == robot:
                                gain = _price(new, scale) - _price(before, scale)
                            else:
                                gain = (
                                    _price(new, scale)
                                    + _price(without, scale)
                                    - _price(before, scale)
                                    - _price(base, scale)
                                )
                            if gain < best:
                                best, to_robot, to_index, turned = gain, other, at, turn == 1
                                to_length = new
                moved = best < -_LEAST_GAIN
                for at in range(sizes[to_robot] - 1, to_index - 1, -1):
                    table[to_robot, at + length] = table[to_robot, at]
                for step in range(length):
                    table[to_robot, to_index + step] = held[length - 1 - step if turned else step]
                sizes[to_robot] += length
                if moved:
                    improved = True
                    lengths[robot] = without
                    lengths[to_robot] = to_length
                if not moved or to_robot == robot:
                    position += 1
    return improved


@njit(cache=True, nogil=True)
def _swapped(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    table: _Table,
    sizes: _Table,
    start: Metres,
    between: Metres,
    robot: int,
    position: int,
    stop: int,
) -> float:
    """Return the metres that a route grows by if the stop at a position is replaced."""
    old = table[robot, position]
    grown = _leg(table, start, between, robot, position - 1, stop) - _leg(
        table, start, between, robot, position - 1, old
    )
    if position + 1 < sizes[robot]:
        after = table[robot, position + 1]
        grown += between[stop, after] - between[old, after]
    return float(grown)


@njit(cache=True, nogil=True)
def _exchange(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    table: _Table, sizes: _Table, start: Metres, between: Metres, offset: Metres, scale: float
) -> bool:
    """Exchange single stops between two routes; return if any were."""
    improved = False
    lengths = _lengths(table, sizes, start, between, offset)
    for one in range(sizes.size):
        for two in range(one):
            for position in range(sizes[one]):
                for other in range(sizes[two]):
                    mine, yours = table[one, position], table[two, other]
                    if start[one, yours] >= _FAR or start[two, mine] >= _FAR:
                        continue
                    first = lengths[one] + _swapped(
                        table, sizes, start, between, one, position, yours
                    )
                    second = lengths[two] + _swapped(table, sizes, start, between, two, other, mine)
                    gain = (
                        _price(first, scale)
                        + _price(second, scale)
                        - _price(lengths[one], scale)
                        - _price(lengths[two], scale)
                    )
                    if gain < -_LEAST_GAIN:
                        table[one, position], table[two, other] = yours, mine
                        lengths[one], lengths[two] = first, second
                        improved = True
    return improved


@njit(cache=True, nogil=True)
def _two_opt(table: _Table, sizes: _Table, start: Metres, between: Metres) -> bool:
    """Reverse parts of routes that get shorter by it; return if any did."""
    improved = False
    for robot in range(sizes.size):
        for first in range(sizes[robot] - 1):
            for last in range(first + 1, sizes[robot]):
                head, tail = table[robot, first], table[robot, last]
                gain = _leg(table, start, between, robot, first - 1, tail) - _leg(
                    table, start, between, robot, first - 1, head
                )
                if last + 1 < sizes[robot]:
                    after = table[robot, last + 1]
                    gain += between[head, after] - between[tail, after]
                if gain < -_LEAST_GAIN:
                    low, high = first, last
                    while low < high:
                        table[robot, low], table[robot, high] = (
                            table[robot, high],
                            table[robot, low],
                        )
                        low += 1
                        high -= 1
                    improved = True
    return improved
