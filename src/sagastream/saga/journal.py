"""How a saga's journal moves: pure functions.

The next action follows from the journal alone; nothing here waits, sends or reads a clock.
"""

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from sagastream._codec.payload import encode_payload
from sagastream._codec.validation import derived_id
from sagastream.message import Payload
from sagastream.retries import RetryPolicy
from sagastream.saga.definition import Saga, Step, input_converter
from sagastream.saga.journal_json import MAX_JOURNAL_BYTES
from sagastream.saga.state import (
    NOW,
    Direction,
    Journal,
    JournalEntry,
    SagaStatus,
)

# How long a compensation that no handler begins is tried at least, in seconds: a rolling restart.
UNHANDLED_S = 60.0
# The longest wait before a retry in seconds, unless the first one is longer.
MAX_RETRY_S = 5.0
_MAX_DOUBLINGS = 50
# A payload that does not fit today does not fit at the next attempt either.
_NOT_RETRIED = frozenset({"InvalidPayload", "InvalidMessage"})


@dataclass(frozen=True, slots=True)
class NextAction:
    """The one request that a saga needs next.

    Attributes:
        step: The step.
        direction: `forward`, or `undo` for its compensation.
        attempt: From 1.
        failures: How many times it has failed; `undo` counts from the last resume.
    """

    step: Step
    direction: Direction
    attempt: int
    failures: int = 0


def as_json(payload: Payload, field: str = "payload") -> dict[str, Any]:
    """A payload as it is kept in a journal: a model becomes a dict.

    Raises:
        InvalidMessage: It is not JSON, or too large.
    """
    text = encode_payload(payload, field=field, max_bytes=MAX_JOURNAL_BYTES)
    kept: dict[str, Any] = json.loads(text)
    return kept


def request_id_of(saga_id: str, step: str, direction: Direction, attempt: int) -> str:
    """The identity of a saga's request: the same for every runner that would send it."""
    return derived_id(f"saga/{saga_id}/{step}/{direction}/{attempt}")


def next_action(saga: Saga, journal: Journal) -> NextAction | None:
    """The next action of a saga; None when it has ended.

    Steps run in the order of their declaration. Compensations run strictly in reverse, for every
    step with an intent, the failed or doubtful one included.
    """
    if journal.status == "running":
        for step in saga.steps:
            action = _next_action_of(step, "forward", journal)
            if action:
                return action
    if journal.status == "compensating":
        for step in reversed(saga.steps):
            if step.compensation is None or journal.last(step.name, "forward") is None:
                continue
            action = _next_action_of(step, "undo", journal)
            if action:
                return action
    return None


def _next_action_of(step: Step, direction: Direction, journal: Journal) -> NextAction | None:
    entry = journal.last(step.name, direction)
    if entry is None:
        return NextAction(step, direction, 1)
    if entry.status == "completed":
        return None
    failures = journal.failures(step.name, direction)
    return NextAction(step, direction, entry.attempt + (entry.status == "failed"), failures)


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
    policy = action.step.retries
    if action.direction == "forward" and isinstance(policy, RetryPolicy):
        delay_s = policy.delay_s(action.failures, _kind_of(last), seed=last.request_id)
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
        if e.status != "completed"
        and e.request_id != entry.request_id
        and (
            (e.step, e.direction) == (entry.step, entry.direction)
            or (entry.direction == "undo" and e.direction == "forward")
        )
    ]


def intend(
    saga: Saga, journal: Journal, action: NextAction, *, now: float, max_attempts: int
) -> Journal:
    """Write the intent of a request; a journal that has this intent is unchanged.

    A request whose payload cannot be made is written as failed.
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
    try:
        # A builder gets copies: what it changes must not change the journal.
        given, results = deepcopy(journal.input), deepcopy(journal.results())
        if converter := input_converter(make_payload):
            given = converter.decode(given, "input")
        entry = replace(entry, payload=as_json(make_payload(given, results)))
    except Exception as failure:  # noqa: BLE001 - a declaration may raise anything
        error = {
            "error_type": type(failure).__name__,
            "message": f"cannot make the payload of step {step.name!r} ({direction}): {failure!r}"
            + _hint(saga, failure),
            "trace_id": "",
        }
        entry = replace(entry, payload={}, status="failed", error=error, ended=now)
    journal = replace(journal, entries=(*journal.entries, entry))
    return _consequence(saga, journal, entry, max_attempts)


def _hint(saga: Saga, failure: Exception) -> str:
    """How to mend a builder that reads the result of a step that did not complete."""
    missing = failure.args[0] if isinstance(failure, KeyError) and failure.args else None
    if missing not in {step.name for step in saga.steps}:
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
    max_attempts: int,
) -> Journal:
    """Write how a request ended; a journal that has its end is unchanged."""
    entries = list(journal.entries)
    index = next((i for i, e in enumerate(entries) if e.request_id == request_id), None)
    if index is None or entries[index].status != "intended":
        return journal
    entries[index] = replace(
        entries[index],
        status="failed" if error else "completed",
        result=result or {},
        error=error or {},
        ended=now,
    )
    journal = replace(journal, entries=tuple(entries))
    return _consequence(saga, journal, entries[index], max_attempts)


def _consequence(saga: Saga, journal: Journal, entry: JournalEntry, max_attempts: int) -> Journal:
    """Change the saga's status as the status of one of its entries requires."""
    if journal.is_over or entry.status == "intended":
        return journal
    if entry.status == "failed" and entry.direction == "forward":
        if not _is_tried_again(saga.step(entry.step), journal, entry):
            journal = _start_compensating(journal, entry.error)
    elif entry.status == "failed" and _is_exhausted(journal, entry, max_attempts):
        return replace(journal, status="stuck")
    return settle(saga, journal)


def _kind_of(entry: JournalEntry) -> str:
    return str(entry.error.get("error_type", ""))


def _is_tried_again(step: Step, journal: Journal, entry: JournalEntry) -> bool:
    """Whether another attempt follows a step's last one, which failed."""
    failures, policy = journal.failures(entry.step, "forward"), step.retries
    if isinstance(policy, RetryPolicy):
        return policy.delay_s(failures, _kind_of(entry), seed=entry.request_id) is not None
    return _kind_of(entry) not in _NOT_RETRIED and failures <= policy


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


def _start_compensating(journal: Journal, error: dict[str, Any]) -> Journal:
    """Start compensating a running saga; it never runs forward again."""
    if journal.status != "running":
        return journal
    return replace(journal, status="compensating", error=error)


def start_compensating(journal: Journal, error: dict[str, Any], *, now: float) -> Journal:
    """Start compensating a running saga though no step failed; its current step counts as failed."""
    moved = _start_compensating(journal, error)
    if moved is journal:
        return journal
    entries = tuple(
        replace(entry, status="failed", error=error, ended=now)
        if entry.status == "intended"
        else entry
        for entry in journal.entries
    )
    return replace(moved, entries=entries)


def settle(saga: Saga, journal: Journal) -> Journal:
    """End a saga that needs no further request; any other is unchanged."""
    if journal.is_over or next_action(saga, journal) is not None:
        return journal
    status: SagaStatus = "completed" if journal.status == "running" else "compensated"
    return replace(journal, status=status)


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
        entry = changed[-1]
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
