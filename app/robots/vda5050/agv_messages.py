"""What the simulated robot says of itself: its factsheet and its state."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.exploration.driver import Pose
from app.exploration.se2 import wrap
from app.exploration.simulation.simulated_robot import RobotSpec
from app.robots.vda5050 import v3, v3_factsheet
from app.robots.vda5050.order_book import MAX_NODES, OrderBook

DEFAULT_STATE_INTERVAL_S = 10.0
NODE_ACTIONS = frozenset({"scan"})

_SCAN_ACTIONS = frozenset({"scan", "resendScans"})

_MAX_ID_LENGTH = 128
_FULL = 100.0
_PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "scan": {"from": "NUMBER", "until": "NUMBER", "waypoint": "BOOL"},
    "initializePosition": {
        "x": "NUMBER",
        "y": "NUMBER",
        "theta": "NUMBER",
        "mapId": "STRING",
        "lastNodeId": "STRING",
        "seed": "INTEGER",
        "slot": "INTEGER",
    },
    "resendScans": {"sessionId": "STRING", "from": "INTEGER", "to": "INTEGER"},
    "cancelOrder": {"orderId": "STRING"},
    "startPause": {},
    "stopPause": {},
    "stateRequest": {},
    "factsheetRequest": {},
}


def factsheet(
    header: Mapping[str, Any], spec: RobotSpec, *, scans: bool = True
) -> v3_factsheet.Factsheet:
    """Make the factsheet of a simulated robot; with `scans` it has actions for them."""
    actions = [
        {
            "action_type": name,
            "action_scopes": ["NODE" if name in NODE_ACTIONS else "INSTANT"],
            "action_parameters": [
                {"key": key, "value_data_type": kind, "is_optional": True}
                for key, kind in parameters.items()
            ],
        }
        for name, parameters in _PARAMETERS.items()
        if scans or name not in _SCAN_ACTIONS
    ]
    return v3_factsheet.Factsheet.model_validate(
        dict(header)
        | {
            "type_specification": {"series_name": "simulated"},
            "physical_parameters": {
                "minimum_speed": spec.speed,
                "maximum_speed": spec.speed,
                "maximum_acceleration": 1.0,
                "maximum_deceleration": 1.0,
                "maximum_height": 0.3,
                "width": 2 * spec.radius,
                "length": 2 * spec.radius,
            },
            "protocol_limits": {
                "maximum_string_lengths": {"maximum_id_length": _MAX_ID_LENGTH},
                "maximum_array_lengths": {"order_nodes": MAX_NODES, "order_edges": MAX_NODES},
                "timing": {
                    "minimum_order_interval": 0.0,
                    "minimum_state_interval": 0.0,
                    "default_state_interval": DEFAULT_STATE_INTERVAL_S,
                },
            },
            "protocol_features": {"actions": actions},
        }
    )


def state_message(
    header: Mapping[str, Any],
    book: OrderBook,
    *,
    pose: Pose | None,
    map_id: str,
    driving: bool,
    paused: bool,
    instant_actions: Sequence[v3.ActionState],
    charge: float,
    operating_mode: str,
    errors: Sequence[v3.Error],
) -> v3.State:
    """Make the state of a simulated robot.

    Args:
        header: The fields of the header.
        book: Its order.
        pose: Where it is, map frame; None if it does not know.
        map_id: The map.
        driving: Whether it moves.
        paused: Whether it is paused.
        instant_actions: The states of its instant actions.
        charge: Of its battery, percent.
        operating_mode: As the standard names it.
        errors: What is wrong.
    """
    position = None
    if pose is not None:
        # Wrapped only if it must be, as that changes the last digits.
        theta = pose.heading if abs(pose.heading) <= math.pi else wrap(pose.heading)
        at = {"x": pose.x, "y": pose.y, "theta": theta}
        position = at | {"map_id": map_id, "localized": True}
    return v3.State.model_validate(
        dict(header)
        | {
            "order_id": book.order_id,
            "order_update_id": book.order_update_id,
            "last_node_id": book.last_node_id,
            "last_node_sequence_id": book.last_node_sequence_id,
            "node_states": [
                {"node_id": n.node_id, "sequence_id": n.sequence_id, "released": n.released}
                for n in book.nodes
            ],
            "edge_states": [
                {"edge_id": e.edge_id, "sequence_id": e.sequence_id, "released": e.released}
                for e in book.edges
            ],
            "position": position,
            "driving": driving,
            "paused": paused,
            "new_base_request": bool(book.nodes) and not book.base,
            "action_states": list(book.actions.values()),
            "instant_action_states": list(instant_actions),
            "power_supply": {"state_of_charge": charge, "charging": book.idle and charge < _FULL},
            "operating_mode": operating_mode,
            "errors": list(errors),
            "safety_state": {"active_emergency_stop": "NONE", "field_violation": False},
        }
    )
