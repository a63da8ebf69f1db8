"""`SagaRunner`: executes or compensates sagas, one request at a time, as their journals require.

Any number of runners may work on one saga: intents come before commands, requests have derived
ids, and the journal moves by compare-and-set. So together they execute each request once.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sagastream._codec.validation import new_id
from sagastream._redis.retrying import end_tasks
from sagastream._telemetry import spans
from sagastream._telemetry.trace_context import trace_id_of
from sagastream.bus import Bus
from sagastream.errors import (
    InvalidMessage,
    NoSuchSaga,
    SagaError,
    SagastreamError,
    ServerError,
)
from sagastream.message import OnProgress, Payload
from sagastream.saga.definition import Saga
from sagastream.saga.executor import StepExecutor, under_root_span
from sagastream.saga.journal import (
    NextAction,
    as_json,
    next_action,
    resume,
    retry_at,
    settle,
    start_compensating,
)
from sagastream.saga.outcome import SagaOutcome, outcome_of
from sagastream.saga.state import NOW, Journal
from sagastream.saga.store import SagaState, SagaStore, VersionedJournal

logger = logging.getLogger(__name__)

Dispatch = Callable[[str, str], Awaitable[None]]

# How many sagas `serve` takes at once.
_TAKE_LIMIT = 100
_HEARTBEAT_BATCH = 1000


class SagaRunner:
    """Drives the sagas of one declaration.

    Args:
        bus: The server.
        saga: The declaration.
        dispatch: Sends a step to another process: called with (saga id, step name), it sends a
            message to a process that calls `advance`. These messages may be lost, repeated or
            reordered. None to execute the steps in this process.
        max_attempts: How many times a compensation is tried before the saga is `stuck`. Attempts
            that no handler began, because no listener of its type was there, count only after they
            have failed for 60 s.
        retry_s: Seconds before the second attempt of a step; doubles with each further attempt, up
            to 5 s.
        wake_after_s: Seconds after which `serve` claims a saga that no process works on.
        keep_s: Seconds that the journal and the replies of an ended saga are kept.
        keep_moves_s: Seconds that the moves of an ended saga's journal are kept for those who
            follow it, and the results of its requests; at most `keep_s`. The journal itself has
            both. The ids of the requests are remembered as `Retention` of the bus says.
    """

    def __init__(
        self,
        bus: Bus,
        saga: Saga,
        *,
        dispatch: Dispatch | None = None,
        max_attempts: int = 5,
        retry_s: float = 0.2,
        wake_after_s: float = 10.0,
        keep_s: float = 86_400.0,
        keep_moves_s: float = 5.0,
    ) -> None:
        self._bus = bus
        self.saga = saga
        self._store = SagaStore(
            bus,
            saga.name,
            wake_after_s=wake_after_s,
            keep_s=keep_s,
            keep_moves_s=min(keep_moves_s, keep_s),
        )
        self._executor = StepExecutor(bus, saga, self._store, max_attempts=max_attempts)
        self._dispatch = dispatch
        self._max_attempts = max_attempts
        self._retry_s = retry_s
        self._wake_after_s = wake_after_s
        self._claimed: Counter[str] = Counter()
        self._logged: set[tuple[str, type]] = set()
        self._heart: asyncio.Task[None] | None = None

    @staticmethod
    def new_id() -> str:
        """An id for a new saga whose input must contain its id."""
        return new_id()

    async def start(
        self,
        input: Payload,  # noqa: A002 - the journal's word for it
        *,
        saga_id: str | None = None,
        correlation_id: str | None = None,
    ) -> str:
        """Write the journal of a new saga; returns its id. A second call returns the same.

        From then on the saga will end, whichever process dies, as long as one calls `serve`.

        Raises:
            InvalidMessage: The input is not a JSON object or a model, or too large.
            SagaError: The id belongs to a saga with another input.
        """
        saga_id, given = saga_id or self.new_id(), as_json(input, "input")
        with spans.root(f"saga {self.saga.name}", saga_id) as trace:
            journal = Journal(
                saga_id=saga_id,
                saga=self.saga.name,
                correlation_id=correlation_id or new_id(),
                input=given,
                trace=trace,
                started=NOW,
            )
        due_s = None if self._dispatch else 0.0
        if written := await self._store.put(journal, None, 0, due_s=due_s):
            await self._dispatch_next(written.journal)
            return saga_id
        existing = await self.journal(saga_id)
        if existing.input != given:
            raise SagaError(f"saga {saga_id} was started before, with another input")
        return saga_id

    async def journal(self, saga_id: str) -> Journal:
        """A saga's journal.

        Raises:
            NoSuchSaga: There is none, or it is of another declaration.
            UnreadableJournal: A newer release wrote it, or it is malformed.
        """
        return (await self._store.get(saga_id)).journal

    async def journals(self) -> list[Journal]:
        """The journals of all sagas of this declaration that are kept, the oldest first.

        One that a newer release wrote, or that is malformed, has the status `unreadable`, the
        reason as its error, its id and its schema version; everything else is empty.
        """
        return await self._store.journals()

    async def counts(self) -> dict[SagaState, int]:
        """How many sagas of this declaration are `open`, `ended` and `stuck`."""
        return await self._store.counts()

    async def ids(self, state: SagaState) -> list[str]:
        """The ids of the sagas that are `open`, `ended` or `stuck`."""
        return await self._store.ids(state)

    async def advance(
        self,
        saga_id: str,
        step: str | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> Journal:
        """Execute the next action of a saga, and write how it ended.

        It is harmless to call this twice, late, early, or for a step that is not next.

        Args:
            saga_id: The saga.
            step: Execute it only if it belongs to this step; None for any.
            on_progress: Called with the stages of its request.

        Raises:
            NoSuchSaga: There is no such saga.
            ServerUnavailable: The server did not answer.
        """
        current = await self._store.get(saga_id)
        return (await self._advance(current, step, on_progress)).journal

    async def _advance(
        self, current: VersionedJournal, step: str | None, on_progress: OnProgress | None
    ) -> VersionedJournal:
        action = next_action(self.saga, current.journal)
        if action is None:
            return await self._settled(current)
        if step is not None and action.step.name != step:
            return current
        if self._retry_delay_s(current.journal, action) > 0:
            return current
        async with self._claim(current.journal.saga_id):
            current, moved = await self._executor.execute(current, action, on_progress)
        if moved:
            await self._dispatch_next(current.journal)
        return current

    async def run(self, saga_id: str) -> SagaOutcome:
        """Drive a saga to its end, and return how it ended.

        Any number of sagas may be driven at once. With a `dispatch`, other processes execute the
        steps, and this waits for the end.

        Raises:
            NoSuchSaga: There is no such saga.
            ServerUnavailable: The server did not answer.
        """
        if self._dispatch:
            await self.wake(saga_id)
            return await self.wait(saga_id)
        async with self._claim(saga_id):
            current = await self._store.get(saga_id)
            while (action := next_action(self.saga, current.journal)) is not None:
                await asyncio.sleep(self._retry_delay_s(current.journal, action))
                current = await self._advance(current, None, None)
            current = await self._settled(current)
        return outcome_of(current.journal)

    async def wait(self, saga_id: str) -> SagaOutcome:
        """Wait until a saga has ended, whichever process drives it.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        journal = await self.journal(saga_id)
        if not journal.is_over:
            async for _ in self._store.moves(saga_id):
                journal = await self.journal(saga_id)
                if journal.is_over:
                    break
        return outcome_of(journal)

    async def serve(self) -> None:
        """Drive every open saga that no process works on, until cancelled.

        The process that drove it may have died, or a message of `dispatch` may be lost. Several
        processes may call this at once. A saga whose journal this release cannot read is left
        alone, and named once in the log.
        """
        running: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                try:
                    for saga_id in await self._store.take_due(_TAKE_LIMIT):
                        if self._dispatch:
                            await self._attend(saga_id, self.wake)
                        elif saga_id not in running:
                            driving = asyncio.create_task(self._attend(saga_id, self.run))
                            driving.add_done_callback(_log_failure)
                            running[saga_id] = driving
                except SagastreamError as error:
                    logger.debug("cannot read which sagas are due: %s", error)
                running = {saga_id: task for saga_id, task in running.items() if not task.done()}
                jitter = random.uniform(0.05, 0.1)  # noqa: S311 - jitter, not a secret
                await asyncio.sleep(min(1.0, self._wake_after_s * jitter))
        finally:
            await end_tasks(*running.values())

    async def wake(self, saga_id: str) -> Journal:
        """Dispatch a saga's next action now; harmless if another process works on it.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        journal = (await self._settled(await self._store.get(saga_id))).journal
        await self._dispatch_next(journal)
        return journal

    async def _settled(self, current: VersionedJournal) -> VersionedJournal:
        """End a saga that needs no request: an operator has changed it without its declaration."""
        return (await self._store.change(current, lambda journal: settle(self.saga, journal)))[0]

    async def compensate(self, saga_id: str, reason: str) -> Journal:
        """Start compensating a running saga: its steps are undone in reverse.

        A saga that does not run is left alone.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        error = {"error_type": "Cancelled", "message": reason, "trace_id": ""}
        running: list[str] = []

        def move(journal: Journal) -> Journal:
            running[:] = [
                entry.request_id for entry in journal.entries if entry.status == "intended"
            ]
            error["trace_id"] = trace_id_of(journal.trace)
            return settle(self.saga, start_compensating(journal, error, now=NOW))

        current, moved = await self._store.change(await self._store.get(saga_id), move)
        if moved:
            for entry in current.journal.entries:
                if entry.request_id in running:
                    self._executor.report(current.journal, entry)
            # Nothing else stops a step that has no compensation.
            for request_id in running:
                await self._bus.cancel(request_id)
            await self._dispatch_next(current.journal)
        return current.journal

    async def resume(self, saga_id: str) -> Journal:
        """Continue a saga: a stuck one tries its compensations again.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        current, moved = await self._store.change(await self._store.get(saga_id), resume)
        if moved:
            with under_root_span(current.journal):
                now = self._store.now()
                spans.step("resume", {"sagastream.saga_id": saga_id}, now, now, {})
        await self._dispatch_next(current.journal)
        return current.journal

    # -- which process executes the next action -------------------------------------

    async def _dispatch_next(self, journal: Journal) -> None:
        """Send the next action to another process; if the message is lost, the saga is due again."""
        action = next_action(self.saga, journal)
        if action is None or self._dispatch is None:
            return
        delay_s = self._retry_delay_s(journal, action)
        try:
            if delay_s > 0:
                await self._store.heartbeat([journal.saga_id], due_s=delay_s)
            else:
                with under_root_span(journal):
                    await self._dispatch(journal.saga_id, action.step.name)
        except (SagastreamError, OSError) as error:
            logger.warning(
                "step %s not dispatched: %s",
                action.step.name,
                error,
                extra={"saga_id": journal.saga_id},
            )

    async def _attend(self, saga_id: str, drive: Callable[[str], Awaitable[Any]]) -> None:
        """Drive a saga that is due; forget one that is gone, and leave an unreadable one alone."""
        try:
            await drive(saga_id)
        except NoSuchSaga:
            await self._store.forget(saga_id)
        except (SagaError, InvalidMessage, ServerError) as error:
            if (saga_id, type(error)) not in self._logged:
                self._logged.add((saga_id, type(error)))
                logger.warning("%s", error, extra={"saga_id": saga_id})

    def _retry_delay_s(self, journal: Journal, action: NextAction) -> float:
        """How long a retry still has to wait, in seconds."""
        at = retry_at(journal, action, retry_s=self._retry_s)
        return max(0.0, at - self._store.now())

    @contextlib.asynccontextmanager
    async def _claim(self, saga_id: str) -> AsyncIterator[None]:
        """Heartbeat: postpone the saga's due time while this process works on it."""
        self._claimed[saga_id] += 1
        if self._heart is None or self._heart.done():
            self._heart = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._claimed[saga_id] -= 1
            if not self._claimed[saga_id]:
                del self._claimed[saga_id]
            if not self._claimed:
                self._heart.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._wake_after_s / 3)
            ids = list(self._claimed)
            with contextlib.suppress(SagastreamError):
                for first in range(0, len(ids), _HEARTBEAT_BATCH):
                    await self._store.heartbeat(ids[first : first + _HEARTBEAT_BATCH])


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception():
        logger.warning("stopped driving a saga: %s", task.exception())
