"""`SagaRunner`: moves sagas on, one request at a time, by what their journals say.

The declaration and the pure part stand in `journal.py`. Any number of runners may work
on one saga: intents come before commands, requests have derived ids, and the journal
moves by compare-and-set, so that they end up doing each thing once.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry import context as otel_context

from sagastream import telemetry
from sagastream.bus import Bus
from sagastream.errors import (
    ReplyTimeout,
    RequestCancelled,
    RequestFailed,
    SagaError,
)
from sagastream.inbox import OnProgress
from sagastream.journal import (
    ENDED,
    Compensation,
    Due,
    Entry,
    Journal,
    Saga,
    Step,
    conclude,
    due,
    dump,
    intend,
    load,
    turn_back,
)

__all__ = ["Compensation", "Journal", "Saga", "SagaOutcome", "SagaRunner", "Step"]

logger = logging.getLogger(__name__)

Dispatch = Callable[[str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SagaOutcome:
    """How a saga ended.

    Attributes:
        saga_id: Its identity.
        correlation_id: One for all its messages.
        trace_id: 32 hex digits, '' if it was not traced.
        status: `completed`, `compensated` or `stuck`.
        entries: Its requests, forward and undo, in order.
        results: The results of the completed steps, by name.
        error: What turned it round: `error_type`, `message`, `trace_id`; {} if nothing did.
        duration_s: From its start to its last end.
    """

    saga_id: str
    correlation_id: str
    trace_id: str
    status: str
    entries: tuple[Entry, ...]
    results: dict[str, dict[str, Any]]
    error: dict[str, Any]
    duration_s: float


class SagaRunner:
    """The one engine of sagas of one declaration.

    Args:
        bus: Where commands go and journals are.
        saga: The declaration.
        max_attempts: How often a compensation is tried before the saga is `stuck`.
        retry_s: Seconds before the second try of a compensation; doubles from there.
    """

    def __init__(
        self,
        bus: Bus,
        saga: Saga,
        *,
        max_attempts: int = 5,
        retry_s: float = 0.2,
    ) -> None:
        self._bus = bus
        self.saga = saga
        self._max_attempts = max_attempts
        self._retry_s = retry_s

    @staticmethod
    def new_id() -> str:
        """An id for a saga whose input must name it."""
        return str(uuid.uuid4())

    async def start(
        self,
        input: dict[str, Any],  # noqa: A002 - the journal's word for it
        *,
        saga_id: str | None = None,
        correlation_id: str | None = None,
    ) -> str:
        """Write the journal of a new saga; its id, which a second call with it gives again.

        Raises:
            SagaError: The id belongs to a saga with another input.
        """
        saga_id = saga_id or self.new_id()
        with telemetry.root(f"saga {self.saga.name}", saga_id):
            journal = Journal(
                saga_id=saga_id,
                saga=self.saga.name,
                correlation_id=correlation_id or str(uuid.uuid4()),
                input=input,
                trace=telemetry.carrier(),
                started=time.time(),
            )
        if await self._put(journal, version=0):
            return saga_id
        known, _ = await self._get(saga_id)
        if known.saga != self.saga.name or known.input != input:
            raise SagaError(f"saga {saga_id} was started before, with another input")
        return saga_id

    async def journal(self, saga_id: str) -> Journal:
        """A saga's journal.

        Raises:
            SagaError: There is no such saga, or it is of another declaration.
        """
        return (await self._get(saga_id))[0]

    async def advance(
        self,
        saga_id: str,
        step: str | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> Journal:
        """Do the one thing that a saga needs next, and write down how it ended.

        Calling it twice, late, or for a step that is not due does no harm.

        Args:
            saga_id: The saga.
            step: Do it only if it is this step's; None for any.
            on_progress: Gets the stages of its request.

        Raises:
            SagaError: There is no such saga.
            ServerUnavailable: The server did not answer.
        """
        journal = await self.journal(saga_id)
        what = due(self.saga, journal)
        if what is None or (step is not None and what.step.name != step):
            return journal
        entry = await self._intend(saga_id, what)
        if entry is None:
            return await self.journal(saga_id)
        with _within(journal):
            try:
                reply = await self._bus.request_and_reply(
                    what.step.stream,
                    _event_type(what),
                    entry.payload,
                    timeout=what.step.timeout,
                    on_progress=on_progress,
                    request_id=entry.request_id,
                    correlation_id=journal.correlation_id,
                    saga_id=saga_id,
                )
            except (RequestFailed, RequestCancelled, ReplyTimeout) as failure:
                return await self._conclude(saga_id, entry, error=_described(failure))
            return await self._conclude(saga_id, entry, result=reply["payload"])

    async def run(self, saga_id: str, *, dispatch: Dispatch | None = None) -> SagaOutcome:
        """Drive a saga to its end.

        Args:
            saga_id: The saga.
            dispatch: Has a step done elsewhere: called with (saga id, step name), it sends
                a message to somebody who calls `advance`. None to do the steps here.

        Raises:
            SagaError: There is no such saga.
            ServerUnavailable: The server did not answer.
        """
        journal = await self.journal(saga_id)
        while (what := due(self.saga, journal)) is not None:
            if what.direction == "undo" and what.attempt > 1:
                await asyncio.sleep(self._retry_s * 2 ** (what.attempt - 2))
            if dispatch is None:
                journal = await self.advance(saga_id)
            else:
                journal = await self._elsewhere(saga_id, what, dispatch)
        return outcome_of(journal)

    async def compensate(self, saga_id: str, reason: str) -> None:
        """Turn a running saga round: what it did is undone in reverse. Others are left alone."""

        def change(journal: Journal) -> Journal:
            turned = turn_back(journal)
            for entry in turned.entries:
                if entry.direction == "forward" and entry.status == "intended":
                    error = {"error_type": "Compensated", "message": reason, "trace_id": ""}
                    turned = self._concluded(turned, entry, error=error)
            return turned

        await self._change(saga_id, change)

    async def _elsewhere(self, saga_id: str, what: Due, dispatch: Dispatch) -> Journal:
        """Have a step done by somebody else, and wait for its end on the saga's stream."""
        entry = await self._intend(saga_id, what)
        if entry is None:
            return await self.journal(saga_id)
        journal = await self.journal(saga_id)
        with _within(journal):
            await dispatch(saga_id, what.step.name)
            try:
                reply = await self._bus.read_replies(
                    f"saga:{saga_id}:replies",
                    journal.correlation_id,
                    entry.request_id,
                    what.step.timeout,
                )
            except (RequestFailed, RequestCancelled, ReplyTimeout) as failure:
                return await self._conclude(saga_id, entry, error=_described(failure))
        return await self._conclude(saga_id, entry, result=reply["payload"])

    async def _intend(self, saga_id: str, what: Due) -> Entry | None:
        """Write the intent; None if the saga has moved on meanwhile."""

        def change(journal: Journal) -> Journal:
            return (
                intend(journal, what, time.time()) if due(self.saga, journal) == what else journal
            )

        try:
            journal = await self._change(saga_id, change)
        except SagaError as failure:
            if what.direction == "undo":
                raise
            logger.warning("%s", failure, extra={"saga_id": saga_id})
            await self.compensate(saga_id, str(failure))
            return None
        entry = journal.last(what.step.name, what.direction)
        return entry if entry and entry.status == "intended" else None

    async def _conclude(
        self,
        saga_id: str,
        entry: Entry,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> Journal:
        return await self._change(
            saga_id,
            lambda journal: self._concluded(journal, entry, result=result, error=error),
        )

    def _concluded(
        self,
        journal: Journal,
        entry: Entry,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> Journal:
        return conclude(
            self.saga,
            journal,
            entry.request_id,
            now=time.time(),
            result=result,
            error=error,
            max_attempts=self._max_attempts,
        )

    async def _change(self, saga_id: str, change: Callable[[Journal], Journal]) -> Journal:
        """Apply a pure change by compare-and-set, as often as somebody else is faster."""
        while True:
            journal, version = await self._get(saga_id)
            changed = change(journal)
            if changed == journal or await self._put(changed, version=version):
                if changed.status != journal.status:
                    logger.info("saga %s", changed.status, extra={"saga_id": saga_id})
                return changed

    async def _get(self, saga_id: str) -> tuple[Journal, int]:
        stored = await self._bus.endpoint().connection.call(
            "HMGET", self._bus.key(f"saga:{saga_id}"), "journal", "version"
        )
        if stored[0] is None:
            raise SagaError(f"there is no saga {saga_id}")
        journal = load(stored[0].decode())
        if journal.saga != self.saga.name:
            raise SagaError(f"saga {saga_id} is a {journal.saga!r}, not a {self.saga.name!r}")
        return journal, int(stored[1])

    async def _put(self, journal: Journal, *, version: int) -> bool:
        # A stuck saga is not over: somebody has to look at it, so it does not expire.
        over = journal.status in ENDED - {"stuck"}
        answer = await self._bus.endpoint().functions.journal(
            self._bus.key(f"saga:{journal.saga_id}"),
            [self._bus.key(f"request:{e.request_id}") for e in journal.entries] if over else [],
            version=version,
            journal=dump(journal),
            ttl_ms=round(self._bus.retention_s * 1000) if over else None,
        )
        return answer.word == "ok"


def outcome_of(journal: Journal) -> SagaOutcome:
    """How a saga ended, or where it stands."""
    ends = [entry.ended for entry in journal.entries if entry.ended is not None]
    return SagaOutcome(
        saga_id=journal.saga_id,
        correlation_id=journal.correlation_id,
        trace_id=telemetry.trace_id_of(journal.trace),
        status=journal.status,
        entries=journal.entries,
        results=journal.results(),
        error=journal.failure(),
        duration_s=max(ends, default=journal.started) - journal.started,
    )


@contextlib.contextmanager
def _within(journal: Journal) -> Iterator[None]:
    """Make the saga's root span the current one, wherever and whenever this runs."""
    token = otel_context.attach(telemetry.extract(journal.trace))
    try:
        yield
    finally:
        otel_context.detach(token)


def _event_type(what: Due) -> str:
    if what.direction == "forward" or what.step.compensation is None:
        return what.step.event_type
    return what.step.compensation.event_type


def _described(failure: RequestFailed | RequestCancelled | ReplyTimeout) -> dict[str, Any]:
    if isinstance(failure, RequestFailed):
        return {
            "error_type": failure.error_type,
            "message": failure.message,
            "trace_id": failure.trace_id,
        }
    return {
        "error_type": type(failure).__name__,
        "message": str(failure),
        "trace_id": telemetry.trace_id(),
    }
