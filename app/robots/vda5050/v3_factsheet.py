"""The factsheet of VDA 5050 version 3.0: what a robot is and can do."""

from typing import Literal

from pydantic import Field

from app.robots.vda5050.v3 import Header, Model


class TypeSpecification(Model):
    """The kind of robot."""

    series_name: str
    kinematics: str = Field("DIFFERENTIAL", alias="mobileRobotKinematics")
    robot_class: str = Field("CARRIER", alias="mobileRobotClass")
    maximum_load_mass: float = Field(0.0, ge=0)
    localization_types: tuple[str, ...] = ("NATURAL",)
    navigation_types: tuple[str, ...] = ("FREELY_NAVIGATING",)


class PhysicalParameters(Model):
    """Metres, metres per second and metres per second squared."""

    minimum_speed: float
    maximum_speed: float
    maximum_acceleration: float
    maximum_deceleration: float
    minimum_height: float | None = 0.0
    maximum_height: float
    width: float
    length: float


class StringLengths(Model):
    """The longest texts that the robot takes; 0 or None for no limit."""

    maximum_message_length: int | None = None
    maximum_id_length: int | None = None
    id_numerical_only: bool | None = None


class ArrayLengths(Model):
    """The most elements that the robot takes; 0 or None for no limit."""

    order_nodes: int | None = Field(None, alias="order.nodes")
    order_edges: int | None = Field(None, alias="order.edges")


class Timing(Model):
    """Seconds."""

    minimum_order_interval: float
    minimum_state_interval: float
    default_state_interval: float | None = None


class ProtocolLimits(Model):
    """What the robot can receive and send."""

    maximum_string_lengths: StringLengths
    maximum_array_lengths: ArrayLengths
    timing: Timing


class OptionalParameter(Model):
    """An optional field that the robot supports or needs."""

    parameter: str
    support: Literal["SUPPORTED", "REQUIRED"]


class ActionParameter(Model):
    """A parameter that an action takes."""

    key: str
    value_data_type: str
    is_optional: bool | None = None


class SupportedAction(Model):
    """An action that the robot can do."""

    action_type: str
    action_description: str | None = None
    action_scopes: tuple[str, ...]
    action_parameters: tuple[ActionParameter, ...] = ()
    pause_allowed: bool = False
    cancel_allowed: bool = False


class ProtocolFeatures(Model):
    """What of the protocol the robot supports."""

    optional_parameters: tuple[OptionalParameter, ...] = ()
    actions: tuple[SupportedAction, ...] = Field((), alias="mobileRobotActions")


class Geometry(Model):
    """Its wheels and envelopes; nothing of it is used."""


class LoadSpecification(Model):
    """What it carries; nothing of it is used."""


class Factsheet(Header):
    """What a robot is and can do: topic `factsheet`, retained."""

    topic = "factsheet"

    type_specification: TypeSpecification
    physical_parameters: PhysicalParameters
    protocol_limits: ProtocolLimits
    protocol_features: ProtocolFeatures
    geometry: Geometry = Field(Geometry(), alias="mobileRobotGeometry")
    load_specification: LoadSpecification = LoadSpecification()

    def action(self, action_type: str) -> SupportedAction | None:
        """Return an action that the robot can do; None if it cannot."""
        known = self.protocol_features.actions
        return next((each for each in known if each.action_type == action_type), None)
