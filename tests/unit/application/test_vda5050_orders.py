"""Orders of VDA 5050: what a robot accepts, and what mission control sends."""

import itertools
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exploration.driver import Pose
from app.exploration.grid import FloorMap, GridFrame
from app.exploration.simulation.simulated_robot import SimulatedRobot
from app.robots.vda5050 import v3
from app.robots.vda5050.order_book import Abilities, OrderBook, Refused
from app.robots.vda5050.route import DrivePlan, Limits, Route, Stop, plan_drive, route_from_dict

_ABILITIES = Abilities(frozenset({"scan"}), 0.5)
_NO_ROUTE = Route()
_HOME = v3.Position(x=0.0, y=0.0, theta=0.0, map_id="room", localized=True)
_LIMITS = Limits(speed=0.5, nodes=100, scans=True)
_HEADER = {
    "header_id": 0,
    "timestamp": "2026-11-26T10:00:00.000Z",
    "version": "3.0.0",
    "manufacturer": "acme",
    "serial_number": "agv-1",
}


def _message(plan: DrivePlan) -> v3.Order:
    return v3.Order.model_validate(_HEADER | plan.message)


def _planned(route: Route = _NO_ROUTE, request: str = "d1", **changes: Any) -> DrivePlan:
    given: dict[str, Any] = {
        "at": (0.0, 0.0),
        "path": [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)],
        "since": 0.0,
        "until": 3.0,
        "map_id": "room",
        "limits": _LIMITS,
        "commander": "explore",
        "epoch": 7,
    }
    return plan_drive(route, request_id=request, **given | changes)


def _position(x: float = 0.0, y: float = 0.0, map_id: str = "room") -> v3.Position:
    return v3.Position(x=x, y=y, theta=0.0, map_id=map_id, localized=True)


def _accept(book: OrderBook, plan: DrivePlan, position: v3.Position | None = _HOME) -> bool:
    return book.accept(_message(plan), _ABILITIES, position=position)


def _drive(book: OrderBook) -> None:
    """Carry the base out."""
    while book.base:
        for action in book.traverse().actions:
            book.set_action(action.action_id, "FINISHED", "1")


def _error_of(book: OrderBook, order: v3.Order, **options: Any) -> v3.Error:
    before = (book.order_id, book.order_update_id, list(book.nodes), dict(book.actions))
    with pytest.raises(Refused) as caught:
        book.accept(order, _ABILITIES, **{"position": _position()} | options)
    after = (book.order_id, book.order_update_id, list(book.nodes), dict(book.actions))
    assert after == before
    references = caught.value.error.references()
    assert references["orderId"] == order.order_id
    assert references["orderUpdateId"] == str(order.order_update_id)
    return caught.value.error


def test_the_barrier_ends_the_base() -> None:
    """What can be driven by then is released, with a node between two waypoints; the rest is not."""
    plan = _planned()
    nodes = plan.message["nodes"]
    assert [(n["node_position"]["x"], n["node_position"]["y"]) for n in nodes] == [
        *[(0.0, 0.0), (1.0, 0.0), (1.0, 0.5)],
        *[(1.0, 1.0), (0.0, 1.0)],
    ]
    assert [node["released"] for node in nodes] == [True, True, True, False, False]
    assert [edge["released"] for edge in plan.message["edges"]] == [True, True, False, False]
    assert [node["node_id"] for node in nodes if node["actions"]] == [plan.route.decision.node_id]  # type: ignore[union-attr]
    assert (plan.waypoints, plan.whole, plan.length) == ([(1.0, 0.0)], False, 1.5)
    whole = _planned(until=6.0)
    assert whole.whole
    assert all(node["released"] for node in whole.message["nodes"])


def test_the_next_drive_continues_the_order_where_its_base_ended() -> None:
    """The decision point is sent again as it was, and the horizon is replaced."""
    book, first = OrderBook(), _planned()
    assert _accept(book, first)
    assert [node.released for node in book.nodes] == [True, True, False, False]
    _drive(book)
    assert not book.idle, "the horizon waits for an update"
    second = _planned(first.route, "d2", at=(1.0, 0.5), path=[(1.0, 1.0)], since=3.0, until=9.0)
    assert second.message["order_id"] == "explore"
    assert second.message["order_update_id"] == 1
    assert second.message["nodes"][0] == first.message["nodes"][2]
    assert _accept(book, second)
    assert [node.sequence_id for node in book.nodes] == [6]
    assert book.actions["d1"].action_status == "FINISHED"
    assert book.actions["d2"].action_status == "WAITING"
    _drive(book)
    assert book.idle


def test_the_same_message_again_is_ignored() -> None:
    """While it is driven, and after it was: nothing is driven twice."""
    book, plan = OrderBook(), _planned()
    assert _accept(book, plan)
    assert not _accept(book, plan)
    _drive(book)
    assert not _accept(book, plan)
    assert not book.base
    changed = _planned(path=[(0.5, 0.0)])
    assert _error_of(book, _message(changed)).error_type == "SAME_ORDER_UPDATE_ID"


def test_an_update_of_a_replaced_handler_is_refused_by_the_robot() -> None:
    """Its number is lower, however many updates it has sent, and also after a cancel."""
    book, first = OrderBook(), _planned()
    _accept(book, first)
    _drive(book)
    late = _planned(first.route, "d2", at=(1.0, 0.5), since=3.0)
    newer = _planned(first.route, "d3", at=(1.0, 0.5), since=3.0, epoch=8)
    assert newer.route.update_id == 2**16
    assert _accept(book, newer)
    assert _error_of(book, _message(late)).error_type == "OUTDATED_ORDER_UPDATE"
    assert list(book.actions) == ["d1", "d3"]
    later = newer.route
    for number in range(3):
        assert later.next_update("explore", 8) == 2**16 + number + 1
        later = _planned(later, f"d{number + 4}", at=(1.0, 0.5), epoch=8).route
    assert later.next_update("other", 9) == 2 * 2**16
    assert later.replaced(2**16 + 9).next_update("explore", 8) == 2 * 2**16
    book.clear()
    assert _error_of(book, _message(late)).error_type == "OUTDATED_ORDER_UPDATE"


def test_a_cancelled_order_takes_no_update_and_comes_back_as_no_new_order() -> None:
    """The next one has another id; an old one is refused even where it began."""
    book, first = OrderBook(), _planned()
    _accept(book, first)
    book.clear()
    assert book.idle
    assert book.actions["d1"].action_status == "FAILED"
    update = _message(_planned(first.route, "d2", at=(1.0, 0.5)))
    assert _error_of(book, update).error_type == "ORDER_UPDATE_FOLLOWING_CANCEL"
    second = _planned(first.route.ended(), "d3")
    assert second.message["order_id"] == "explore:2"
    assert _accept(book, second)
    _drive(book)
    book.clear()
    third = _planned(second.route.ended(), "d4")
    assert _accept(book, third)
    book.clear()
    for old in (first, second):
        assert _error_of(book, _message(old)).error_type == "OUTDATED_ORDER_UPDATE"


def test_other_orders_are_refused_as_the_standard_says() -> None:
    """Each with its error; what the robot has goes on."""
    book, first = OrderBook(), _planned()
    far = _position(5.0, 0.0)
    assert _error_of(book, _message(first), position=far).error_type == "START_NODE_OUT_OF_RANGE"
    elsewhere = _position(map_id="office")
    assert _error_of(book, _message(first), position=elsewhere).error_type == "UNKNOWN_MAP_ID"
    assert _error_of(book, _message(first), position=None).error_type == "UNKNOWN_MAP_ID"
    error = _error_of(book, _message(first), available=False)
    assert error.error_type == "MOBILE_ROBOT_NOT_AVAILABLE"
    update = _message(first).model_copy(update={"order_update_id": 3})
    assert _error_of(book, update).error_type == "OUTDATED_ORDER_UPDATE"
    _accept(book, first)
    other = _message(first).model_copy(update={"order_id": "other"})
    assert _error_of(book, other).error_type == "OTHER_ORDER_ACTIVE"
    elsewhere_update = _planned(
        Route("explore", 0, 1, Stop("1-2", 2, 1.0, 0.0), "explore", 7), "d2", at=(1.0, 0.0)
    )
    assert _error_of(book, _message(elsewhere_update)).error_type == "VALIDATION_FAILURE"


@pytest.mark.parametrize(
    ("change", "error_type"),
    [
        ({"nodes": ()}, "VALIDATION_FAILURE"),
        ({"edges": ()}, "VALIDATION_FAILURE"),
        ({"order_id": ""}, "VALIDATION_FAILURE"),
        ({"node.sequence_id": 3}, "VALIDATION_FAILURE"),
        ({"node.released": False}, "VALIDATION_FAILURE"),
        ({"edge.released": False}, "VALIDATION_FAILURE"),
        ({"node.node_position": None}, "VALIDATION_FAILURE"),
        ({"edge.trajectory": {"controlPoints": []}}, "UNSUPPORTED_PARAMETER"),
        ({"edge.corridor": {"leftWidth": 1, "rightWidth": 1}}, "UNSUPPORTED_PARAMETER"),
        ({"edge.maximum_speed": 0.1}, "UNSUPPORTED_PARAMETER"),
        (
            {"edge.actions": (v3.Action(action_type="scan", action_id="a"),)},
            "INVALID_ORDER_ACTION",
        ),
        (
            {"node.actions": (v3.Action(action_type="pick", action_id="a"),)},
            "INVALID_ORDER_ACTION",
        ),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(
    change: dict[str, Any], error_type: str
) -> None:
    """Whole: none of its nodes is driven."""
    order = _message(_planned())
    ((name, value),) = change.items()
    part, _, field = name.partition(".")
    if field:
        parts = list(getattr(order, f"{part}s"))
        parts[1] = parts[1].model_copy(update={field: value})
        if name == "node.released":
            parts[2] = parts[2].model_copy(update={field: True})
        name, value = f"{part}s", tuple(parts)
    order = order.model_copy(update={name: value})
    assert _error_of(OrderBook(), order).error_type == error_type


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=4),
            st.floats(0, 20),
            st.sampled_from(["drive", "repeat", "cancel", "replace"]),
        ),
        max_size=8,
    )
)
def test_any_sequence_of_drives_is_accepted_and_each_done_once(
    drives: list[tuple[list[tuple[float, float]], float, str]],
) -> None:
    """With repeated messages, cancels and replaced handlers between them, also after a restart."""
    book, route, at, since, epoch = OrderBook(), Route(), (0.0, 0.0), 0.0, 1
    done: list[str] = []
    for number, (path, seconds, event) in enumerate(drives):
        plan = _planned(
            route,
            f"d{number}",
            at=at,
            path=path,
            since=since,
            until=since + seconds,
            epoch=epoch,
        )
        route, since = plan.route, since + seconds
        assert route_from_dict(json.loads(json.dumps(asdict(route)))) == route
        assert route.decision is not None
        assert _accept(book, plan, _position(*at))
        for _ in range(2 if event == "repeat" else 0):
            assert not _accept(book, plan, _position(*at))
        _drive(book)
        done.append(f"d{number}")
        at = (route.decision.x, route.decision.y)
        if event == "cancel":
            book.clear()
            route = route.ended()
        epoch += event == "replace"
    finished = [key for key, state in book.actions.items() if state.action_status == "FINISHED"]
    assert finished == done[len(done) - len(finished) :]


def test_an_order_and_the_robot_agree_on_what_is_reached() -> None:
    """A barrier that is exactly as far away as a waypoint may be a rounding error too early."""
    floor = FloorMap("hall", np.zeros((240, 240), np.int8), GridFrame(240, 240, 0.05))
    random = np.random.default_rng(7)
    early = 0
    for _ in range(300):
        cells = random.integers(20, 220, (3, 2)).tolist()
        places = [floor.frame.centre(row, col) for row, col in cells]
        robot = SimulatedRobot(floor, slot=0, seed=1)
        robot.deploy(Pose(*places[0]))
        since = float(random.uniform(0.0, 50.0))
        robot.drive((), since)
        lengths = [math.dist(one, two) for one, two in itertools.pairwise(places)]
        wanted = sum(lengths[: int(random.integers(1, 3))])
        until = since + wanted / 0.5
        early += (until - since) * 0.5 < wanted

        plan = _planned(at=places[0], path=places[1:], since=since, until=until)
        report = robot.drive(places[1:], until)

        assert (len(plan.waypoints), plan.whole) == (report.reached, report.arrived)
    assert early
