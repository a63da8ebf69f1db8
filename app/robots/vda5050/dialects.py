"""The versions of VDA 5050 as dialects: topics, and messages to bytes and back."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from app.robots.vda5050 import v2_factsheet, v3, v3_factsheet
from app.vda5050_settings import RobotIdentity

MAX_BYTES = 1024 * 1024
"""The largest message that is read or sent."""

SCAN_TOPIC = "scan"
"""The topic of scans, beside those of the standard."""


class BadMessage(ValueError):
    """A message is malformed; names the topic and the first field that is wrong."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A version of the protocol.

    Attributes:
        version: As in the header of messages.
        interface: First level of the topics, as the standard suggests it.
        major: Second level of the topics.
    """

    version: str
    interface: str
    major: str
    _messages: dict[str, type[v3.Header]] = field(repr=False)

    def topic(self, robot: RobotIdentity, name: str, interface: str = "") -> str:
        """Return the whole topic of a robot's messages.

        Args:
            robot: The robot.
            name: The last level, such as `state`, or a wildcard.
            interface: The first level, if it is not that of the standard.
        """
        first = interface or self.interface
        return f"{first}/{self.major}/{robot.manufacturer}/{robot.serial_number}/{name}"

    def encode(self, message: v3.Header) -> bytes:
        """Return a message of `v3` as bytes of this version."""
        model = self._messages[message.topic]
        fields = message.model_dump(by_alias=False) | {"version": self.version}
        return model.model_validate(fields).model_dump_json(exclude_none=True).encode()

    def decode(self, topic: str, payload: bytes) -> v3.Header:
        """Read a message.

        Args:
            topic: The last level of its topic, such as `state`.
            payload: The bytes.

        Raises:
            BadMessage: It is too long, no JSON object, or does not have what it must.
        """
        if topic not in self._messages:
            raise BadMessage(f"{topic}: no topic of VDA 5050")
        try:
            return self._messages[topic].model_validate(load_object(payload, topic))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise BadMessage(f"{topic}: {name}: {first['msg']}") from None


class HeaderCounter:
    """Makes the headers of the messages that one process sends for one robot.

    Args:
        robot: The robot that they are from or for.
    """

    def __init__(self, robot: RobotIdentity) -> None:
        self._robot = robot
        self._sent: Counter[str] = Counter()

    def next(self, topic: str, version: str = "3.0.0") -> dict[str, Any]:
        """Return the fields of the next header of a topic, by the names of `v3`."""
        number = self._sent[topic]
        self._sent[topic] += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        return {
            "header_id": number % 2**32,
            "timestamp": f"{now}Z",
            "version": version,
            "manufacturer": self._robot.manufacturer,
            "serial_number": self._robot.serial_number,
        }


def load_object(payload: bytes, topic: str) -> dict[str, Any]:
    """Read a JSON object that came by MQTT.

    Raises:
        BadMessage: It is too long, or no JSON object.
    """
    if len(payload) > MAX_BYTES:
        raise BadMessage(f"{topic}: {len(payload)} bytes, more than {MAX_BYTES}")
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"{topic}: no JSON: {error!s:.80}") from None
    if not isinstance(found, dict):
        raise BadMessage(f"{topic}: no JSON object")
    return found


def _dialect(
    version: str, interface: str, major: str, messages: Sequence[type[v3.Header]]
) -> Dialect:
    return Dialect(version, interface, major, {each.topic: each for each in messages})


DIALECTS = {
    "3.0": _dialect(
        *("3.0.0", "vda5050", "v3"),
        (v3.Order, v3.InstantActions, v3.State, v3.Connection, v3_factsheet.Factsheet),
    ),
    "2.1": _dialect("2.1.0", "uagv", "v2", v2_factsheet.MESSAGES_2_1),
    "2.0": _dialect("2.0.0", "uagv", "v2", v2_factsheet.MESSAGES_2_0),
}
"""By major and minor version."""


def dialect_of(topic: str, payload: bytes) -> Dialect:
    """Return the dialect of a message by the version in its header.

    Args:
        topic: The last level of its topic, for the error.
        payload: The bytes.

    Raises:
        BadMessage: It has no version, or one that is not known.
    """
    version = load_object(payload, topic).get("version")
    found = DIALECTS.get(".".join(str(version).split(".")[:2]))
    if found is None:
        known = ", ".join(DIALECTS)
        raise BadMessage(f"{topic}: version: {version!r:.40} is not one of {known}")
    return found
