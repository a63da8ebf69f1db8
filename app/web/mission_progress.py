"""The progress of missions for the list: known share of the area and distance driven so far."""

import asyncio
import json
from typing import Any

from app.missions.mission_saga import mission_runner
from app.missions.reports import summary_of
from app.redis_utils import get_bus
from sagastream.saga import Journal

_LAST_STAGES = 20  # newest stages of a mission that are searched for progress figures


async def list_missions(status: str) -> list[dict[str, Any]]:
    """Return the summaries of missions with their progress, newest first.

    Args:
        status: Only missions with this status; '' for all.

    Returns:
        `summary_of` each mission, with `known` (share of the area's cells, 0 to 1; the coverage
        once the mission has ended) and `driven_m` (metres, all robots together). Both are None
        until progress was reported.
    """
    journals = [
        journal
        for journal in reversed(await mission_runner().journals())
        if status in {"", journal.status}
    ]
    return await asyncio.gather(*(_with_progress(journal) for journal in journals))


async def _with_progress(journal: Journal) -> dict[str, Any]:
    explored = journal.results().get("perform_exploration", {})
    progress: dict[str, Any] = {"known": None, "driven_m": None}
    if "distances_m" in explored:
        progress["driven_m"] = sum(explored["distances_m"])
        progress["known"] = journal.results().get("integrate_maps", {}).get("coverage")
    elif journal.entries:
        progress |= await _last_progress(journal.saga_id)
    return summary_of(journal) | progress


async def _last_progress(saga_id: str) -> dict[str, Any]:
    for entry in await get_bus().last_entries(f"saga:{saga_id}:replies", _LAST_STAGES):
        payload = json.loads(entry.fields.get("payload", "{}"))
        robots = payload.get("robots")
        if isinstance(robots, dict):
            driven = sum(robot["driven_m"] for robot in robots.values())
            return {"known": payload.get("fraction"), "driven_m": driven}
    return {}
