"""`map:rollback`: discard a mission's result files; compensates `map:integrate`."""

import asyncio
from typing import Any

from app.config import get_settings
from app.event_types import MAP_ROLLBACK
from app.missions import artifacts
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().map_stream, event_type=MAP_ROLLBACK)
async def rollback_map(command: Command, _progress: Progress) -> dict[str, Any]:
    """Remove the mission's result files; do nothing if there are none."""
    folder = artifacts.folder_of(get_settings().out_dir, command.payload["mission"])
    await asyncio.to_thread(artifacts.discard, folder)
    return {"discarded": str(folder)}
