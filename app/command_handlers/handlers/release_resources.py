"""`resources:release`: release a mission's robots; compensates `resources:allocate`."""

import logging

from app.config import get_settings
from app.event_types import RESOURCES_RELEASE
from app.robots import fleet
from sagastream import Atomic, Command, Progress, multi_stage_reply

logger = logging.getLogger(__name__)


@multi_stage_reply(
    stream=get_settings().resources_stream, event_type=RESOURCES_RELEASE, effect="atomic"
)
async def release_resources(command: Command, _progress: Progress) -> Atomic:
    """Release all robots that a mission holds, or only `robot`; do nothing if it holds none."""
    payload = command.payload
    names, writes = await fleet.release(payload["mission"], only=payload.get("robot", ""))
    if "reason" in payload:
        logger.warning("%s was released by an operator: %s", payload["robot"], payload["reason"])
    return Atomic({"released": names}, writes)
