"""`SagaRunner`: executes or compensates sagas, as their journals require.

Any number of runners may work on one saga: intents come before commands, requests have derived
ids, and the journal moves by compare-and-set. So together they execute each request once.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from sagastream._codec.validation import new_id
from sagastream._redis.retrying import end_tasks
from sagastream._telemetry import spans
from sagastream.bus import Bus
from sagastream.errors import (
    InvalidMessage,
    NoSuchSaga,
    SagaError,
    SagastreamError,
    ServerError,
)
from sagastream.message import OnProgress, Payload
from sagastream.saga.claims import SagaClaims
from sagastream.saga.definition import Saga
from sagastream.saga.driving import SagaDriver, UnknownVersion, driver_of
from sagastream.saga.journal import next_actions, resume, settle
from sagastream.saga.journal_json import as_json
from sagastream.saga.outcome import SagaOutcome, outcome_of
from sagastream.saga.state import JOURNAL_VERSION, NOW, PLAIN_JOURNAL_VERSION, Journal
from sagastream.saga.step_telemetry import under_root_span
from sagastream.saga.store import SagaState, SagaStore, VersionedJournal

logger = logging.getLogger(__name__)

Dispatch = Callable[[str, str], Awaitable[None]]

# How many sagas `serve` takes at once.
_TAKE_LIMIT = 100
# While it drives more sagas than this, `serve` takes further ones only after a pause.
_MANY = 1000
# How often `run` looks for the event that its saga waits for, in seconds.
_WAIT_POLL_S = 0.5


class SagaRunner:
    """Drives the sagas of one declaration.

    Args:
        bus: The server.
        saga: The declaration, with which new sagas begin.
        older: Other versions of it, with which open sagas go on that began with them. A saga of a
            version that this runner does not have is left to another one.
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
        older: Iterable[Saga] = (),
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
        self._drivers = {
            each.version: SagaDriver(
                bus, each, self._store, max_attempts=max_attempts, retry_s=retry_s
            )
            for each in (*older, saga)
        }
        if any(each.name != saga.name for each in older):
            raise SagaError(f"a runner of {saga.name!r} drives no other sagas: see `older`")
        self._has_waits = any(each.has_waits for each in (*older, saga))
        self._dispatch = dispatch
        self._wake_after_s = wake_after_s
        self._claims = SagaClaims(self._store, every_s=wake_after_s / 3)
        self._logged: set[tuple[str, type]] = set()

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
                v=PLAIN_JOURNAL_VERSION if self.saga.is_plain else JOURNAL_VERSION,
                version=self.saga.version,
            )
            journal = settle(self.saga, journal, now=NOW)
        due_s = None if self._dispatch and next_actions(self.saga, journal) else 0.0
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
        driver = driver_of(self._drivers, current.journal)
        current = await driver.executor.settle(current)
        ready = driver.ready(current.journal)
        action = next((each for each in ready if step in {None, each.step.name}), None)
        if action is None:
            return current
        async with self._claims.claim(current.journal.saga_id):
            current, moved = await driver.executor.execute(current, action, on_progress)
        if moved:
            current = await driver.waits.end(driver.saga, current)
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
        while True:
            current = await self._drive(saga_id)
            if current.journal.is_over:
                return outcome_of(current.journal)
            left_s = driver_of(self._drivers, current.journal).waits.left_s(current.journal)
            await asyncio.sleep(min(left_s, _WAIT_POLL_S))

    async def _drive(self, saga_id: str) -> VersionedJournal:
        """Drive a saga to its end, or until it only waits for events."""
        current = await self._store.get(saga_id)
        driver = driver_of(self._drivers, current.journal)
        while True:
            async with self._claims.claim(saga_id):
                current = await driver.drive(current)
            waiting, current = current, await driver.waits.end(driver.saga, current)
            if current.journal.is_over or current is waiting:
                return current

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
                jitter = random.uniform(0.05, 0.1)  # noqa: S311 - jitter, not a secret
                delay_s = min(1.0, self._wake_after_s * jitter)
                try:
                    due = await self._store.take_due(_TAKE_LIMIT)
                    running = {each: task for each, task in running.items() if not task.done()}
                    for saga_id in due:
                        if self._dispatch:
                            await self._attend(saga_id, self.wake)
                        elif saga_id not in running:
                            driving = asyncio.create_task(self._attend(saga_id, self._drive))
                            driving.add_done_callback(_log_failure)
                            running[saga_id] = driving
                        else:
                            self._wake(saga_id)
                    if len(due) < _TAKE_LIMIT or not self._has_waits or len(running) > _MANY:
                        await self._store.sleep(delay_s, until_woken=self._has_waits)
                except SagastreamError as error:
                    logger.debug("cannot read which sagas are due: %s", error)
                    await asyncio.sleep(delay_s)
        finally:
            await end_tasks(*running.values())

    async def wake(self, saga_id: str) -> Journal:
        """Dispatch a saga's next action now; harmless if another process works on it.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        current = await self._store.get(saga_id)
        driver = driver_of(self._drivers, current.journal)
        current = await driver.executor.settle(current)
        current = await driver.waits.end(driver.saga, current)
        await self._dispatch_next(current.journal, again=True)
        return current.journal

    async def compensate(self, saga_id: str, reason: str) -> Journal:
        """Start compensating a running saga: its steps are undone in reverse.

        A saga that does not run is left alone.

        Raises:
            NoSuchSaga: There is no such saga.
        """
        error = {"error_type": "Cancelled", "message": reason}
        current = await self._store.get(saga_id)
        current, moved = await driver_of(self._drivers, current.journal).executor.compensate(
            current, error
        )
        if moved:
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
        await self._dispatch_next(current.journal, again=True)
        return current.journal

    # -- which process executes the next action -------------------------------------

    async def _dispatch_next(self, journal: Journal, *, again: bool = False) -> None:
        """Send the next actions to other processes; if a message is lost, the saga is due again.

        Args:
            journal: The journal.
            again: Whether to send actions again whose intent is written.
        """
        if self._dispatch is None:
            return
        driver = driver_of(self._drivers, journal)
        waits_s = []
        for action in next_actions(driver.saga, journal):
            delay_s = driver.retry_delay_s(journal, action)
            if delay_s > 0:
                waits_s.append(delay_s)
            elif again or not action.is_intended:
                await self._send(journal, action.step.name)
        if waits_s:
            with contextlib.suppress(SagastreamError):
                await self._store.heartbeat([journal.saga_id], due_s=min(waits_s))

    async def _send(self, journal: Journal, step: str) -> None:
        assert self._dispatch is not None
        try:
            with under_root_span(journal):
                await self._dispatch(journal.saga_id, step)
        except (SagastreamError, OSError) as error:
            logger.warning(
                "step %s not dispatched: %s", step, error, extra={"saga_id": journal.saga_id}
            )

    async def _attend(self, saga_id: str, drive: Callable[[str], Awaitable[Any]]) -> None:
        """Drive a saga that is due; forget one that is gone, and leave an unreadable one alone."""
        try:
            await drive(saga_id)
        except NoSuchSaga:
            await self._store.forget(saga_id)
        except UnknownVersion as error:
            self._log_once(saga_id, error)
            # Soon, for a runner that has the version.
            soon_s = random.uniform(0.1, 0.5)  # noqa: S311 - jitter, not a secret
            await self._store.heartbeat([saga_id], due_s=soon_s)
        except (SagaError, InvalidMessage, ServerError) as error:
            self._log_once(saga_id, error)

    def _wake(self, saga_id: str) -> None:
        for driver in self._drivers.values():
            driver.wake(saga_id)

    def _log_once(self, saga_id: str, error: Exception) -> None:
        if (saga_id, type(error)) not in self._logged:
            self._logged.add((saga_id, type(error)))
            logger.warning("%s", error, extra={"saga_id": saga_id})


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception():
        logger.warning("stopped driving a saga: %s", task.exception())
