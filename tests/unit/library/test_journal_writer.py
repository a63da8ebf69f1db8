"""Moves of one saga that come at the same time are written together."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sagastream import Bus
from sagastream.saga import Journal, Saga, SagaRunner, Step
from sagastream.saga.store import SagaStore, VersionedJournal
from sagastream.saga.writer import JournalWriter
from tests.polling import eventually

SAGA = Saga("trip", (Step("a", "s:commands", "s:do", lambda _given, _results: {}),))


def _adds(number: int) -> Callable[[Journal], Journal]:
    """A move that adds a number to the input, once."""
    return lambda journal: replace(journal, input=journal.input | {str(number): number})


class Journals:
    """A writer whose writes are counted, and can be held."""

    def __init__(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = SagaStore(bus, "trip", wake_after_s=10.0, keep_s=60.0, keep_moves_s=5.0)
        self.writer = JournalWriter(self.store)
        self.writes = 0
        self.permits: asyncio.Semaphore | None = None
        put = self.store.put

        async def counted(*args: Any, **options: Any) -> Any:
            self.writes += 1
            if self.permits is not None:
                await self.permits.acquire()
            return await put(*args, **options)

        monkeypatch.setattr(self.store, "put", counted)

    async def begin(self, bus: Bus) -> VersionedJournal:
        """The journal of a new saga."""
        return await self.store.get(await SagaRunner(bus, SAGA).start({}))


@pytest.fixture
def journals(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Journals:
    """The journals of a declaration."""
    return Journals(bus, monkeypatch)


async def test_moves_at_the_same_time_are_one_or_two_writes(bus: Bus, journals: Journals) -> None:
    """Each knows whether it changed the journal, and gets one with its change."""
    current = await journals.begin(bus)
    moved = await asyncio.gather(
        *(journals.writer.change(current, _adds(number % 20)) for number in range(40))
    )
    assert journals.writes <= 2
    assert sum(has_moved for _, has_moved in moved) == 20
    assert all(str(number % 20) in found.journal.input for number, (found, _) in enumerate(moved))
    stored = await journals.store.get(current.journal.saga_id)
    assert len(stored.journal.input) == 20


async def test_a_writer_that_is_cancelled_takes_no_other_with_it(
    bus: Bus, journals: Journals
) -> None:
    """Another one writes the moves that waited."""
    current = await journals.begin(bus)
    journals.permits = asyncio.Semaphore(0)
    tasks = [
        asyncio.create_task(journals.writer.change(current, _adds(number))) for number in range(5)
    ]
    await eventually(lambda: journals.writes == 1, within_s=5, why="the first one writes alone")
    journals.permits.release()
    await eventually(lambda: journals.writes == 2, within_s=5, why="the second one writes for all")
    tasks[1].cancel()
    for _ in range(10):
        journals.permits.release()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[1], asyncio.CancelledError)
    stored = await journals.store.get(current.journal.saga_id)
    assert {"0", "2", "3", "4"} <= set(stored.journal.input)


async def test_a_move_that_raises_fails_alone(bus: Bus, journals: Journals) -> None:
    """The others are written."""
    current = await journals.begin(bus)

    def wrong(_journal: Journal) -> Journal:
        raise ValueError("as requested")

    found = await asyncio.gather(
        *(journals.writer.change(current, move) for move in (_adds(1), _adds(2), wrong)),
        return_exceptions=True,
    )
    assert isinstance(found[2], ValueError)
    stored = await journals.store.get(current.journal.saga_id)
    assert stored.journal.input == {"1": 1, "2": 2}


async def test_another_process_moves_the_journal_meanwhile(bus: Bus, journals: Journals) -> None:
    """Its change stays; the moves are applied to the journal that it left."""
    current = await journals.begin(bus)
    await journals.store.change(current, _adds(99))
    await asyncio.gather(*(journals.writer.change(current, _adds(number)) for number in range(3)))
    stored = await journals.store.get(current.journal.saga_id)
    assert set(stored.journal.input) == {"99", "0", "1", "2"}
