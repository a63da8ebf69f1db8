"""`mission:start`: start a mission by a command, for programs that can write to a stream."""

import asyncio
import uuid
from typing import Any

from app.config import get_settings
from app.event_types import MISSION_START
from app.missions.mission import Mission, run_saga
from sagastream import Command, InvalidMessage, Progress, multi_stage_reply

_TYPE_NAMES = {str: "text", int: "a whole number", bool: "true or false"}
_FIELDS = {
    "area",
    "robot_count",
    "seed",
    "known_poses",
    "approve",
    "until",
    "radio",
    "idempotency_key",
}


@multi_stage_reply(stream=get_settings().mission_stream, event_type=MISSION_START)
async def start_mission(command: Command, _progress: Progress) -> dict[str, Any]:
    """Start a mission and reply with its id at once; `saga:<id>:replies` reports its stages.

    Equal values of `idempotency_key` (by default the request id) start the same mission.

    Raises:
        InvalidMessage: A field is missing, unknown, or of the wrong type.
        BadMission: The number of robots, the seed or the stop rule is out of range.
        MapError: The area is unknown, or its map is invalid.
        SagaError: The key belongs to a mission with other parameters.
    """
    payload = command.payload
    if unknown := sorted(set(payload) - _FIELDS):
        raise InvalidMessage(unknown[0], f"is not a field; known: {', '.join(sorted(_FIELDS))}")
    mission = Mission(
        _checked(payload, "area", str),
        _checked(payload, "robot_count", int),
        _checked({"seed": 0} | payload, "seed", int),
        _checked({"known_poses": True} | payload, "known_poses", bool),
        _checked({"approve": False} | payload, "approve", bool),
        _checked({"until": "everything"} | payload, "until", str),
        _checked({"radio": "perfect"} | payload, "radio", str),
    )
    key = _checked({"idempotency_key": command.request_id} | payload, "idempotency_key", str)
    await asyncio.to_thread(mission.check)
    handle = await run_saga(
        mission.robot_count,
        mission.area,
        seed=mission.seed,
        known_poses=mission.known_poses,
        approve=mission.approve,
        until=mission.until,
        radio=mission.radio,
        saga_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"mission/{key}")),
    )
    return {"saga_id": handle.saga_id}


def _checked(payload: dict[str, Any], name: str, expected: type) -> Any:
    value = payload.get(name)
    if not isinstance(value, expected) or isinstance(value, bool) is not (expected is bool):
        raise InvalidMessage(name, f"must be {_TYPE_NAMES[expected]}")
    return value
