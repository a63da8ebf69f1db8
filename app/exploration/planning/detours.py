"""Stops on the way: what is cheaper to see now than to come back for.

A robot that drives to its goal leaves small frontiers behind. Each of them is a stop of the routes
at the end. If the way back to it, as these routes measure it, is longer than the detour now by some
factor, the price, the robot views it first. While little is left behind, the price is high: what is
new comes first, and much is seen in passing. The more is left behind, the lower it is, so that the
end does not take longer than all before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.planning.min_max_routes import Metres, plan_routes, route_lengths
from app.exploration.planning.sightings import Indices

_SEGMENT = 5  # stops; the most that are taken on the way at once


@dataclass(frozen=True, slots=True)
class Detour:
    """Stops that a robot visits before its goal.

    Attributes:
        gain: metres that it saves, less the price of the detour.
        robot: index of the robot.
        stops: places, in order.
    """

    gain: float
    robot: int
    stops: tuple[int, ...]


def best_detours(
    start_m: Metres,
    between_m: Metres,
    aims: Sequence[int | None],
    stops: Indices,
    *,
    price: float,
    driven_m: float,
) -> list[Detour]:
    """Find the detours that save more than they cost, at most one for each robot.

    Args:
        start_m: (robots, places) metres from each robot to each place.
        between_m: (places, places) metres between these places.
        aims: the place that each robot drives to, None for a robot that is free for stops now.
        stops: the places that are stops on the way.
        price: metres of way back that a metre of detour has to save, if the routes over all stops are
            as long as what was driven. It falls with the square of their length, to 1 at least.
        driven_m: metres that the team has driven.

    Returns:
        Detours without common stops.
    """
    ahead = np.array([0.0 if aim is None else start_m[at, aim] for at, aim in enumerate(aims)])
    driving = np.array([aim is not None for aim in aims]) & np.isfinite(ahead)
    if not driving.any() or not stops.size:
        return []
    # (robots, places) metres from where a robot will be
    after_m = np.array(
        [start_m[at] if aim is None else between_m[aim] for at, aim in enumerate(aims)]
    )
    later_m = np.where(np.isfinite(start_m) & np.isfinite(ahead)[:, None], after_m, np.inf)
    left = later_m[:, stops], between_m[np.ix_(stops, stops)]
    routes = plan_routes(*left, offset=np.where(np.isfinite(ahead), ahead, 0.0))
    left_m = float(route_lengths(routes, *left).sum())
    price = max(price * (driven_m / left_m) ** 2, 1.0) if left_m else 1.0
    options: list[Detour] = []
    for owner, route in enumerate(routes):
        path = [int(stops[at]) for at in route]
        for first in range(len(path)):
            inner = 0.0
            before_m = between_m[path[first - 1]] if first else after_m[owner]
            for last in range(first, min(first + _SEGMENT, len(path))):
                if last > first:
                    inner += between_m[path[last - 1], path[last]]
                back = before_m[path[first]] + inner
                if last + 1 < len(path):
                    back += between_m[path[last], path[last + 1]] - before_m[path[last + 1]]
                segment = tuple(path[first : last + 1])
                for robot in np.flatnonzero(driving).tolist():
                    for stretch in (segment, segment[::-1]):
                        now = (
                            start_m[robot, stretch[0]]
                            + inner
                            + after_m[robot, stretch[-1]]
                            - ahead[robot]
                        )
                        gain = back - price * now
                        if np.isfinite(gain) and gain > 0.0:
                            options.append(Detour(float(gain), robot, stretch))
    taken: set[int] = set()
    busy: set[int] = set()
    best: list[Detour] = []
    for option in sorted(options, key=lambda option: -option.gain):
        if option.robot not in busy and taken.isdisjoint(option.stops):
            best.append(option)
            busy.add(option.robot)
            taken.update(option.stops)
    return best
