"""The messages of VDA 5050 version 3.0 that mission control and its simulated robots use.

All other code uses these names. `v2` has the versions before, as subclasses that differ on the
wire only. Fields that nobody here uses are left out: they are ignored when read, as the standard
foresees for later additions. Optional fields that a robot must obey or refuse are read, so that
it can refuse them.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

ID_CHARACTERS = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What the standard allows in the names of manufacturers and in serial numbers."""

_PI = 3.14159265359  # as the schemas write it


class Model(BaseModel):
    """A part of a message: frozen, with the standard's names on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
    )


class Header(Model):
    """The header of every message.

    Attributes:
        header_id: Grows by 1 with each message of a topic.
        timestamp: ISO 8601, UTC.
        version: Of the protocol.
        manufacturer: Of the robot.
        serial_number: Of the robot.
    """

    topic: ClassVar[str]

    header_id: int = Field(ge=0, lt=2**32)
    timestamp: str = Field(max_length=64)
    version: str = Field(max_length=32)
    manufacturer: str
    serial_number: str


def _radius(value: Any) -> Any:
    """The smaller half axis of an ellipse, so that a robot within it is within the ellipse."""
    return min(float(value["a"]), float(value["b"])) if isinstance(value, dict) else value


def _ellipse(radius: float | None) -> dict[str, float] | None:
    return None if radius is None else {"a": radius, "b": radius, "theta": 0.0}


class NodePosition(Model):
    """Where a node is: metres and radians, on a map.

    Attributes:
        allowed_deviation_xy: Radius in which the node counts as reached, metres.
    """

    x: float
    y: float
    theta: float | None = Field(None, ge=-_PI, le=_PI)
    allowed_deviation_xy: Annotated[
        float | None,
        BeforeValidator(_radius),
        PlainSerializer(_ellipse, when_used="json"),
    ] = Field(None, ge=0, alias="allowedDeviationXY")
    map_id: str


class Parameter(Model):
    """A parameter of an action; its value is any JSON but null."""

    key: str
    value: Any


class Action(Model):
    """What to do on a node, on an edge or at once."""

    action_type: str
    action_id: str
    blocking_type: Literal["NONE", "SOFT", "SINGLE", "HARD"] = "HARD"
    action_parameters: tuple[Parameter, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by key."""
        return {each.key: each.value for each in self.action_parameters}


class Node(Model):
    """A node of an order. Those that are released form the base, the others the horizon."""

    node_id: str
    sequence_id: int = Field(ge=0)
    released: bool
    node_position: NodePosition | None = None
    actions: tuple[Action, ...]


class Edge(Model):
    """An edge of an order, from the node before it to the node after it."""

    edge_id: str
    sequence_id: int = Field(ge=0)
    released: bool
    maximum_speed: float | None = None
    trajectory: dict[str, Any] | None = None
    corridor: dict[str, Any] | None = None
    actions: tuple[Action, ...]


class Order(Header):
    """An order or its update: topic `order`."""

    topic = "order"

    order_id: str
    order_update_id: int = Field(ge=0, lt=2**32)
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


class InstantActions(Header):
    """Actions to execute at once: topic `instantActions`."""

    topic = "instantActions"

    actions: tuple[Action, ...]


class ActionState(Model):
    """How far an action is."""

    action_id: str
    action_type: str | None = None
    action_status: Literal[
        "WAITING", "INITIALIZING", "RUNNING", "PAUSED", "RETRIABLE", "FINISHED", "FAILED"
    ]
    action_result: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the action will not change any more."""
        return self.action_status in {"FINISHED", "FAILED"}


class NodeState(Model):
    """A node that the robot has still to traverse."""

    node_id: str
    sequence_id: int
    released: bool


class EdgeState(Model):
    """An edge that the robot has still to traverse."""

    edge_id: str
    sequence_id: int
    released: bool


class Position(Model):
    """Where the robot is: metres and radians, on a map."""

    x: float
    y: float
    theta: float = Field(ge=-_PI, le=_PI)
    map_id: str
    localized: bool


class PowerSupply(Model):
    """The battery."""

    state_of_charge: float
    charging: bool


class Reference(Model):
    """What an error is about."""

    reference_key: str
    reference_value: str


class Error(Model):
    """An error that the robot reports, at one of four levels."""

    error_type: str
    error_level: Literal["WARNING", "URGENT", "CRITICAL", "FATAL"]
    error_references: tuple[Reference, ...] = ()
    error_description: str | None = None

    def references(self) -> dict[str, str]:
        """Return what it is about, by key."""
        return {each.reference_key: each.reference_value for each in self.error_references}


class SafetyState(Model):
    """Emergency stop and protective field."""

    active_emergency_stop: Literal["MANUAL", "REMOTE", "NONE"]
    field_violation: bool


class State(Header):
    """All about a robot: topic `state`."""

    topic = "state"

    order_id: str
    order_update_id: int
    last_node_id: str
    last_node_sequence_id: int
    node_states: tuple[NodeState, ...]
    edge_states: tuple[EdgeState, ...]
    position: Position | None = Field(None, alias="mobileRobotPosition")
    driving: bool
    paused: bool | None = None
    new_base_request: bool | None = None
    action_states: tuple[ActionState, ...]
    instant_action_states: tuple[ActionState, ...]
    power_supply: PowerSupply
    operating_mode: Literal[
        "STARTUP", "AUTOMATIC", "SEMIAUTOMATIC", "INTERVENED", "MANUAL", "SERVICE", "TEACH_IN"
    ]
    errors: tuple[Error, ...]
    safety_state: SafetyState

    def action(self, action_id: str) -> ActionState | None:
        """Return the state of an action, of an order or at once; None if it is not reported."""
        states = self.action_states + self.instant_action_states
        return next((each for each in states if each.action_id == action_id), None)

    @property
    def idle(self) -> bool:
        """Whether the robot has nothing to drive, nothing to do, and waits for no update."""
        return not self.node_states and not self.edge_states and self.actions_ended

    @property
    def actions_ended(self) -> bool:
        """Whether all actions of the order have ended."""
        return all(each.ended for each in self.action_states)


class Connection(Header):
    """Whether the robot is connected to the broker: topic `connection`, retained."""

    topic = "connection"

    connection_state: Literal["ONLINE", "OFFLINE", "HIBERNATING", "CONNECTION_BROKEN"]
