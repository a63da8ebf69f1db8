"""How a saga's journal moves: pure functions.

What comes next follows from the declaration and the journal alone (`walk`); nothing here waits,
sends or reads a clock.
"""

import json
from dataclasses import replace
from typing import Any

from sagastream.admission import Priority
from sagastream.retries import RetryPolicy
from sagastream.saga.decisions import decide
from sagastream.saga.definition import Saga, leaves
from sagastream.saga.journal_json import as_json
from sagastream.saga.state import NOW, Journal, JournalEntry, SagaStatus, request_id_of
from sagastream.saga.walk import NextAction, backward, forward

# How long a compensation that no handler begins is tried at least, in seconds: a rolling restart.
UNHANDLED_S = 60.0
# The longest wait before a retry in seconds, unless the first one is longer.
MAX_RETRY_S = 5.0
_MAX_DOUBLINGS = 50


def next_actions(saga: Saga, journal: Journal) -> list[NextAction]:
    """The requests that a saga needs now, those that run included; none when it has ended or waits.

    Steps run in the order of their declaration, branches at the same time. Compensations run in
    reverse, for every step with an intent, the failed or doubtful one included.
    """
    if journal.status == "running":
        return forward(saga, journal).actions
    if journal.status == "compensating":
        return backward(saga, journal).actions
    return []


def next_action(saga: Saga, journal: Journal) -> NextAction | None:
    """The first request that a saga needs now; None if it needs none."""
    return next(iter(next_actions(saga, journal)), None)


def retry_at(journal: Journal, action: NextAction, *, retry_s: float) -> float:
    """When an action may begin, in server time; 0 if it is not a retry.

    Args:
        journal: The journal.
        action: Its next action.
        retry_s: Seconds before the first retry; doubles with each further one.
    """
    last = journal.last(action.step.name, action.direction)
    if not action.failures or last is None or last.ended is None:
        return 0.0
    policy, kind = action.step.retries, str(last.error.get("error_type", ""))
    if action.direction == "forward" and isinstance(policy, RetryPolicy):
        delay_s = policy.delay_s(action.failures, kind, seed=last.request_id)
        return last.ended + (delay_s or 0.0)
    doublings = min(action.failures - 1, _MAX_DOUBLINGS)
    return last.ended + min(max(retry_s, MAX_RETRY_S), retry_s * 2.0**doublings)


def superseded_by(journal: Journal, entry: JournalEntry) -> list[str]:
    """The requests that an entry's request supersedes.

    An attempt supersedes the attempts before it, and a compensation also every forward request
    that did not complete: none of them may have an effect after it.
    """
    return [
        e.request_id
        for e in journal.entries
        if e.kind == "request"
        and e.status != "completed"
        and e.request_id != entry.request_id
        and (
            (e.step, e.direction) == (entry.step, entry.direction)
            or (entry.direction == "undo" and e.direction == "forward")
        )
    ]


def priority_of(action: NextAction, journal: Journal) -> Priority | None:
    """The priority of the command of a step, or of its compensation; None if it has none.

    A compensation whose priority cannot be made has none: it must be sent.

    Raises:
        TypeError: The function of the step makes something else.
        Exception: It may raise anything.
    """
    priority = action.step.priority
    if not callable(priority):
        return priority
    made: object = None
    try:
        made = action.scope.call(priority, journal)
    except Exception:
        if action.direction == "forward":
            raise
    if isinstance(made, Priority):
        return made
    if action.direction == "undo":
        return None
    raise TypeError(f"it made {made!r}, which is not a Priority")


def intend(
    saga: Saga, journal: Journal, action: NextAction, *, now: float, max_attempts: int
) -> Journal:
    """Write the intent of a request; a journal that has this intent is unchanged.

    A request whose payload or priority cannot be made is written as failed.
    """
    step, direction = action.step, action.direction
    last = journal.last(step.name, direction)
    if last and last.attempt == action.attempt:
        return journal
    entry = JournalEntry(
        step=step.name,
        direction=direction,
        attempt=action.attempt,
        request_id=request_id_of(journal.saga_id, step.name, direction, action.attempt),
        payload={},
        started=now,
    )
    make_payload = step.payload
    if direction == "undo" and step.compensation:
        make_payload = step.compensation.payload
    what = "payload"
    try:
        entry = replace(entry, payload=as_json(action.scope.call(make_payload, journal)))
        what = "priority"
        priority_of(action, journal)
    except Exception as failure:  # noqa: BLE001 - a declaration may raise anything
        error = {
            "error_type": type(failure).__name__,
            "message": f"cannot make the {what} of step {step.name!r} ({direction}): {failure!r}"
            + _hint(saga, failure),
            "trace_id": "",
        }
        entry = replace(entry, payload={}, status="failed", error=error, ended=now)
    journal = replace(journal, entries=(*journal.entries, entry))
    return _consequence(saga, journal, entry, max_attempts, now)


def _hint(saga: Saga, failure: Exception) -> str:
    """How to mend a builder that reads the result of a step that did not complete."""
    missing = failure.args[0] if isinstance(failure, KeyError) and failure.args else None
    if missing not in {node.name for node in leaves(saga.steps)}:
        return ""
    return f"; only completed steps have results: use results.get({missing!r})"


def conclude(
    saga: Saga,
    journal: Journal,
    request_id: str,
    *,
    now: float,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    is_skipped: bool = False,
    max_attempts: int,
) -> Journal:
    """Write how a request or a wait ended; a journal that has its end is unchanged.

    Args:
        saga: The declaration.
        journal: The journal.
        request_id: The request, or the id of the wait.
        now: The time.
        result: The payload of its reply, or of the event.
        error: Why it failed.
        is_skipped: Whether a wait has timed out, and the saga goes on.
        max_attempts: How many times a compensation is tried.
    """
    entries = list(journal.entries)
    index = next((i for i, e in enumerate(entries) if e.request_id == request_id), None)
    if index is None or entries[index].status not in {"intended", "waiting"}:
        return journal
    entries[index] = replace(
        entries[index],
        status="failed" if error else "skipped" if is_skipped else "completed",
        result=result or {},
        error=error or {},
        ended=now,
    )
    journal = replace(journal, entries=tuple(entries))
    return _consequence(saga, journal, entries[index], max_attempts, now)


def _consequence(
    saga: Saga, journal: Journal, entry: JournalEntry, max_attempts: int, now: float
) -> Journal:
    """Change the saga's status as the status of one of its entries requires."""
    if journal.is_over or entry.status == "intended":
        return journal
    is_failed_undo = entry.status == "failed" and entry.direction == "undo"
    if is_failed_undo and _is_exhausted(journal, entry, max_attempts):
        if all(action.step.name == entry.step for action in backward(saga, journal).actions):
            return replace(journal, status="stuck")
        # Other branches are still compensated before the saga is stuck.
        exhausted = replace(entry, error=entry.error | {"exhausted": True})
        entries = tuple(exhausted if each is entry else each for each in journal.entries)
        journal = replace(journal, entries=entries)
    return settle(saga, journal, now=now)


def _is_exhausted(journal: Journal, last: JournalEntry, max_attempts: int) -> bool:
    """Whether a compensation whose last attempt failed is not tried again.

    Attempts that no handler began count only when the last one was sent `UNHANDLED_S` after the
    first of them had failed. Both times are in the journal, so every runner decides the same.
    """
    failed = [
        entry
        for entry in journal.entries[journal.resumed :]
        if (entry.step, entry.direction, entry.status) == (last.step, "undo", "failed")
    ]
    unhandled = [entry for entry in failed if entry.error.get("unhandled")]
    if len(failed) - len(unhandled) >= max_attempts:
        return True
    since = unhandled[0].ended if unhandled else None
    return len(failed) >= max_attempts and since is not None and last.started - since >= UNHANDLED_S


def start_compensating(journal: Journal, error: dict[str, Any], *, now: float) -> Journal:
    """Start compensating a running saga; it never runs forward again.

    What runs or waits counts as failed.
    """
    if journal.status != "running":
        return journal
    entries = tuple(
        replace(entry, status="failed", error=error, ended=now)
        if entry.status in {"intended", "waiting"}
        else entry
        for entry in journal.entries
    )
    return replace(journal, status="compensating", error=error, entries=entries)


def settle(saga: Saga, journal: Journal, *, now: float = NOW) -> Journal:
    """Write what needs no request: decisions, and the end of a saga; any other is unchanged."""
    if journal.status == "running":
        journal, outlook = decide(saga, journal, now=now)
        if outlook.state == "done":
            return replace(journal, status="completed")
        if outlook.state == "failed":
            failed = [e.error for e in journal.entries if e.direction == "forward" and e.error]
            journal = start_compensating(journal, failed[-1] if failed else {}, now=now)
    if journal.status == "compensating":
        outlook = backward(saga, journal)
        if not outlook.actions:
            status: SagaStatus = "compensated" if outlook.state == "done" else "stuck"
            return replace(journal, status=status)
    return journal


def resume(journal: Journal) -> Journal:
    """Let a stuck saga try its compensations again; any other is unchanged."""
    if journal.status != "stuck":
        return journal
    return replace(journal, status="compensating", resumed=len(journal.entries))


def event_fields(before: Journal | None, after: Journal) -> dict[str, str]:
    """A move of the journal, as fields of an entry in the journal's stream."""
    fields: dict[str, str] = {"status": after.status}
    known = before.entries if before else ()
    changed = [entry for entry in after.entries if entry not in known]
    if changed:
        entry = next((each for each in changed if each.kind == "request"), changed[-1])
        fields |= {
            "step": entry.step,
            "direction": entry.direction,
            "attempt": str(entry.attempt),
            "request_id": entry.request_id,
            "step_status": entry.status,
            "error": json.dumps(entry.error),
        }
    return fields


def stamp(journal: Journal, now: float) -> Journal:
    """The journal with the server's time for each time that is `NOW`."""
    entries = tuple(
        replace(
            entry,
            started=now if entry.started == NOW else entry.started,
            ended=now if entry.ended == NOW else entry.ended,
        )
        for entry in journal.entries
    )
    return replace(
        journal, started=now if journal.started == NOW else journal.started, entries=entries
    )
