"""A saga's journal and how it moves: values and pure functions.

The next action follows from the journal alone; nothing here waits, sends or reads a clock.
"""

import json
import math
import uuid
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sagastream._codec.payload import encode_payload
from sagastream.errors import SagaError
from sagastream.saga.definition import Saga, Step

JOURNAL_VERSION = 2
MAX_JOURNAL_BYTES = 1024 * 1024
# The time of a move: the server's function that writes the journal replaces it by its own time.
NOW = math.inf

Direction = Literal["forward", "undo"]
SagaStatus = Literal["running", "compensating", "completed", "compensated", "stuck"]

_ENDED = frozenset({"completed", "compensated", "stuck"})


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One request of a saga in its journal.

    Attributes:
        step: The step's name.
        direction: `forward`, or `undo` for its compensation.
        attempt: From 1; grows when the attempt before has failed and the step is tried again.
        request_id: Derived from saga, step, direction and attempt.
        payload: The payload of its command.
        status: `intended` until its end is known, then `completed` or `failed`.
        result: The payload of its completed reply.
        error: Type, message and trace id of its failure.
        started: When the intent was written, in seconds since the Unix epoch, in server time.
        ended: When its end was written; None before.
    """

    step: str
    direction: Direction
    attempt: int
    request_id: str
    payload: dict[str, Any]
    status: Literal["intended", "completed", "failed"] = "intended"
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """The whole state of a saga, apart from its declaration.

    Attributes:
        saga_id: Its identity.
        saga: The declaration's name.
        correlation_id: One id for all its messages.
        input: The input that it was started with.
        status: Its current status.
        entries: Its requests, in the order in which they were intended.
        trace: The trace context of its root span.
        started: When it was started, in seconds since the Unix epoch, in server time.
        error: Why it was compensated: `error_type`, `message`, `trace_id`; {} if it was not.
        resumed: The number of entries when a stuck saga was last resumed.
        v: Schema version.
    """

    saga_id: str
    saga: str
    correlation_id: str
    input: dict[str, Any]
    status: SagaStatus = "running"
    entries: tuple[JournalEntry, ...] = ()
    trace: dict[str, str] = field(default_factory=dict)
    started: float = 0.0
    error: dict[str, Any] = field(default_factory=dict)
    resumed: int = 0
    v: int = JOURNAL_VERSION

    @property
    def is_over(self) -> bool:
        """Whether the saga has ended: completed, compensated or stuck."""
        return self.status in _ENDED

    def last(self, step: str, direction: Direction) -> JournalEntry | None:
        """The latest request of a step in a direction."""
        requests = [e for e in self.entries if (e.step, e.direction) == (step, direction)]
        return requests[-1] if requests else None

    def results(self) -> dict[str, dict[str, Any]]:
        """The results of the completed steps, by name."""
        return {
            e.step: e.result
            for e in self.entries
            if e.direction == "forward" and e.status == "completed"
        }

    def failures(self, step: str, direction: Direction) -> int:
        """How many times a step failed in a direction; `undo` counts from the last resume."""
        recent = self.entries[self.resumed :] if direction == "undo" else self.entries
        return sum((e.step, e.direction, e.status) == (step, direction, "failed") for e in recent)


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


def request_id_of(saga_id: str, step: str, direction: Direction, attempt: int) -> str:
    """The identity of a saga's request: the same for every runner that would send it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"saga/{saga_id}/{step}/{direction}/{attempt}"))


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
        entry = replace(entry, payload=make_payload(given, results))
        encode_payload(entry.payload, max_bytes=MAX_JOURNAL_BYTES)
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
    failures = journal.failures(entry.step, entry.direction)
    if entry.status == "failed" and entry.direction == "forward":
        if failures > saga.step(entry.step).retries:
            journal = _start_compensating(journal, entry.error)
    elif entry.status == "failed" and failures >= max_attempts:
        return replace(journal, status="stuck")
    if next_action(saga, journal) is None:
        status: SagaStatus = "completed" if journal.status == "running" else "compensated"
        journal = replace(journal, status=status)
    return journal


def _start_compensating(journal: Journal, error: dict[str, Any]) -> Journal:
    """Start compensating a running saga; it never runs forward again."""
    if journal.status != "running":
        return journal
    return replace(journal, status="compensating", error=error)


def abandon(
    saga: Saga, journal: Journal, error: dict[str, Any], *, now: float, max_attempts: int
) -> Journal:
    """Start compensating a running saga though no step failed; its current step counts as failed."""
    moved = _start_compensating(journal, error)
    for entry in journal.entries if moved is not journal else ():
        if entry.status == "intended":
            moved = conclude(
                saga, moved, entry.request_id, now=now, error=error, max_attempts=max_attempts
            )
    if moved.status == "compensating" and next_action(saga, moved) is None:
        moved = replace(moved, status="compensated")
    return moved


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


def dump(journal: Journal) -> str:
    """The journal as JSON, with a byte 0x01, which JSON never has, for each time that is `NOW`.

    Its values were checked before they were added to it: no other number is infinite.

    Raises:
        SagaError: It is too large.
    """
    value = {name: getattr(journal, name) for name in Journal.__slots__}
    value["entries"] = [
        {name: getattr(entry, name) for name in JournalEntry.__slots__} for entry in journal.entries
    ]
    text = json.dumps(value, separators=(",", ":"))
    for name in ("started", "ended"):
        text = text.replace(f'"{name}":Infinity', f'"{name}":\x01')
    if len(text) > MAX_JOURNAL_BYTES:
        raise SagaError(
            f"the journal of saga {journal.saga_id} is {len(text)} bytes, more than the limit of "
            f"{MAX_JOURNAL_BYTES}; keep large results elsewhere and return references"
        )
    return text


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


def load(text: str) -> Journal:
    """The inverse of `dump`; also reads schema version 1.

    Raises:
        SagaError: Its schema version is not known here.
    """
    value = json.loads(text)
    if value.get("v") not in {1, JOURNAL_VERSION}:
        raise SagaError(
            f"the journal has schema version {value.get('v')!r}, known here: 1, {JOURNAL_VERSION}"
        )
    entries = tuple(JournalEntry(**entry) for entry in value.pop("entries"))
    journal = Journal(**value, entries=entries)
    if journal.v == 1:
        failed = [e.error for e in entries if e.direction == "forward" and e.error]
        journal = replace(journal, error=failed[-1] if failed else {}, v=JOURNAL_VERSION)
    return journal
