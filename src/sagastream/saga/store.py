"""Where the journals of one declaration's sagas lie, and which of them are due.

A journal is a hash with a version, beside it a stream of its moves. Sorted sets tell which
sagas are open (by when somebody should look after them), ended and stuck.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sagastream._codec.entries import decode_fields
from sagastream._codec.validation import check_name
from sagastream._redis.backoff import backoff_delays
from sagastream._redis.connection import BLOCK_MS, entries
from sagastream.bus import Bus
from sagastream.errors import NoSuchSaga, SagastreamError
from sagastream.saga.journal import Journal, dump, event_fields, load

SagaState = Literal["open", "ended", "stuck"]
STATES: tuple[SagaState, ...] = ("open", "ended", "stuck")


@dataclass(frozen=True, slots=True)
class VersionedJournal:
    """A journal as it was at one version."""

    journal: Journal
    version: int


class SagaStore:
    """The journals of the sagas of one declaration.

    Args:
        bus: Where they are.
        name: The declaration's.
        wake_after_s: How long after its last move an open saga is due to be looked after.
    """

    def __init__(self, bus: Bus, name: str, *, wake_after_s: float) -> None:
        self._bus = bus
        self._name = name
        self._nudge_s = wake_after_s

    async def get(self, saga_id: str) -> VersionedJournal:
        """A journal and its version.

        Raises:
            NoSuchSaga: There is none, or it is of another declaration.
            SagaError: It was written by a release that this one does not know.
        """
        stored = await self._call("HMGET", self._key(saga_id), "journal", "version")
        if stored[0] is None:
            raise NoSuchSaga(saga_id)
        journal = load(stored[0].decode())
        if journal.saga != self._name:
            raise NoSuchSaga(saga_id, f"that is a {journal.saga!r}, not a {self._name!r}")
        return VersionedJournal(journal, int(stored[1]))

    async def put(
        self,
        journal: Journal,
        before: Journal | None,
        version: int,
        *,
        due_s: float | None = None,
    ) -> bool:
        """Replace a journal that is still at `version`; whether that was so.

        Args:
            journal: The new one.
            before: What it was; None for a new saga.
            version: What it was; 0 for a new saga.
            due_s: When somebody should look after it; None for the usual time.
        """
        over = journal.status in {"completed", "compensated"}
        state: SagaState = "ended" if over else "stuck" if journal.status == "stuck" else "open"
        keys = [self._key(journal.saga_id, "replies")]
        keys += [self._bus.key(f"request:{e.request_id}") for e in journal.entries]
        delay_s = self._bus.retention_s if over else self._nudge_s if due_s is None else due_s
        answer = await self._bus.session().functions.journal(
            self._key(journal.saga_id),
            self._key(journal.saga_id, "journal"),
            [self._index(state) for state in STATES],
            keys if over else [],
            saga_id=journal.saga_id,
            version=version,
            journal=dump(journal),
            state=state,
            delay_ms=round(delay_s * 1000),
            told=event_fields(before, journal),
        )
        return answer.word == "ok"

    async def change(
        self, seen: VersionedJournal, move: Callable[[Journal], Journal]
    ) -> tuple[VersionedJournal, bool]:
        """Apply a pure move, as often as somebody else is faster.

        Args:
            seen: The journal as it was seen last; it may be out of date.
            move: What to do; it leaves a journal alone that it does not fit.

        Returns:
            The journal after it, and whether this call moved it.
        """
        while True:
            moved = move(seen.journal)
            if moved == seen.journal:
                return seen, False
            if await self.put(moved, seen.journal, seen.version):
                return VersionedJournal(moved, seen.version + 1), True
            seen = await self.get(moved.saga_id)

    async def take_due(self, most: int) -> list[str]:
        """Open sagas that nobody has looked after lately; they are not due again for a while."""
        answer = await self._bus.session().functions.take_due(
            self._index("open"), most=most, delay_ms=round(self._nudge_s * 1000)
        )
        return list(answer.rest)

    async def look_after(self, saga_ids: Sequence[str], *, due_s: float | None = None) -> None:
        """Say that somebody is at these sagas, or when they are to be looked after."""
        delay_s = self._nudge_s if due_s is None else due_s
        await self._bus.session().functions.look_after(
            self._index("open"), saga_ids, delay_ms=round(delay_s * 1000)
        )

    async def forget(self, saga_id: str) -> None:
        """Take a saga whose journal is gone out of the open ones."""
        await self._call("ZREM", self._index("open"), saga_id)

    async def counts(self) -> dict[SagaState, int]:
        """How many sagas are in each state."""
        return {state: int(await self._call("ZCARD", self._index(state))) for state in STATES}

    async def ids(self, state: SagaState) -> list[str]:
        """The ids of the sagas in a state."""
        return [found.decode() for found in await self._call("ZRANGE", self._index(state), 0, -1)]

    async def journals(self) -> list[Journal]:
        """Every saga whose journal is there, the oldest first."""
        sets = await asyncio.gather(*(self.ids(state) for state in STATES))
        ids = sorted({saga_id for found in sets for saga_id in found})
        stored = await asyncio.gather(
            *(self._call("HGET", self._key(saga_id), "journal") for saga_id in ids)
        )
        journals = [load(text.decode()) for text in stored if text is not None]
        return sorted(journals, key=lambda journal: (journal.started, journal.saga_id))

    async def moves(self, saga_id: str, after: str = "0-0") -> AsyncIterator[dict[str, str]]:
        """Each move of a journal as it comes, from the first; without end.

        Yields:
            Its fields, with `entry_id`; an empty dict when there was none for a while, and
            after the server was away.
        """
        key, last = self._key(saga_id, "journal"), after
        delays = iter(backoff_delays())
        while True:
            try:
                answer = await self._bus.session().connection.block(
                    *("XREAD", "COUNT", 100, "BLOCK", BLOCK_MS, "STREAMS", key, last)
                )
                delays = iter(backoff_delays())
            except SagastreamError as error:
                self._bus.session().connection.note_loss(error)
                await asyncio.sleep(next(delays))
                answer = None
            found = list(entries(answer))
            if not found:
                yield {}
            for _, entry_id, raw in found:
                last = entry_id.decode()
                yield decode_fields(raw) | {"entry_id": last}

    def _key(self, saga_id: str, part: str = "") -> str:
        check_name("saga_id", saga_id)
        return self._bus.key(f"saga:{saga_id}:{part}" if part else f"saga:{saga_id}")

    def _index(self, state: SagaState) -> str:
        return self._bus.key(f"sagas:{self._name}:{state}")

    async def _call(self, *args: Any) -> Any:
        return await self._bus.session().connection.call(*args)
