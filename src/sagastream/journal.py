"""A saga's declaration, its journal, and how the journal moves: values and pure functions.

What is due follows from the journal alone; nothing here waits, sends or reads a clock.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sagastream.errors import SagaError
from sagastream.message import check_name, encode_payload

JOURNAL_VERSION = 1
MAX_JOURNAL_BYTES = 1024 * 1024

Direction = Literal["forward", "undo"]
SagaStatus = Literal["running", "compensating", "completed", "compensated", "stuck"]
Results = Mapping[str, dict[str, Any]]
MakePayload = Callable[[dict[str, Any], Results], dict[str, Any]]

ENDED = frozenset({"completed", "compensated", "stuck"})


@dataclass(frozen=True, slots=True)
class Compensation:
    """What undoes a step. It must be right to run it whether the step ran, half ran, or not.

    Attributes:
        event_type: On the step's stream.
        payload: Made from the saga's input and the results of its steps.
    """

    event_type: str
    payload: MakePayload


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a saga.

    Attributes:
        name: Unique in the saga.
        stream: The command stream.
        event_type: What is asked for.
        payload: Made from the saga's input and the results of earlier steps.
        compensation: What undoes it; None for a step without effect.
        timeout: Seconds to wait for its end before it counts as failed, and as in doubt.
    """

    name: str
    stream: str
    event_type: str
    payload: MakePayload
    compensation: Compensation | None = None
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Saga:
    """A named sequence of steps.

    Raises:
        SagaError: No step, or two of one name.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        check_name("saga", self.name)
        names = [step.name for step in self.steps]
        if not names or len(set(names)) != len(names):
            raise SagaError(f"saga {self.name!r} needs steps with names of their own, not {names}")

    def step(self, name: str) -> Step:
        """The step of that name.

        Raises:
            SagaError: There is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        known = ", ".join(step.name for step in self.steps)
        raise SagaError(f"saga {self.name!r} has no step {name!r} (it has: {known})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One request of a saga, as its journal has it.

    Attributes:
        step: The step's name.
        direction: `forward`, or `undo` for its compensation.
        attempt: Grows when the one before has ended and it is tried again.
        request_id: Follows from saga, step, direction and attempt.
        payload: What was asked.
        status: `intended` until its end is known, then `completed` or `failed`.
        result: The payload of its completed reply.
        error: Type, message and trace id of its failure.
        started: When the intent was written, in seconds since the epoch.
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
    """Everything that a saga is, beside its declaration.

    Attributes:
        saga_id: Its identity.
        saga: The declaration's name.
        correlation_id: One for all its messages.
        input: What it was started with.
        status: Where it stands.
        entries: Its requests, in the order in which they were intended.
        trace: The trace context of its root span.
        started: When it was started, in seconds since the epoch.
        v: Schema version.
    """

    saga_id: str
    saga: str
    correlation_id: str
    input: dict[str, Any]
    status: SagaStatus = "running"
    entries: tuple[Entry, ...] = ()
    trace: dict[str, str] = field(default_factory=dict)
    started: float = 0.0
    v: int = JOURNAL_VERSION

    def last(self, step: str, direction: Direction) -> Entry | None:
        """The latest request of a step in a direction."""
        found = [e for e in self.entries if (e.step, e.direction) == (step, direction)]
        return found[-1] if found else None

    def results(self) -> dict[str, dict[str, Any]]:
        """The results of the completed steps, by name."""
        return {
            e.step: e.result
            for e in self.entries
            if e.direction == "forward" and e.status == "completed"
        }

    def failure(self) -> dict[str, Any]:
        """The error that turned the saga round, {} if nothing failed."""
        failed = [e.error for e in self.entries if e.direction == "forward" and e.error]
        return failed[-1] if failed else {}


@dataclass(frozen=True, slots=True)
class Due:
    """The one request that a saga needs next."""

    step: Step
    direction: Direction
    attempt: int


def request_id_of(saga_id: str, step: str, direction: Direction, attempt: int) -> str:
    """The identity of a saga's request: the same for everyone who would send it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"saga/{saga_id}/{step}/{direction}/{attempt}"))


def due(saga: Saga, journal: Journal) -> Due | None:
    """What a saga needs next; None when it has ended.

    Forward in the order of declaration. Backward over every step that was intended, the
    failed or doubtful one included, strictly in reverse.
    """
    if journal.status == "running":
        for step in saga.steps:
            entry = journal.last(step.name, "forward")
            if entry is None or entry.status == "intended":
                return Due(step, "forward", entry.attempt if entry else 1)
    if journal.status == "compensating":
        for step in reversed(saga.steps):
            if step.compensation is None or journal.last(step.name, "forward") is None:
                continue
            entry = journal.last(step.name, "undo")
            if entry is None or entry.status == "intended":
                return Due(step, "undo", entry.attempt if entry else 1)
            if entry.status == "failed":
                return Due(step, "undo", entry.attempt + 1)
    return None


def intend(journal: Journal, what: Due, now: float) -> Journal:
    """Write down that a request will be sent; unchanged if it is written already.

    Raises:
        SagaError: The step's payload cannot be made.
    """
    step = what.step
    last = journal.last(step.name, what.direction)
    if last and last.attempt == what.attempt:
        return journal
    make = step.payload if what.direction == "forward" else _undo_of(step).payload
    try:
        payload = make(journal.input, journal.results())
    except Exception as error:
        raise SagaError(
            f"step {step.name!r} ({what.direction}) has no payload: {error!r}"
        ) from error
    entry = Entry(
        step=step.name,
        direction=what.direction,
        attempt=what.attempt,
        request_id=request_id_of(journal.saga_id, step.name, what.direction, what.attempt),
        payload=payload,
        started=now,
    )
    return replace(journal, entries=(*journal.entries, entry))


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
    """Write down how a request ended; unchanged if that is known already."""
    entries = list(journal.entries)
    place = next((i for i, e in enumerate(entries) if e.request_id == request_id), None)
    if place is None or entries[place].status != "intended":
        return journal
    entry = replace(
        entries[place],
        status="failed" if error else "completed",
        result=result or {},
        error=error or {},
        ended=now,
    )
    entries[place] = entry
    journal = replace(journal, entries=tuple(entries))
    if entry.direction == "forward" and error and journal.status == "running":
        journal = turn_back(journal)
    if entry.direction == "undo" and error and entry.attempt >= max_attempts:
        return replace(journal, status="stuck")
    if due(saga, journal) is None and journal.status not in ENDED:
        done: SagaStatus = "completed" if journal.status == "running" else "compensated"
        journal = replace(journal, status=done)
    return journal


def turn_back(journal: Journal) -> Journal:
    """Start to compensate a running saga; nothing goes from here back to forward."""
    return replace(journal, status="compensating") if journal.status == "running" else journal


def _undo_of(step: Step) -> Compensation:
    if step.compensation is None:
        raise SagaError(f"step {step.name!r} has no compensation")
    return step.compensation


def dump(journal: Journal) -> str:
    """The journal as JSON.

    Raises:
        InvalidMessage: Something in it is not JSON, or it is too large.
    """
    return encode_payload(asdict(journal), field="journal", max_bytes=MAX_JOURNAL_BYTES)


def load(text: str) -> Journal:
    """The inverse of `dump`.

    Raises:
        SagaError: Its schema version is not known here.
    """
    value = json.loads(text)
    if value.get("v") != JOURNAL_VERSION:
        raise SagaError(
            f"journal has schema version {value.get('v')!r}, known here: {JOURNAL_VERSION}"
        )
    entries = tuple(Entry(**entry) for entry in value.pop("entries"))
    return Journal(**value, entries=entries)
