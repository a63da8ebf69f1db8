"""The progress of missions for the list: known share of the area and distance driven so far."""

import asyncio
from typing import Any

from app.missions.mission_saga import mission_runner
from app.missions.reports import summary_of
from app.redis_utils import get_bus, payload_of
from sagastream import InvalidMessage, ServerError
from sagastream.saga import Journal

_LARGEST = 1e15  # of the figures that are shown; comparisons with NaN are false
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
        progress["driven_m"] = _sum(explored["distances_m"])
        coverage = journal.results().get("integrate_maps", {}).get("coverage")
        progress["known"] = _number(coverage)
    elif journal.entries:
        newest = await _last_progress(journal.saga_id)
        progress |= {name: newest[name] for name in progress if name in newest}
    return summary_of(journal) | progress


async def driven_of(saga_id: str) -> dict[str, float]:
    """Return how far each robot of a running mission has driven by its newest progress, metres."""
    driven: dict[str, float] = (await _last_progress(saga_id)).get("driven_of", {})
    return driven


async def _last_progress(saga_id: str) -> dict[str, Any]:
    """Return the newest figures; a stage that is malformed has none, nor has a key of another type."""
    try:
        entries = await get_bus().last_entries(f"saga:{saga_id}:replies", _LAST_STAGES)
    except ServerError:
        return {}
    for entry in entries:
        try:
            payload = payload_of(entry.fields.get("payload", "{}"))
        except InvalidMessage:
            continue
        robots = payload.get("robots")
        if not isinstance(robots, dict):
            continue
        driven = _sum([isinstance(r, dict) and r.get("driven_m") for r in robots.values()])
        if driven is not None:
            each = {name: robot["driven_m"] for name, robot in robots.items()}
            return {
                "known": _number(payload.get("fraction")),
                "driven_m": driven,
                "driven_of": each,
            }
    return {}


def _number(value: Any) -> float | None:
    """Return a finite number as it is; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < _LARGEST else None


def _sum(values: Any) -> float | None:
    """Return the sum of finite numbers; None if one is something else."""
    numbers = [_number(value) for value in values] if isinstance(values, list) else [None]
    return None if None in numbers else sum(number for number in numbers if number is not None)
