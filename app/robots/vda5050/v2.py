"""The messages of VDA 5050 versions 2.1 and 2.0: what differs from `v3` on the wire.

Values are those of version 3.0 in the code: the mode TEACH_IN is TEACHIN on the wire, for
example. A message is made by validating the fields of a message of `v3`, by name.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from app.robots.vda5050 import v3

_ERROR_TYPES = {
    "VALIDATION_FAILURE": "validationError",
    "UNSUPPORTED_PARAMETER": "orderError",
    "INVALID_ORDER_ACTION": "orderError",
    "OUTDATED_ORDER_UPDATE": "orderUpdateError",
    "SAME_ORDER_UPDATE_ID": "orderUpdateError",
    "ORDER_UPDATE_FOLLOWING_CANCEL": "orderUpdateError",
    "OTHER_ORDER_ACTIVE": "orderError",
    "START_NODE_OUT_OF_RANGE": "orderError",
    "MOBILE_ROBOT_NOT_AVAILABLE": "orderError",
    "UNKNOWN_MAP_ID": "orderError",
    "NO_ROUTE_TO_TARGET": "noRouteError",
    "NO_ORDER_TO_CANCEL": "noOrderToCancel",
    "INVALID_INSTANT_ACTION": "instantActionError",
    "NODE_UNREACHABLE": "nodeUnreachable",
}


def _written(**wire: str) -> PlainSerializer:
    """Write some values of an enumeration by other names."""
    return PlainSerializer(lambda value: wire.get(value, value), when_used="json")


def _renamed(**wire: str) -> tuple[BeforeValidator, PlainSerializer]:
    """Read and write some values of an enumeration by other names."""
    ours = {theirs: name for name, theirs in wire.items()}

    def read(value: Any) -> Any:
        return ours.get(value, value) if isinstance(value, str) else value

    return BeforeValidator(read), _written(**wire)


class NodePosition(v3.NodePosition):
    """Its allowed deviation is a radius."""

    allowed_deviation_xy: float | None = Field(None, ge=0, alias="allowedDeviationXY")


ActionType = Annotated[str, *_renamed(initializePosition="initPosition")]
"""The type of an action, by its name in 3.0."""


class Action(v3.Action):
    """It knows no blocking type SINGLE: HARD is the stricter one."""

    action_type: ActionType
    blocking_type: Annotated[
        Literal["NONE", "SOFT", "SINGLE", "HARD"],
        _written(SINGLE="HARD"),
    ]


class Node(v3.Node):
    """A node of an order."""

    node_position: NodePosition | None = None
    actions: tuple[Action, ...]


class Edge(v3.Edge):
    """An edge that names its ends."""

    start_node_id: str
    end_node_id: str
    maximum_speed: float | None = Field(None, alias="maxSpeed")
    actions: tuple[Action, ...]


class Order(v3.Order):
    """An order or its update."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @model_validator(mode="before")
    @classmethod
    def _name_ends(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Let each edge of an order of `v3` name its ends; on the wire it does."""
        if "order_id" not in data or any("start_node_id" in edge for edge in data["edges"]):
            return data
        nodes = data["nodes"]
        return data | {
            "edges": [
                edge
                | {
                    "start_node_id": nodes[index]["node_id"],
                    "end_node_id": nodes[index + 1]["node_id"],
                }
                for index, edge in enumerate(data["edges"])
            ]
        }


class InstantActions(v3.InstantActions):
    """Actions to execute at once."""

    actions: tuple[Action, ...]


class ActionState(v3.ActionState):
    """How far an action is."""

    action_type: ActionType | None = None
    action_result: str | None = Field(None, alias="resultDescription")


class Position(v3.Position):
    """Where the robot is; the schemas of 2.x do not bound the angle."""

    theta: float
    localized: bool = Field(alias="positionInitialized")


class PowerSupply(v3.PowerSupply):
    """The battery."""

    state_of_charge: float = Field(alias="batteryCharge")


class Error(v3.Error):
    """An error of one of two levels: what lets a robot take new orders is a WARNING."""

    error_type: Annotated[str, _written(**_ERROR_TYPES)]
    error_level: Annotated[
        Literal["WARNING", "URGENT", "CRITICAL", "FATAL"],
        _written(URGENT="WARNING", CRITICAL="WARNING"),
    ]


class SafetyState(v3.SafetyState):
    """Emergency stop: one that is acknowledged by itself counts as MANUAL."""

    active_emergency_stop: Annotated[
        Literal["MANUAL", "REMOTE", "NONE"],
        BeforeValidator(lambda value: "MANUAL" if value == "AUTOACK" else value),
    ] = Field(alias="eStop")


class State(v3.State):
    """All about a robot; instant actions are among the actions."""

    position: Position | None = Field(None, alias="agvPosition")
    action_states: tuple[ActionState, ...]
    instant_action_states: tuple[v3.ActionState, ...] = Field((), exclude=True)
    power_supply: PowerSupply = Field(alias="batteryState")
    operating_mode: Annotated[
        Literal[
            "STARTUP", "AUTOMATIC", "SEMIAUTOMATIC", "INTERVENED", "MANUAL", "SERVICE", "TEACH_IN"
        ],
        _renamed(TEACH_IN="TEACHIN")[0],
        _written(TEACH_IN="TEACHIN", STARTUP="SERVICE", INTERVENED="SEMIAUTOMATIC"),
    ]
    errors: tuple[Error, ...]
    safety_state: SafetyState

    @model_validator(mode="before")
    @classmethod
    def _join_action_states(cls, data: dict[str, Any]) -> dict[str, Any]:
        if "action_states" not in data:
            return data
        joined = [*data["action_states"], *data.get("instant_action_states", ())]
        return data | {"action_states": joined, "instant_action_states": ()}


class Connection(v3.Connection):
    """Whether the robot is connected to the broker."""

    connection_state: Annotated[
        Literal["ONLINE", "OFFLINE", "HIBERNATING", "CONNECTION_BROKEN"],
        _renamed(CONNECTION_BROKEN="CONNECTIONBROKEN")[0],
        _written(CONNECTION_BROKEN="CONNECTIONBROKEN", HIBERNATING="OFFLINE"),
    ]
