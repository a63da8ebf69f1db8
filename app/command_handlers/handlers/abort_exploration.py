"""`exploration:abort`: recall a mission's robots; undoes `exploration:perform`."""

from typing import Any

from app.config import get_settings
from app.robots.team import Team
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().exploration_stream, event_type="exploration:abort")
async def abort_exploration(command: Command, _progress: Progress) -> dict[str, Any]:
    """Recall the robots; right whether they drive, stand, were handed back, or are gone."""
    await Team(command).recall()
    return {"recalled": command.payload["robots"]}
