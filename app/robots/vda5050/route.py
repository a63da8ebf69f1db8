"""The orders for one robot: a path and a barrier as nodes and edges, and how they continue.

A mission is one order of a robot, and each drive an update of it. What the robot can drive by the
barrier is released (the base), the rest of the path is not (the horizon).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.exploration.driver import Point

START_DEVIATION_M = 0.1
"""How far from the first node of an order a robot may stand, metres."""

_NODE_DEVIATION_M = 0.05
_GENERATION = 2**16
_ID_PART = 8  # characters of a request id


@dataclass(frozen=True, slots=True)
class Stop:
    """A node of an order that was sent.

    Attributes:
        node_id: Its id.
        sequence_id: And its number in the order.
        x: Metres, map frame.
        y: Metres, map frame.
        actions: As they were sent: they are sent again with the node.
    """

    node_id: str
    sequence_id: int
    x: float
    y: float
    actions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the orders of a robot have come to.

    Attributes:
        order_id: The order; '' before the first one.
        update_id: Of its last message; -1 before the first one.
        number: How many orders the mission has sent to the robot.
        decision: The last node of the base.
        commander: The request whose handler sent the last message.
        epoch: The fencing token of that handler.
    """

    order_id: str = ""
    update_id: int = -1
    number: int = 0
    decision: Stop | None = None
    commander: str = ""
    epoch: int = 0

    def ended(self) -> "Route":
        """Return the route after the order was cancelled: the next message is a new order."""
        return replace(self, order_id="", update_id=-1, decision=None)

    def next_update(self, commander: str, epoch: int) -> int:
        """Return the id of the next message of the order.

        Its upper 16 bits grow when another handler sends it, so that the robot refuses what
        the handler before sends late. The first message of an order has 0.
        """
        if self.update_id < 0:
            return 0
        if (commander, epoch) == (self.commander, self.epoch):
            return self.update_id + 1
        return (self.update_id // _GENERATION + 1) * _GENERATION

    def replaced(self, seen_update_id: int) -> "Route":
        """Return the route as a process continues it that replaces another one.

        Args:
            seen_update_id: The update that the robot reports.
        """
        newest = max(self.update_id, seen_update_id)
        return replace(self, update_id=newest, epoch=-1) if self.update_id >= 0 else self


@dataclass(frozen=True, slots=True)
class DrivePlan:
    """One drive, ready to be sent.

    Attributes:
        route: Where the orders have come to when it is sent.
        message: The order's fields but for the header, by the names of `v3`.
        waypoints: The waypoints of the path that lie in the base.
        whole: Whether the base holds the whole path.
        length: Of the base, metres.
    """

    route: Route
    message: dict[str, Any]
    waypoints: list[Point]
    whole: bool
    length: float


def route_from_dict(values: dict[str, Any]) -> Route:
    """Make a route from its fields as JSON values."""
    decision = values["decision"]
    return Route(**values | {"decision": decision and Stop(**decision)})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a robot takes.

    Attributes:
        speed: Metres per second.
        nodes: The most nodes of a message.
        scans: Whether it does `scan` on nodes.
    """

    speed: float
    nodes: int
    scans: bool


def plan_drive(
    route: Route,
    *,
    at: Point,
    path: Sequence[Point],
    since: float,
    until: float,
    map_id: str,
    limits: Limits,
    request_id: str,
    commander: str,
    epoch: int,
) -> DrivePlan:
    """Plan the message for a drive.

    Args:
        route: Where the orders have come to.
        at: Where the robot stands, metres, map frame.
        path: Waypoints, metres, map frame; at least one.
        since: Mission seconds now.
        until: The barrier, mission seconds.
        map_id: The map that the coordinates are on.
        limits: What the robot takes.
        request_id: Of the drive: the id of the action `scan`.
        commander: The request whose handler sends the drive.
        epoch: The fencing token of that handler.
    """
    path = list(path)[: limits.nodes - 2]
    budget = (until - since) * limits.speed
    reached, length, cut = _cut(at, path, budget)
    new = route.decision is None
    number = route.number + 1 if new else route.number
    order_id = route.order_id if not new else commander if number == 1 else f"{commander}:{number}"
    update_id = route.next_update(commander, epoch)
    # Ids of nodes tell this drive from another one that a replaced process may have sent.
    name = f"{number}-{request_id[:_ID_PART]}"
    first = route.decision or Stop(f"{name}-0", 0, *at)
    points = [(point, True) for point in path[:reached]]
    points += [(cut, True)] if cut else []
    points += [(point, False) for point in path[reached:]]
    scan = {
        "action_type": "scan",
        "action_id": request_id,
        "blocking_type": "HARD",
        "action_parameters": [
            {"key": "from", "value": since},
            {"key": "until", "value": until},
            {"key": "waypoint", "value": cut is None},
        ],
    }
    base_end = reached + (cut is not None)
    stops = [
        Stop(
            f"{name}-{first.sequence_id + 2 * index}",
            first.sequence_id + 2 * index,
            *point,
            [scan] if limits.scans and index == base_end else [],
        )
        for index, (point, _) in enumerate(points, 1)
    ]
    deviation = START_DEVIATION_M if new else _NODE_DEVIATION_M
    nodes = [_node(first, map_id, released=True, deviation=deviation)]
    nodes += [
        _node(stop, map_id, released=released)
        for stop, (_, released) in zip(stops, points, strict=True)
    ]
    edges = [
        {
            "edge_id": f"{name}-{stop.sequence_id - 1}",
            "sequence_id": stop.sequence_id - 1,
            "released": released,
            "maximum_speed": limits.speed,
            "actions": [],
        }
        for stop, (_, released) in zip(stops, points, strict=True)
    ]
    after = Route(order_id, update_id, number, stops[base_end - 1], commander, epoch)
    message = {
        "order_id": order_id,
        "order_update_id": update_id,
        "nodes": nodes,
        "edges": edges,
    }
    return DrivePlan(after, message, path[:reached], cut is None, length)


def _cut(at: Point, path: Sequence[Point], budget: float) -> tuple[int, float, Point | None]:
    """Follow a path for a distance.

    Computes as `SimulatedRobot.drive` does, so that both agree to the last bit on which waypoints
    are reached.

    Returns:
        The number of waypoints that are reached, the metres, and where it ends between two
        waypoints; None for the latter if the whole path is driven.
    """
    driven = 0.0
    for index, point in enumerate(path):
        whole = math.hypot(point[0] - at[0], point[1] - at[1])
        length = min(whole, budget - driven)
        driven += length
        if length < whole:
            share = length / whole
            end = at[0] + share * (point[0] - at[0]), at[1] + share * (point[1] - at[1])
            # A budget that is too small by a rounding error ends at the waypoint itself.
            if end != point:
                return index, driven, end
        at = point
    return len(path), driven, None


def _node(
    stop: Stop, map_id: str, *, released: bool, deviation: float = _NODE_DEVIATION_M
) -> dict[str, Any]:
    return {
        "node_id": stop.node_id,
        "sequence_id": stop.sequence_id,
        "released": released,
        "node_position": {
            "x": stop.x,
            "y": stop.y,
            "map_id": map_id,
            "allowed_deviation_xy": deviation,
        },
        "actions": stop.actions,
    }
