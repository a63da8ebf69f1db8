"""`resources:release`: set free what a mission holds; undoes `resources:allocate`."""

import logging

from app.config import get_settings
from app.robots import fleet
from sagastream import Atomic, Command, Progress, multi_stage_reply

logger = logging.getLogger(__name__)


@multi_stage_reply(
    stream=get_settings().resources_stream, event_type="resources:release", effect="atomic"
)
async def release_resources(command: Command, _progress: Progress) -> Atomic:
    """Set a mission's robots free, or one `robot` of them; right whether it holds any or not."""
    asked = command.payload
    names, writes = await fleet.release(asked["mission"], only=asked.get("robot", ""))
    if "reason" in asked:
        logger.warning("%s is released by hand: %s", asked["robot"], asked["reason"])
    return Atomic({"released": names}, writes)
