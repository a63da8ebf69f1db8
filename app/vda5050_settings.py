"""The settings of robots that speak VDA 5050; `app.config` adds them to those of the application."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

_PORTS = {"mqtt": 1883, "mqtts": 8883}
# What the standard allows in serial numbers; a slash would be a level of a topic.
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """An MQTT broker.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: Whether the connection is encrypted.
        username: '' for none.
        password: '' for none; not in the representation.
    """

    host: str
    port: int
    tls: bool
    username: str
    password: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read mqtt://[user:password@]host[:port] or mqtts://….

        Raises:
            ValueError: It is not such a URL; the text does not show it, as it has a password.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/"):
            raise ValueError("must be mqtt://[user:password@]host[:port] or mqtts://…")
        try:
            port = parts.port or _PORTS[parts.scheme]
        except ValueError:
            raise ValueError("its port must be a number from 1 to 65535") from None
        return cls(
            parts.hostname,
            port,
            parts.scheme == "mqtts",
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )

    def __repr__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class RobotIdentity:
    """A robot as VDA 5050 names it.

    Attributes:
        manufacturer: Of the robot.
        serial_number: Of the robot.
    """

    manufacturer: str
    serial_number: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read manufacturer/serialNumber.

        Raises:
            ValueError: It is not of that form, or has characters that the standard does not allow.
        """
        parts = text.split("/")
        if len(parts) != len(("manufacturer", "serial")) or not all(map(_ID.fullmatch, parts)):
            raise ValueError(
                f"{text!r:.80} is not manufacturer/serialNumber of letters, digits and _ . : -"
            )
        return cls(*parts)

    @property
    def name(self) -> str:
        """Its name in the fleet."""
        return f"{self.manufacturer}.{self.serial_number}"


class Vda5050Settings(BaseSettings):
    """The settings of the adapter for VDA 5050 and of simulated robots that speak it."""

    vda5050_broker_url: str = Field(
        "",
        repr=False,
        description="URL of the MQTT broker of robots that speak VDA 5050: mqtt:// or mqtts://; none: "
        "there are no such robots.",
    )
    vda5050_broker_url_file: Path | None = Field(
        None, description="File with that URL, instead of `VDA5050_BROKER_URL`."
    )
    vda5050_robots: str = Field(
        "",
        description="Robots to drive, as manufacturer/serialNumber, separated by commas.",
    )
    vda5050_ca_file: Path | None = Field(
        None, description="Certificates that may sign the broker's; none: those of the system."
    )
    vda5050_cert_file: Path | None = Field(
        None, description="Client certificate for the broker, with `VDA5050_KEY_FILE`."
    )
    vda5050_key_file: Path | None = Field(None, description="Key of that certificate.")
    vda5050_interface: str = Field(
        "",
        pattern=r"^[^/+#$]*$",
        description="First level of the topics; none: that of the version, `uagv` or `vda5050`.",
    )
    vda5050_keepalive_s: int = Field(
        15, ge=1, le=3600, description="Seconds between signs of life to the broker."
    )
    vda5050_resend_s: float = Field(
        2.0,
        gt=0,
        description="Seconds without an answer after which an order or an action is sent again.",
    )

    @field_validator("vda5050_broker_url")
    @classmethod
    def _known_broker(cls, value: str) -> str:
        if value:
            BrokerAddress.parse(value)
        return value

    @field_validator("vda5050_robots")
    @classmethod
    def _known_robots(cls, value: str) -> str:
        names = [each.name for each in _identities(value)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two robots would have the name {name} in the fleet")
        return value

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        if bool(self.vda5050_cert_file) != bool(self.vda5050_key_file):
            raise ValueError("VDA5050_CERT_FILE and VDA5050_KEY_FILE: give both or none")
        if self.vda5050_robots and not self.vda5050_broker_url:
            raise ValueError("VDA5050_ROBOTS: needs VDA5050_BROKER_URL, the broker of these robots")
        return self

    @property
    def vda5050_broker(self) -> BrokerAddress | None:
        """The broker; None if there is none."""
        return BrokerAddress.parse(self.vda5050_broker_url) if self.vda5050_broker_url else None

    @property
    def vda5050_identities(self) -> tuple[RobotIdentity, ...]:
        """The robots to drive."""
        return _identities(self.vda5050_robots)


def _identities(value: Any) -> tuple[RobotIdentity, ...]:
    return tuple(RobotIdentity.parse(each.strip()) for each in value.split(",") if each.strip())
