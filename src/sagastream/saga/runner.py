"""`SagaRunner`: moves sagas on, one request at a time, by what their journals say.

The declaration stands in `declaration.py`, what follows from a journal in `journal.py`, one
request of it in `saga_step.py`, the keeping in `saga_store.py`. Any number of runners may work
on one saga: intents come before commands, requests have derived ids, and the journal moves by
compare-and-set, so that they end up doing each thing once.
"""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sagastream._codec.payload import encode_payload
from sagastream._redis.backoff import end_tasks
from sagastream._telemetry import spans
from sagastream.bus import Bus
from sagastream.errors import NoSuchSaga, SagaError, SagastreamError
from sagastream.message import OnProgress
from sagastream.saga.definition import Compensation, Saga, Step
from sagastream.saga.executor import StepExecutor, within
from sagastream.saga.journal import (
    MAX_JOURNAL_BYTES,
    Journal,
    NextAction,
    abandon,
    next_action,
    resume,
)
from sagastream.saga.outcome import SagaOutcome, outcome_of
from sagastream.saga.store import SagaState, SagaStore, VersionedJournal

__all__ = ["Compensation", "Journal", "Saga", "SagaOutcome", "SagaRunner", "Step"]

logger = logging.getLogger(__name__)

Dispatch = Callable[[str, str], Awaitable[None]]

_MOST_AT_ONCE = 100


class SagaRunner:
    """The one engine of sagas of one declaration.

    Args:
        bus: Where commands go and journals are.
        saga: The declaration.
        dispatch: Has a step done elsewhere: called with (saga id, step name), it sends a
            message to somebody who calls `advance`. Losing, repeating and reordering those
            messages does no harm. None to do the steps here.
        max_attempts: How often a compensation is tried before the saga is `stuck`.
        retry_s: Seconds before the second try of a step; doubles from there.
        wake_after_s: Seconds after which `serve` takes up a saga that nobody is at.
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
    ) -> None:
        self._bus = bus
        self.saga = saga
        self._store = SagaStore(bus, saga.name, wake_after_s=wake_after_s)
        self._stepper = StepExecutor(bus, saga, self._store, max_attempts=max_attempts)
        self._dispatch = dispatch
        self._max_attempts = max_attempts
        self._retry_s = retry_s
        self._nudge_s = wake_after_s
        self._mine: Counter[str] = Counter()
        self._keeping: asyncio.Task[None] | None = None

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

        From here on it ends, whatever dies, as long as somebody calls `serve`.

        Raises:
            InvalidMessage: The input is not JSON, or too large.
            SagaError: The id belongs to a saga with another input.
        """
        saga_id = saga_id or self.new_id()
        encode_payload(input, field="input", max_bytes=MAX_JOURNAL_BYTES)
        with spans.root(f"saga {self.saga.name}", saga_id) as carrier:
            journal = Journal(
                saga_id=saga_id,
                saga=self.saga.name,
                correlation_id=correlation_id or str(uuid.uuid4()),
                input=input,
                trace=carrier,
                started=time.time(),
            )
        if await self._store.put(journal, None, 0, due_s=None if self._dispatch else 0.0):
            await self._forward(journal)
            return saga_id
        known = await self.journal(saga_id)
        if known.input != input:
            raise SagaError(f"saga {saga_id} was started before, with another input")
        return saga_id

    async def journal(self, saga_id: str) -> Journal:
        """A saga's journal.

        Raises:
            NoSuchSaga: There is none, or it is of another declaration.
        """
        return (await self._store.get(saga_id)).journal

    async def journals(self) -> list[Journal]:
        """The journals of all sagas of this declaration that are kept, the oldest first."""
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
        """Do the one thing that a saga needs next, and write down how it ended.

        Calling it twice, late, early, or for a step that is not due does no harm.

        Args:
            saga_id: The saga.
            step: Do it only if it is this step's; None for any.
            on_progress: Gets the stages of its request.

        Raises:
            NoSuchSaga: There is no such saga.
            ServerUnavailable: The server did not answer.
        """
        return (await self._advance(await self._store.get(saga_id), step, on_progress)).journal

    async def _advance(
        self, seen: VersionedJournal, step: str | None, on_progress: OnProgress | None
    ) -> VersionedJournal:
        action = next_action(self.saga, seen.journal)
        if action is None or (step is not None and action.step.name != step):
            return seen
        if self._wait_s(seen.journal, action) > 0:
            return seen
        async with self._at(seen.journal.saga_id):
            seen, moved = await self._stepper.do(seen, action, on_progress)
        if moved:
            await self._forward(seen.journal)
        return seen

    async def run(self, saga_id: str) -> SagaOutcome:
        """Drive a saga to its end, and say how it ended.

        Any number of sagas may be driven at once. With a `dispatch` the steps are done
        elsewhere, and this waits for the end.

        Raises:
            NoSuchSaga: There is no such saga.
            ServerUnavailable: The server did not answer.
        """
        if self._dispatch:
            await self.wake(saga_id)
            return await self.wait(saga_id)
        async with self._at(saga_id):
            seen = await self._store.get(saga_id)
            while (action := next_action(self.saga, seen.journal)) is not None:
                await asyncio.sleep(self._wait_s(seen.journal, action))
                seen = await self._advance(seen, None, None)
        return outcome_of(seen.journal)

    async def wait(self, saga_id: str) -> SagaOutcome:
        """Wait until a saga has ended, whoever drives it.

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
        """Take up every open saga that nobody is at, until cancelled.

        Whoever drove it may have died, or a message of `dispatch` been lost. Several at once
        do no harm.
        """
        here: dict[str, asyncio.Task[SagaOutcome]] = {}
        try:
            while True:
                try:
                    for saga_id in await self._store.take_due(_MOST_AT_ONCE):
                        if self._dispatch:
                            await self._wake(saga_id)
                        elif saga_id not in here:
                            here[saga_id] = asyncio.create_task(self.run(saga_id))
                            here[saga_id].add_done_callback(_told_if_failed)
                except SagastreamError as error:
                    logger.debug("open sagas not looked for: %s", error)
                here = {saga_id: task for saga_id, task in here.items() if not task.done()}
                jitter = random.uniform(0.05, 0.1)  # noqa: S311 - jitter, not a secret
                await asyncio.sleep(min(1.0, self._nudge_s * jitter))
        finally:
            await end_tasks(*here.values())

    async def wake(self, saga_id: str) -> Journal:
        """Have what a saga needs next done now; harmless if somebody is at it.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        journal = await self.journal(saga_id)
        await self._forward(journal)
        return journal

    async def compensate(self, saga_id: str, reason: str) -> Journal:
        """Turn a running saga round: what it did is undone in reverse. Others are left alone.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        error = {"error_type": "Cancelled", "message": reason, "trace_id": ""}
        running: list[str] = []

        def move(journal: Journal) -> Journal:
            running[:] = [e.request_id for e in journal.entries if e.status == "intended"]
            error["trace_id"] = spans.trace_id_of(journal.trace)
            return abandon(
                self.saga, journal, error, now=time.time(), max_attempts=self._max_attempts
            )

        seen, moved = await self._store.change(await self._store.get(saga_id), move)
        if moved:
            for entry in seen.journal.entries:
                if entry.request_id in running:
                    self._stepper.tell(seen.journal, entry)
            # A step without compensation has nobody else who would stop it.
            for request_id in running:
                await self._bus.cancel(request_id)
            await self._forward(seen.journal)
        return seen.journal

    async def resume(self, saga_id: str) -> Journal:
        """Go on with a saga: a stuck one tries its compensations anew.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        seen, moved = await self._store.change(await self._store.get(saga_id), resume)
        if moved:
            with within(seen.journal):
                spans.step("resume", {"sagastream.saga_id": saga_id}, time.time(), {})
        await self._forward(seen.journal)
        return seen.journal

    # -- who does the next one ------------------------------------------------------

    async def _forward(self, journal: Journal) -> None:
        """Have somebody do what is due next; a saga whose message is lost is due again later."""
        action = next_action(self.saga, journal)
        if action is None or self._dispatch is None:
            return
        wait_s = self._wait_s(journal, action)
        try:
            if wait_s > 0:
                await self._store.look_after([journal.saga_id], due_s=wait_s)
            else:
                with within(journal):
                    await self._dispatch(journal.saga_id, action.step.name)
        except SagastreamError as error:
            logger.warning(
                "step %s not passed on: %s",
                action.step.name,
                error,
                extra={"saga_id": journal.saga_id},
            )

    async def _wake(self, saga_id: str) -> None:
        try:
            await self.wake(saga_id)
        except NoSuchSaga:
            await self._store.forget(saga_id)
        except SagaError as error:
            logger.warning("%s", error, extra={"saga_id": saga_id})

    def _wait_s(self, journal: Journal, action: NextAction) -> float:
        """How long a retry still has to wait."""
        last = journal.last(action.step.name, action.direction)
        if not action.failures or last is None or last.ended is None:
            return 0.0
        return max(0.0, last.ended + self._retry_s * 2.0 ** (action.failures - 1) - time.time())

    @contextlib.asynccontextmanager
    async def _at(self, saga_id: str) -> AsyncIterator[None]:
        """Say again and again that somebody is at a saga, so that `serve` leaves it alone."""
        self._mine[saga_id] += 1
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            self._mine[saga_id] -= 1
            if not self._mine[saga_id]:
                del self._mine[saga_id]
            if not self._mine:
                self._keeping.cancel()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._nudge_s / 3)
            ids = list(self._mine)
            with contextlib.suppress(SagastreamError):
                for first in range(0, len(ids), 1000):
                    await self._store.look_after(ids[first : first + 1000])


def _told_if_failed(task: "asyncio.Task[SagaOutcome]") -> None:
    if not task.cancelled() and task.exception():
        logger.warning("a saga was left: %s", task.exception())
