"""The factsheet of VDA 5050 version 2, and what version 2.0 has otherwise than 2.1."""

from typing import Annotated, Any

from pydantic import Field, PlainSerializer, model_validator

from app.robots.vda5050 import v2, v3, v3_factsheet

_KINEMATICS = {"DIFFERENTIAL": "DIFF", "OMNIDIRECTIONAL": "OMNI", "THREE_WHEEL": "THREEWHEEL"}
_NAVIGATION = {"FREELY_NAVIGATING": "AUTONOMOUS"}


class TypeSpecification(v3_factsheet.TypeSpecification):
    """The kind of robot."""

    kinematics: Annotated[
        str, PlainSerializer(lambda value: _KINEMATICS.get(value, value), when_used="json")
    ] = Field(alias="agvKinematic")
    robot_class: str = Field(alias="agvClass")
    maximum_load_mass: float = Field(alias="maxLoadMass")
    navigation_types: Annotated[
        tuple[str, ...],
        PlainSerializer(
            lambda values: [_NAVIGATION.get(value, value) for value in values], when_used="json"
        ),
    ]


class PhysicalParameters(v3_factsheet.PhysicalParameters):
    """Metres, metres per second and metres per second squared."""

    minimum_speed: float = Field(alias="speedMin")
    maximum_speed: float = Field(alias="speedMax")
    maximum_acceleration: float = Field(alias="accelerationMax")
    maximum_deceleration: float = Field(alias="decelerationMax")
    minimum_height: float | None = Field(None, alias="heightMin")
    maximum_height: float = Field(alias="heightMax")


class StringLengths(v3_factsheet.StringLengths):
    """The longest texts that the robot takes."""

    maximum_message_length: int | None = Field(None, alias="msgLen")
    maximum_id_length: int | None = Field(None, alias="idLen")


class Timing(v3_factsheet.Timing):
    """Seconds."""

    minimum_order_interval: float = Field(alias="minOrderInterval")
    minimum_state_interval: float = Field(alias="minStateInterval")


class ProtocolLimits(v3_factsheet.ProtocolLimits):
    """What the robot can receive and send."""

    maximum_string_lengths: StringLengths = Field(alias="maxStringLens")
    maximum_array_lengths: v3_factsheet.ArrayLengths = Field(alias="maxArrayLens")
    timing: Timing


class SupportedAction(v3_factsheet.SupportedAction):
    """An action that the robot can do."""

    action_type: v2.ActionType


class ProtocolFeatures(v3_factsheet.ProtocolFeatures):
    """What of the protocol the robot supports."""

    actions: tuple[SupportedAction, ...] = Field(alias="agvActions")


class Factsheet(v3_factsheet.Factsheet):
    """What a robot is and can do; the schemas demand no id and no time of it."""

    header_id: int = 0
    timestamp: str = ""
    type_specification: TypeSpecification
    physical_parameters: PhysicalParameters
    protocol_limits: ProtocolLimits
    protocol_features: ProtocolFeatures
    geometry: v3_factsheet.Geometry = Field(alias="agvGeometry")


class NodePosition20(v2.NodePosition):
    """The schema of 2.0 writes its allowed deviation in another way than the text."""

    allowed_deviation_xy: float | None = Field(None, ge=0, alias="allowedDeviationXy")


class Node20(v2.Node):
    """A node of an order."""

    node_position: NodePosition20 | None = None


class Order20(v2.Order):
    """An order or its update."""

    nodes: tuple[Node20, ...]


class InstantAction20(v2.Action):
    """The text of 2.0 names `actionType`, its schema demands `actionName`: it has both."""

    action_name: v2.ActionType = ""

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: dict[str, Any]) -> dict[str, Any]:
        name = data.get("action_type") or data.get("actionType") or data.get("actionName")
        return data if name is None else data | {"actionType": name, "action_name": name}


class InstantActions20(v2.InstantActions):
    """Actions to execute at once; the schema demands no header.

    The repository of 2.0 names the list `actions`, widespread implementations `instantActions`: both
    are sent, with the same ids, and either is read.
    """

    header_id: int = 0
    timestamp: str = ""
    version: str = "2.0.0"
    manufacturer: str = ""
    serial_number: str = ""
    actions: tuple[InstantAction20, ...] = ()
    instant_actions: tuple[v2.Action, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _join(cls, data: dict[str, Any]) -> dict[str, Any]:
        if "header_id" in data:
            return data | {"instant_actions": data["actions"]}
        return data | {"actions": data.get("actions") or data.get("instantActions") or []}


MESSAGES_2_1: tuple[type[v3.Header], ...] = (
    *(v2.Order, v2.InstantActions, v2.State, v2.Connection),
    Factsheet,
)
MESSAGES_2_0: tuple[type[v3.Header], ...] = (
    *(Order20, InstantActions20, v2.State, v2.Connection),
    Factsheet,
)
