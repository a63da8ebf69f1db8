"""Missions as JSON values, the same in the terminal and over HTTP."""

import time
from typing import Any

from app.config import get_settings
from app.missions.mission_saga import mission_saga
from sagastream.saga.journal import Journal, next_action
from sagastream.saga.outcome import outcome_of


def row_of(journal: Journal) -> dict[str, Any]:
    """A mission in a line: where it stands, and what it was asked to do."""
    what = next_action(mission_saga(get_settings()), journal)
    at = f"{'undo ' if what.direction == 'undo' else ''}{what.step.name}" if what else ""
    return {
        "saga_id": journal.saga_id,
        "status": journal.status,
        "area": journal.input.get("area"),
        "robots": journal.input.get("robot_count"),
        "seed": journal.input.get("seed"),
        "known_poses": journal.input.get("known_poses", True),
        "at": at,
        "started": journal.started,
        "age_s": round(time.time() - journal.started, 1),
        "trace_id": outcome_of(journal).trace_id,
    }


def entries_of(journal: Journal) -> list[dict[str, Any]]:
    """Every request of a mission, forward and back, as JSON values."""
    return [
        {
            "step": entry.step,
            "direction": entry.direction,
            "attempt": entry.attempt,
            "status": entry.status,
            "request_id": entry.request_id,
            "duration_s": None if entry.ended is None else round(entry.ended - entry.started, 3),
            "error": entry.error,
        }
        for entry in journal.entries
    ]
