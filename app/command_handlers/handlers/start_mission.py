"""`mission:start`: start a mission for whoever can write to a stream."""

import asyncio
import uuid
from typing import Any

from app.config import get_settings
from app.orchestrator import Mission, run_saga
from sagastream import Command, InvalidMessage, Progress, multi_stage_reply

_KINDS = {str: "text", int: "a whole number", bool: "true or false"}
_FIELDS = {"area", "robot_count", "seed", "known_poses", "idempotency_key"}


@multi_stage_reply(stream=get_settings().mission_stream, event_type="mission:start")
async def start_mission(command: Command, _progress: Progress) -> dict[str, Any]:
    """Start a mission and say its id at once; its end is told by `saga:<id>:replies`.

    The same `idempotency_key` (by default the request's id) is the same mission.

    Raises:
        InvalidMessage: A field is missing, unknown, or of the wrong type.
        BadMission: The number of robots, or the seed.
        MapError: There is no such area.
        SagaError: The key belongs to a mission that was asked for otherwise.
    """
    asked = command.payload
    if unknown := sorted(set(asked) - _FIELDS):
        raise InvalidMessage(unknown[0], f"is not a field; known: {', '.join(sorted(_FIELDS))}")
    mission = Mission(
        _typed(asked, "area", str),
        _typed(asked, "robot_count", int),
        _typed({"seed": 0} | asked, "seed", int),
        _typed({"known_poses": True} | asked, "known_poses", bool),
    )
    key = _typed({"idempotency_key": command.request_id} | asked, "idempotency_key", str)
    await asyncio.to_thread(mission.check)
    handle = await run_saga(
        mission.robot_count,
        mission.area,
        seed=mission.seed,
        known_poses=mission.known_poses,
        saga_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"mission/{key}")),
    )
    return {"saga_id": handle.saga_id}


def _typed(asked: dict[str, Any], name: str, kind: type) -> Any:
    value = asked.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise InvalidMessage(name, f"must be {_KINDS[kind]}")
    return value
