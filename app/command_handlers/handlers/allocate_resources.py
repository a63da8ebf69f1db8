"""`resources:allocate`: reserve robots of the fleet for a mission, all or none."""

from app.config import get_settings
from app.event_types import RESOURCES_ALLOCATE
from app.missions.mission import MAX_ROBOTS
from app.robots import fleet
from sagastream import Atomic, Command, InvalidMessage, Progress, multi_stage_reply


@multi_stage_reply(
    stream=get_settings().resources_stream, event_type=RESOURCES_ALLOCATE, effect="atomic"
)
async def allocate_resources(command: Command, _progress: Progress) -> Atomic:
    """Reserve the best robots by battery and distance.

    Raises:
        InvalidMessage: The number of robots is not from 1 to 64.
        RobotsCharging: Fewer robots are charged, and enough will be: the mission tries again.
        TooFewRobots: Fewer robots are available; the error says how many.
    """
    wanted = command.payload.get("robot_count")
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= MAX_ROBOTS:
        raise InvalidMessage("robot_count", f"must be a whole number from 1 to {MAX_ROBOTS}")
    known_poses = command.payload.get("known_poses", True)
    names, writes = await fleet.reserve(command.payload["mission"], wanted, known_poses=known_poses)
    return Atomic({"robots": names}, writes)
