"""`SagaDriver`: drives the sagas of one version of a declaration, with their branches at the same time."""

import asyncio
from collections.abc import Mapping

from sagastream._redis.retrying import end_tasks
from sagastream.bus import Bus
from sagastream.errors import SagaError
from sagastream.saga.definition import Saga
from sagastream.saga.events import Waits
from sagastream.saga.executor import StepExecutor
from sagastream.saga.journal import next_actions, retry_at
from sagastream.saga.state import Direction, Journal
from sagastream.saga.store import SagaStore, VersionedJournal
from sagastream.saga.walk import NextAction, open_waits

# How often a saga looks for its events while its requests run, if no runner wakes it, in seconds.
_LOOK_S = 1.0
_Running = dict[tuple[str, Direction], "asyncio.Task[VersionedJournal]"]


class UnknownVersion(SagaError):
    """A saga began with a version of its declaration that this runner does not have."""


class SagaDriver:
    """Drives sagas of one declaration.

    Args:
        bus: The server.
        saga: The declaration.
        store: Its journals.
        max_attempts: How many times a compensation is tried before the saga is `stuck`.
        retry_s: Seconds before the second attempt of a step; doubles with each further one.

    Attributes:
        saga: The declaration.
        executor: Executes its requests.
        waits: Ends its waits.
    """

    def __init__(
        self, bus: Bus, saga: Saga, store: SagaStore, *, max_attempts: int, retry_s: float
    ) -> None:
        self.saga = saga
        self.executor = StepExecutor(bus, saga, store, max_attempts=max_attempts)
        self.waits = Waits(bus, store, max_attempts=max_attempts)
        self._store = store
        self._retry_s = retry_s
        self._woken: dict[str, asyncio.Event] = {}

    async def drive(self, current: VersionedJournal) -> VersionedJournal:
        """Execute requests until the saga has ended, or only waits for events."""
        running: _Running = {}
        woken = self._woken.setdefault(current.journal.saga_id, asyncio.Event())
        try:
            while True:
                current = await self.executor.settle(current)
                for action in next_actions(self.saga, current.journal):
                    if action.key not in running:
                        running[action.key] = asyncio.create_task(self._perform(current, action))
                if not running:
                    return current
                before, current = current, await self.waits.end(self.saga, current)
                if current is not before:
                    continue
                waits = any(open_waits(current.journal))
                done = await _some_ended(running, woken if waits else None)
                current = max((current, *(task.result() for task in done)), key=_version_of)
                for key in [key for key, task in running.items() if task in done]:
                    del running[key]
        finally:
            await end_tasks(*running.values())
            self._woken.pop(current.journal.saga_id, None)

    def wake(self, saga_id: str) -> None:
        """Let a saga that is being driven look for its events now."""
        if woken := self._woken.get(saga_id):
            woken.set()

    async def _perform(self, current: VersionedJournal, action: NextAction) -> VersionedJournal:
        await asyncio.sleep(self.retry_delay_s(current.journal, action))
        return (await self.executor.execute(current, action, None))[0]

    def ready(self, journal: Journal) -> list[NextAction]:
        """The requests that may be sent now: no retry that still has to wait."""
        actions = next_actions(self.saga, journal)
        return [each for each in actions if self.retry_delay_s(journal, each) <= 0]

    def retry_delay_s(self, journal: Journal, action: NextAction) -> float:
        """How long a retry still has to wait, in seconds."""
        at = retry_at(journal, action, retry_s=self._retry_s)
        return max(0.0, at - self._store.now())


async def _some_ended(
    running: _Running, woken: asyncio.Event | None
) -> set["asyncio.Task[VersionedJournal]"]:
    """Wait until a request has ended; with `woken` also until then, or for a short time.

    Returns:
        The requests that have ended.
    """
    tasks = set(running.values())
    if woken is None:
        return (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]
    wake = asyncio.create_task(woken.wait())
    try:
        await asyncio.wait({*tasks, wake}, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(wake)
    woken.clear()
    return {task for task in tasks if task.done()}


def _version_of(current: VersionedJournal) -> int:
    return current.version


def driver_of(drivers: Mapping[int, SagaDriver], journal: Journal) -> SagaDriver:
    """What drives a saga of its version.

    Raises:
        UnknownVersion: None does.
    """
    if journal.version not in drivers:
        known = ", ".join(str(version) for version in sorted(drivers))
        raise UnknownVersion(
            f"saga {journal.saga_id} began with version {journal.version} of {journal.saga!r}, and "
            f"this runner has version {known}; it is left to another runner, or give that version "
            "as `older`"
        )
    return drivers[journal.version]
