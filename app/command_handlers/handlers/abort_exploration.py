"""`exploration:abort`: recall a mission's robots; compensates `exploration:perform`."""

from typing import Any

from app.config import get_settings
from app.event_types import EXPLORATION_ABORT
from app.robots.team import Team
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().exploration_stream, event_type=EXPLORATION_ABORT)
async def abort_exploration(command: Command, _progress: Progress) -> dict[str, Any]:
    """Recall the robots, whether they drive, stand, were released, or are lost."""
    await Team(command).recall()
    return {"recalled": command.payload["robots"]}
