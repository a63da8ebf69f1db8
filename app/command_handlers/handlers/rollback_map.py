"""`map:rollback`: discard a mission's merged map; undoes `map:integrate`."""

import asyncio
from typing import Any

from app.config import get_settings
from app.missions import artifacts
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().map_stream, event_type="map:rollback")
async def rollback_map(command: Command, _progress: Progress) -> dict[str, Any]:
    """Remove what was written; right whether anything was or not."""
    place = artifacts.folder(get_settings().out_dir, command.payload["mission"])
    await asyncio.to_thread(artifacts.discard, place)
    return {"discarded": str(place)}
