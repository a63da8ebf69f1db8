"""Missions as JSON values: summary, requests and final report, for the terminal and over HTTP."""

import time
from collections.abc import Mapping
from typing import Any

from app.config import get_settings
from app.missions.approval import is_awaited
from app.missions.mission_saga import APPROVAL, declaration_of, mission_saga
from sagastream.saga import Journal, SagaOutcome, next_action, outcome_of


def summary_of(journal: Journal) -> dict[str, Any]:
    """Return a mission's parameters, status and current step.

    Ages are in seconds, times in seconds since the Unix epoch. Of a mission whose journal this
    release cannot read only the id and the status `unreadable` are known.
    """
    is_readable = journal.status != "unreadable"
    action = next_action(declaration_of(journal), journal)
    current = f"{'undo ' if action.direction == 'undo' else ''}{action.step.name}" if action else ""
    if is_awaited(journal):
        current = APPROVAL
    return {
        "saga_id": journal.saga_id,
        "status": journal.status,
        "area": _given(journal.input, "area", str),
        "robots": _given(journal.input, "robot_count", int),
        "seed": _given(journal.input, "seed", int),
        "known_poses": _given({"known_poses": True} | journal.input, "known_poses", bool)
        if is_readable
        else None,
        "at": current,
        "started": journal.started if is_readable else None,
        "age_s": round(time.time() - journal.started, 1) if is_readable else None,
        "trace_id": outcome_of(journal).trace_id,
    }


def _given(stored: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """Return a value if what is stored is one; else None."""
    value = stored.get(name)
    return value if type(value) in kinds else None


def duration_of(journal: Journal) -> float:
    """Return for how long a mission has run, or ran, in seconds."""
    ends = [entry.ended for entry in journal.entries if entry.ended is not None]
    is_open = journal.status in {"running", "compensating"}
    return max(0.0, (time.time() if is_open else max(ends, default=0.0)) - journal.started)


def result_of(journal: Journal) -> dict[str, float]:
    """Return the coverage and the accuracy of a completed mission, from 0 to 1; {} of another."""
    merged = journal.results().get("integrate_maps", {})
    found: dict[str, float] = {}
    for name in ("coverage", "accuracy"):
        share = merged.get(name)
        if isinstance(share, int | float) and 0 <= share <= 1:
            found[name] = float(share)
    return found


def requests_of(journal: Journal) -> list[dict[str, Any]]:
    """Return every request of a mission, forward and undo, in the order of their intents."""
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


def undone_line(journal: Journal, how_to_continue: str) -> str:
    """Return what of an interrupted mission was undone, in the order in which it was.

    Args:
        journal: The mission.
        how_to_continue: Added if it is still being undone.
    """
    if journal.status == "completed":
        return f"mission {journal.saga_id} had completed; nothing was undone"
    undone = [
        entry.step
        for entry in journal.entries
        if (entry.direction, entry.status) == ("undo", "completed")
    ]
    line = f"undone: {', '.join(undone) or 'nothing'}"
    if journal.status == "compensated":
        return line
    left = [
        step.name
        for step in reversed(declaration_of(journal).every_step())
        if step.compensation and step.name not in undone and journal.last(step.name, "forward")
    ]
    if journal.status == "stuck":
        how_to_continue = f"it is stuck; see: mission resume {journal.saga_id}"
    return f"{line}; not undone yet: {', '.join(left)}; {how_to_continue}"


def final_report(outcome: SagaOutcome, saga_input: dict[str, Any]) -> dict[str, Any]:
    """Return how a mission ended: status, steps, quality of the map, files.

    Coverage and accuracy are from 0 to 1; they are None unless the mission completed.
    """
    merged = outcome.results.get("integrate_maps", {})
    completed = outcome.status == "completed"
    return {
        "saga_id": outcome.saga_id,
        "correlation_id": outcome.correlation_id,
        "trace_id": outcome.trace_id,
        "status": outcome.status,
        "steps": [
            _step_report(step.name, outcome)
            for step in mission_saga(
                get_settings(), approval=saga_input.get("approve") is True
            ).steps
        ],
        "coverage": _given(merged, "coverage", int, float) if completed else None,
        "accuracy": _given(merged, "accuracy", int, float) if completed else None,
        "partial": bool(merged.get("partial")) if completed else None,
        "area": _given(saga_input, "area", str),
        "robots": _given(saga_input, "robot_count", int),
        "duration_s": round(outcome.duration_s, 3),
        "artifacts": (_given(merged, "artifacts", dict) or {}) if completed else {},
        **({"error": outcome.error} if outcome.error else {}),
    }


def _step_report(name: str, outcome: SagaOutcome) -> dict[str, Any]:
    forward = [e for e in outcome.entries if (e.step, e.direction) == (name, "forward")]
    undone = any(
        (e.step, e.direction, e.status) == (name, "undo", "completed") for e in outcome.entries
    )
    if not forward:
        return {"name": name, "status": "not started", "request_id": None, "duration_s": None}
    entry = forward[-1]
    return {
        "name": name,
        "status": "compensated" if undone and entry.status == "completed" else entry.status,
        "request_id": entry.request_id,
        "duration_s": None if entry.ended is None else round(entry.ended - entry.started, 3),
    }
