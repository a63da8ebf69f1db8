"""`resources:release`: set free what a mission holds; undoes `resources:allocate`."""

from app import fleet
from app.config import get_settings
from sagastream import Atomic, Command, Progress, multi_stage_reply


@multi_stage_reply(
    stream=get_settings().resources_stream, event_type="resources:release", effect="atomic"
)
async def release_resources(command: Command, _progress: Progress) -> Atomic:
    """Set a mission's robots free; right whether it holds any or not."""
    names, writes = await fleet.release(command.payload["mission"])
    return Atomic({"released": names}, writes)
