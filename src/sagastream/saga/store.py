"""Keep the journals of one declaration's sagas, and the index of which are due.

A journal is a hash with a version, and a stream of its moves. Sorted sets have the sagas that
are open (by the time at which a runner should claim them), ended and stuck. All times are the
server's: the function that moves a journal writes them.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sagastream._codec.entries import decode_fields
from sagastream._codec.validation import check_name
from sagastream._redis.connection import BLOCK_MS
from sagastream._redis.protocol import entries
from sagastream._redis.retrying import backoff_delays
from sagastream.bus import Bus
from sagastream.errors import (
    InvalidMessage,
    NoSuchSaga,
    SagastreamError,
    ServerError,
    UnreadableJournal,
)
from sagastream.saga.journal import event_fields, stamp
from sagastream.saga.journal_json import dump, load
from sagastream.saga.state import Journal

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
        bus: The server.
        name: The declaration's name; '' to read those of any declaration.
        wake_after_s: How long after its last move an open saga is due, in seconds.
        keep_s: How long an ended saga is kept, in seconds.
        keep_moves_s: How long the moves and the results of the requests of an ended saga are kept,
            in seconds.
    """

    def __init__(
        self, bus: Bus, name: str, *, wake_after_s: float, keep_s: float, keep_moves_s: float
    ) -> None:
        self._bus = bus
        self._name = name
        self._wake_after_s = wake_after_s
        self._keep_s = keep_s
        self._moves_ms = round(1000 * keep_moves_s)
        self._server_time = (math.inf, 0.0)

    def now(self) -> float:
        """The server's time: the last that was read, and the monotonic time since then.

        In seconds since the Unix epoch; infinite before the first `get` or `put`.
        """
        server_s, read_at = self._server_time
        return server_s + time.monotonic() - read_at

    async def get(self, saga_id: str) -> VersionedJournal:
        """Read a journal and its version.

        Raises:
            NoSuchSaga: There is none, or it is of another declaration.
            UnreadableJournal: A newer release wrote it, or it is malformed.
        """
        stored, (seconds, micros) = await asyncio.gather(
            self._bus.command("HMGET", self._key(saga_id), "journal", "version"),
            self._bus.command("TIME"),
        )
        self._server_time = (seconds + micros / 1e6, time.monotonic())
        if stored[0] is None:
            raise NoSuchSaga(saga_id)
        journal = load(stored[0], saga_id=saga_id)
        if self._name and journal.saga != self._name:
            raise NoSuchSaga(saga_id, f"that is a {journal.saga!r}, not a {self._name!r}")
        try:
            version = int(stored[1])
        except (TypeError, ValueError) as error:
            why = "has no number of its version; it is left unchanged"
            raise UnreadableJournal(saga_id, 0, why) from error
        return VersionedJournal(journal, version)

    async def put(
        self,
        journal: Journal,
        before: Journal | None,
        version: int,
        *,
        due_s: float | None = None,
    ) -> VersionedJournal | None:
        """Replace a journal that is still at `version`; None if it is not.

        Args:
            journal: The new one.
            before: The journal that it replaces; None for a new saga.
            version: The version of `before`; 0 for a new saga.
            due_s: Seconds until a runner should claim it; None for `wake_after_s`.

        Returns:
            The journal as it was written, with the server's time for `NOW`.
        """
        expires = journal.status in {"completed", "compensated"}
        state: SagaState = "open"
        if journal.is_over:
            state = "ended" if expires else "stuck"
        delay_s = self._wake_after_s if due_s is None else due_s
        if expires:
            delay_s = self._keep_s
        session = self._bus.session()
        records = [self._key(journal.saga_id, "replies")]
        records += [session.options.record_key(entry.request_id) for entry in journal.entries]
        answer = await session.sagas.journal(
            self._key(journal.saga_id),
            self._key(journal.saga_id, "journal"),
            [self._index(each) for each in STATES],
            records if expires else [],
            saga_id=journal.saga_id,
            version=version,
            journal=dump(journal),
            state=state,
            delay_ms=round(delay_s * 1000),
            moves_ms=self._moves_ms,
            retention=session.options.retention,
            fields=event_fields(before, journal),
        )
        self._server_time = (answer.time, time.monotonic())
        if not answer.is_written:
            return None
        return VersionedJournal(stamp(journal, answer.time), answer.version)

    async def change(
        self,
        current: VersionedJournal,
        move: Callable[[Journal], Journal],
        *,
        due_s: float | None = None,
    ) -> tuple[VersionedJournal, bool]:
        """Apply a pure move; retry when a concurrent writer wins the compare-and-set.

        Args:
            current: The journal as it was read last; it may be out of date.
            move: Returns the journal after the move, or the same journal if the move does not
                apply to it.
            due_s: Seconds until a runner should claim it; None for `wake_after_s`.

        Returns:
            The journal after it, and whether this call moved it.
        """
        while True:
            after = move(current.journal)
            if after == current.journal:
                return current, False
            if written := await self.put(after, current.journal, current.version, due_s=due_s):
                return written, True
            current = await self.get(after.saga_id)

    async def take_due(self, limit: int) -> list[str]:
        """Take open sagas that no process has worked on lately; they are postponed."""
        answer = await self._bus.session().sagas.take_due(
            self._index("open"), limit=limit, delay_ms=round(self._wake_after_s * 1000)
        )
        return list(answer.saga_ids)

    async def heartbeat(self, saga_ids: Sequence[str], *, due_s: float | None = None) -> None:
        """Postpone the due time of sagas: while this process works on them, or by `due_s`."""
        delay_s = self._wake_after_s if due_s is None else due_s
        await self._bus.session().sagas.heartbeat(
            self._index("open"), saga_ids, delay_ms=round(delay_s * 1000)
        )

    async def await_event(
        self, event: str, saga_id: str, *, due_s: float, is_idle: bool, keep_s: float
    ) -> bytes | None:
        """The payload of an event; without one the saga is due when it comes, or in `due_s`.

        Args:
            event: Its key on the server.
            saga_id: The saga that waits for it.
            due_s: Seconds until its wait times out.
            is_idle: Whether it only waits; if not it is due after `wake_after_s`, as any other.
            keep_s: How long its coming wakes the saga, in seconds.
        """
        due_s = due_s if is_idle else min(due_s, self._wake_after_s)
        return await self._bus.session().sagas.await_event(
            event,
            self._index("open"),
            saga_id,
            due_ms=round(1000 * due_s),
            ttl_ms=round(1000 * keep_s),
        )

    async def sleep(self, delay_s: float, *, until_woken: bool) -> None:
        """Sleep; with `until_woken` at most until an event makes a saga due.

        Raises:
            ServerUnavailable: The connection was lost.
        """
        if not until_woken:
            await asyncio.sleep(delay_s)
            return
        connection, key = self._bus.session().connection, self._bus.key(f"sagas:{self._name}:woken")
        await connection.block("BLPOP", key, f"{delay_s:.3f}")

    async def forget(self, saga_id: str) -> None:
        """Remove a saga from the index of open sagas; its journal is gone."""
        await self._bus.command("ZREM", self._index("open"), saga_id)

    async def counts(self) -> dict[SagaState, int]:
        """How many sagas are in each state."""
        return {
            state: int(await self._bus.command("ZCARD", self._index(state))) for state in STATES
        }

    async def ids(self, state: SagaState) -> list[str]:
        """The ids of the sagas in a state."""
        members = await self._bus.command("ZRANGE", self._index(state), 0, -1)
        return [saga_id.decode(errors="replace") for saga_id in members]

    async def journals(self) -> list[Journal]:
        """The journals of all sagas that are kept, the oldest first.

        One that cannot be read has the status `unreadable`, the reason as its error, and its id
        and schema version; everything else is empty.
        """
        of_states = await asyncio.gather(*(self.ids(state) for state in STATES))
        ids = sorted({saga_id for of_state in of_states for saga_id in of_state})
        found = await asyncio.gather(*(self.read(saga_id) for saga_id in ids))
        journals = [journal for journal in found if journal is not None]
        return sorted(journals, key=lambda journal: (journal.started, journal.saga_id))

    async def read(self, saga_id: str) -> Journal | None:
        """Read a journal for a list; None if it is gone."""
        try:
            text = await self._bus.command("HGET", self._key(saga_id), "journal")
            return None if text is None else load(text, saga_id=saga_id)
        except (UnreadableJournal, InvalidMessage, ServerError) as error:
            return Journal(
                saga_id=saga_id,
                saga=self._name,
                correlation_id="",
                input={},
                status="unreadable",
                error={"error_type": type(error).__name__, "message": str(error), "trace_id": ""},
                v=error.version if isinstance(error, UnreadableJournal) else 0,
            )

    async def moves(self, saga_id: str, after: str = "0-0") -> AsyncIterator[dict[str, str]]:
        """Each move of a journal, from the first one after `after`; it never ends.

        Yields:
            The fields of the move, with `entry_id`; an empty dict when none came for some
            seconds, and after the server was unavailable.
        """
        key, last = self._key(saga_id, "journal"), after
        delays = iter(backoff_delays())
        while True:
            connection = self._bus.session().connection
            answer: Any = None
            try:
                answer = await connection.block(
                    *("XREAD", "COUNT", 100, "BLOCK", BLOCK_MS, "STREAMS", key, last)
                )
                delays = iter(backoff_delays())
            except SagastreamError as error:
                connection.note_loss(error)
                await asyncio.sleep(next(delays))
            new_entries = list(entries(answer))
            if not new_entries:
                yield {}
            for _, entry_id, raw in new_entries:
                last = entry_id.decode()
                yield decode_fields(raw) | {"entry_id": last}

    def _key(self, saga_id: str, part: str = "") -> str:
        check_name("saga_id", saga_id)
        return self._bus.key(f"saga:{saga_id}:{part}" if part else f"saga:{saga_id}")

    def _index(self, state: SagaState) -> str:
        return self._bus.key(f"sagas:{self._name}:{state}")
