"""The progress of missions: what is known of the area, and the distance driven so far."""

from typing import Any

from app.redis_utils import get_bus, payload_of
from sagastream import InvalidMessage, ServerError
from sagastream.saga import Journal

_LARGEST = 1e15  # of the figures that are shown; comparisons with NaN are false
_LAST_STAGES = 20  # newest stages of a mission that are searched for progress figures


async def progress_of(journal: Journal) -> dict[str, Any]:
    """Return how far a mission is.

    Returns:
        `known` (share of the area's cells, 0 to 1; the coverage once the mission has ended),
        `known_m2` (square metres), `remaining_s` (simulated seconds, an estimate) and `driven_m`
        (metres, all robots together). Each is None until it was reported.
    """
    explored = journal.results().get("perform_exploration", {})
    progress: dict[str, Any] = dict.fromkeys(("known", "known_m2", "remaining_s", "driven_m"))
    if "distances_m" in explored:
        progress["driven_m"] = _sum(explored["distances_m"])
        coverage = journal.results().get("integrate_maps", {}).get("coverage")
        progress["known"] = _number(coverage)
    elif journal.entries:
        newest = await _last_progress(journal.saga_id)
        progress |= {name: newest[name] for name in progress if name in newest}
    return progress


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
                "known_m2": _number(payload.get("known_m2")),
                "remaining_s": _remaining_s(payload.get("remaining")),
            }
    return {}


def _remaining_s(remaining: Any) -> float | None:
    return _number(remaining.get("seconds")) if isinstance(remaining, dict) else None


def _number(value: Any) -> float | None:
    """Return a finite number as it is; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < _LARGEST else None


def _sum(values: Any) -> float | None:
    """Return the sum of finite numbers; None if one is something else."""
    numbers = [_number(value) for value in values] if isinstance(values, list) else [None]
    return None if None in numbers else sum(number for number in numbers if number is not None)
