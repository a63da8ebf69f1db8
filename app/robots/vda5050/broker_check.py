"""Checks of the MQTT broker and of the robots at it, for `mission doctor`."""

import asyncio
import json
import ssl
import uuid

import aiomqtt
from aiomqtt.exceptions import MqttConnectError

from app.config import Settings
from app.observability.doctor import Check
from app.robots.vda5050.dialects import DIALECTS
from app.robots.vda5050.mqtt_client import BadBroker, BrokerClient

_TIMEOUT_S = 3.0
_RETAINED_S = 1.0
_NAMED = 5


async def check_broker(settings: Settings) -> list[Check]:
    """Check that the broker takes connections, and that the robots are online there.

    Args:
        settings: Name the broker and the robots; without a broker there is nothing to check.
    """
    if settings.vda5050_broker is None:
        return []
    online: set[str] = set()
    try:
        await _listen(settings, online)
    except (BadBroker, aiomqtt.MqttError, OSError, TimeoutError) as error:
        return [Check("broker", False, f"{settings.vda5050_broker!r}: {_why(error)}", _fix(error))]
    checks = [Check("broker", True, f"{settings.vda5050_broker!r} takes connections")]
    names = [each.name for each in settings.vda5050_identities]
    if not names:
        mend = "set VDA5050_ROBOTS to the robots that missions may use"
        return [*checks, Check("robots at the broker", True, "none are named", mend)]
    away = sorted({*names} - online)
    listed = ", ".join(away[:_NAMED]) + (", …" if len(away) > _NAMED else "")
    detail = f"{len(online)} of {len(names)} are online" + (f"; not {listed}" if away else "")
    mend = (
        "start them, or compare manufacturer, serial number and VDA5050_INTERFACE with their topics"
    )
    return [*checks, Check("robots at the broker", not away, detail, mend if away else "")]


async def _listen(settings: Settings, online: set[str]) -> None:
    """Connect, and note which robots have a retained message that they are online.

    Raises:
        BadBroker: The settings of the broker cannot be used.
        MqttError: The broker refuses the connection.
        OSError: It cannot be reached.
        TimeoutError: It does not answer.
    """
    names = {
        (each.manufacturer, each.serial_number): each.name for each in settings.vda5050_identities
    }
    states: dict[str, str] = {}

    def note(topic: str, payload: bytes) -> None:
        *_, manufacturer, serial_number, _name = topic.split("/")
        name = names.get((manufacturer, serial_number))
        try:
            message = json.loads(payload)
        except ValueError:
            return
        if name and isinstance(message, dict):
            states[name] = str(message.get("connectionState"))

    topics = sorted(
        dialect.topic(robot, "connection", settings.vda5050_interface)
        for robot in settings.vda5050_identities
        for dialect in DIALECTS.values()
    )
    client = BrokerClient(
        settings, identifier=f"doctor-{uuid.uuid4()}", topics=sorted({*topics}), on_message=note
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await client.listen_once(
                _RETAINED_S if topics else 0.0, lambda: len(states) == len(names)
            )
    finally:
        online |= {name for name, state in states.items() if state == "ONLINE"}


def _why(error: Exception) -> str:
    return f"no answer in {_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else str(error)


def _fix(error: Exception) -> str:
    """What to do first about an error."""
    if isinstance(error, BadBroker):
        return "fix the variable that it names"
    if isinstance(error.__cause__ or error.__context__ or error, ssl.SSLError):
        return "set VDA5050_CA_FILE to who signed the broker's certificate, or use its right name"
    if isinstance(error, MqttConnectError):
        return "put a user and a password that the broker knows into VDA5050_BROKER_URL"
    return "start the broker, or set VDA5050_BROKER_URL"
