"""How far missions are and what they cost so far, by the last stages that were told of them."""

import asyncio
import json
from typing import Any

from app.missions.mission_saga import mission_runner
from app.missions.summaries import row_of
from app.redis_utils import get_bus
from sagastream._codec.entries import decode_fields
from sagastream._redis.connection import entries
from sagastream.saga.journal import Journal

_LAST = 20  # stages that are looked through for one with figures


async def missions_in(status: str) -> list[dict[str, Any]]:
    """Missions in a line, the newest first, with how much is known and how far was driven.

    Args:
        status: Those that are in this state; '' for all.

    Returns:
        The rows of `row_of` with `known` (share of the area's cells, 0 to 1) and `driven_m`
        (metres, of all robots together), each None as long as nothing was told.
    """
    journals = [
        journal
        for journal in reversed(await mission_runner().journals())
        if status in {"", journal.status}
    ]
    return await asyncio.gather(*(_row(journal) for journal in journals))


async def _row(journal: Journal) -> dict[str, Any]:
    explored = journal.results().get("perform_exploration", {})
    figures: dict[str, Any] = {"known": None, "driven_m": None}
    if "distances_m" in explored:
        figures["driven_m"] = sum(explored["distances_m"])
        figures["known"] = journal.results().get("integrate_maps", {}).get("coverage")
    elif journal.entries:
        figures |= await _told(journal.saga_id)
    return row_of(journal) | figures


async def _told(saga_id: str) -> dict[str, Any]:
    bus = get_bus()
    stream = bus.key(f"saga:{saga_id}:replies")
    answer = await bus.command("XREVRANGE", stream, "+", "-", "COUNT", _LAST)
    for _, _, raw in entries([[stream.encode(), answer]]):
        payload = json.loads(decode_fields(raw).get("payload", "{}"))
        robots = payload.get("robots")
        if isinstance(robots, dict):
            driven = sum(robot["driven_m"] for robot in robots.values())
            return {"known": payload.get("fraction"), "driven_m": driven}
    return {}
