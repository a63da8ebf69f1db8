"""Execute one request of a saga: write its intent, send it, wait, write how it ended.

The journal determines which request is next. The runner decides which process executes it, and
when.
"""

import logging
from collections.abc import Callable
from typing import Any

from sagastream._telemetry.log_context import in_log_context
from sagastream._telemetry.trace_context import trace_id, trace_id_of
from sagastream.bus import Bus
from sagastream.errors import (
    InvalidMessage,
    NoHandlers,
    ReplyTimeout,
    RequestCancelled,
    RequestConflict,
    RequestFailed,
    ResultExpired,
)
from sagastream.message import OnProgress
from sagastream.saga.definition import Saga
from sagastream.saga.journal import (
    conclude,
    intend,
    next_actions,
    priority_of,
    settle,
    start_compensating,
    superseded_by,
)
from sagastream.saga.state import NOW, Journal, JournalEntry
from sagastream.saga.step_telemetry import ids_of, report, under_root_span
from sagastream.saga.store import SagaStore, VersionedJournal
from sagastream.saga.walk import NextAction
from sagastream.saga.writer import JournalWriter

logger = logging.getLogger(__name__)

_FAILURES = (
    *(RequestFailed, RequestCancelled, ReplyTimeout, InvalidMessage, RequestConflict),
    ResultExpired,  # the saga has ended in another runner; if it has not, its effect is undone
)
_MIN_WAIT_S = 0.5


class StepExecutor:
    """Executes the requests of a saga.

    Args:
        bus: The server.
        saga: The declaration.
        store: Its journals.
        max_attempts: How many times a compensation is tried before the saga is `stuck`.
    """

    def __init__(self, bus: Bus, saga: Saga, store: SagaStore, *, max_attempts: int) -> None:
        self._bus = bus
        self._saga = saga
        self._store = store
        self._writer = JournalWriter(store)
        self._max_attempts = max_attempts

    async def execute(
        self, current: VersionedJournal, action: NextAction, on_progress: OnProgress | None
    ) -> tuple[VersionedJournal, bool]:
        """Write the intent, send, wait and conclude, unless another runner was faster.

        Returns:
            The journal after it, and whether this call moved it.
        """
        current, moved = await self._change(
            current, lambda journal: self._intended(journal, action)
        )
        journal = current.journal
        entry = journal.last(action.step.name, action.direction)
        if entry is None or entry.attempt != action.attempt or entry.status != "intended":
            return current, moved
        delay_s = action.step.delay_s if action.direction == "forward" else 0.0
        left_s = entry.started + delay_s + action.step.timeout - self._store.now()
        if moved:
            logger.info("%s sent", entry.step, extra=ids_of(journal, entry))
        with under_root_span(journal), in_log_context(**ids_of(journal, entry)):
            try:
                reply = await self._bus.request_and_reply(
                    action.step.stream,
                    _event_type(action),
                    entry.payload,
                    timeout=max(_MIN_WAIT_S, left_s),
                    on_progress=on_progress,
                    request_id=entry.request_id,
                    correlation_id=journal.correlation_id,
                    saga_id=journal.saga_id,
                    supersedes=superseded_by(journal, entry),
                    effect=action.step.effect if action.direction == "forward" else None,
                    delay_s=delay_s or None,
                    priority=priority_of(action, journal),
                )
            except _FAILURES as failure:
                error = _error_of(failure)
                if entry.direction == "undo" and _is_unhandled(failure):
                    error["unhandled"] = True
                return await self._conclude(current, entry, error=error)
        return await self._conclude(current, entry, result=reply["payload"])

    def _intended(self, journal: Journal, action: NextAction) -> Journal:
        if action not in next_actions(self._saga, journal):
            return journal
        return intend(self._saga, journal, action, now=NOW, max_attempts=self._max_attempts)

    async def _conclude(
        self,
        current: VersionedJournal,
        entry: JournalEntry,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> tuple[VersionedJournal, bool]:
        def move(journal: Journal) -> Journal:
            return conclude(
                self._saga,
                journal,
                entry.request_id,
                now=NOW,
                result=result,
                error=error,
                max_attempts=self._max_attempts,
            )

        current, moved = await self._change(current, move, ending=entry.request_id)
        if moved:
            entries = current.journal.entries
            ended = next(e for e in entries if e.request_id == entry.request_id)
            report(current.journal, ended)
        return current, moved

    async def compensate(
        self, current: VersionedJournal, error: dict[str, Any]
    ) -> tuple[VersionedJournal, bool]:
        """Start compensating a running saga, as an operator does; any other is left alone."""

        def move(journal: Journal) -> Journal:
            known = error | {"trace_id": trace_id_of(journal.trace)}
            return settle(self._saga, start_compensating(journal, known, now=NOW))

        return await self._change(current, move)

    async def settle(self, current: VersionedJournal) -> VersionedJournal:
        """Write what needs no request; an operator may have changed the saga."""
        moved = await self._change(current, lambda journal: settle(self._saga, journal))
        return moved[0]

    async def _change(
        self,
        current: VersionedJournal,
        move: Callable[[Journal], Journal],
        *,
        ending: str = "",
    ) -> tuple[VersionedJournal, bool]:
        """Move a journal; if it starts compensating, cancel what runs.

        Args:
            current: The journal as it was read last.
            move: The move.
            ending: The request whose end is written.
        """
        left: list[str] = []

        def noting(journal: Journal) -> Journal:
            after = move(journal)
            left[:] = []
            if journal.status == "running" and after.status not in {"running", "completed"}:
                requests = (e.request_id for e in journal.entries if e.status == "intended")
                left[:] = [each for each in requests if each != ending]
            return after

        current, moved = await self._writer.change(current, noting)
        if moved and left:
            for entry in current.journal.entries:
                if entry.request_id in left:
                    report(current.journal, entry)
            # Nothing else stops a step that has no compensation.
            for request_id in left:
                await self._bus.cancel(request_id)
        return current, moved


def _event_type(action: NextAction) -> str:
    if action.direction == "forward" or action.step.compensation is None:
        return action.step.event_type
    return action.step.compensation.event_type


def _is_unhandled(failure: Exception) -> bool:
    """Whether no handler began the request: it may succeed when a listener of its type is back."""
    if isinstance(failure, RequestFailed):
        return failure.error_type == "UnknownEventType"
    return isinstance(failure, NoHandlers) or (
        isinstance(failure, ReplyTimeout) and failure.last_stage is None
    )


def _error_of(failure: Exception) -> dict[str, Any]:
    if isinstance(failure, RequestFailed):
        return {
            "error_type": failure.error_type,
            "message": failure.message,
            "trace_id": failure.trace_id,
        }
    return {
        "error_type": type(failure).__name__,
        "message": str(failure),
        "trace_id": trace_id(),
    }
