"""`resources:release`: set free what a mission holds; undoes `resources:allocate`."""

from typing import Any

from app import fleet
from app.config import get_settings
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().resources_stream, event_type="resources:release")
async def release_resources(command: Command, _progress: Progress) -> dict[str, Any]:
    """Set a mission's robots free; right whether it holds any or not."""
    return {"released": await fleet.release(command.payload["mission"])}
