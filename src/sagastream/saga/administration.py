"""Administer sagas without their declarations: list, read, resume and compensate them.

A journal says everything that an operator needs. What is changed here, a `SagaRunner` of the
saga's declaration continues: the saga is due at once.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sagastream._telemetry.trace_context import trace_id_of
from sagastream.bus import Bus
from sagastream.errors import SagaError
from sagastream.inspection import escaped, only_one, read_request, scan
from sagastream.saga.compatibility import Incompatibility, find_incompatibilities
from sagastream.saga.definition import Saga
from sagastream.saga.journal import resume, start_compensating
from sagastream.saga.state import NOW, Journal
from sagastream.saga.store import SagaState, SagaStore

_READS_AT_ONCE = 100
# What needs an operator first, and which statuses the journals of a state have. One that cannot be
# read may be in any.
_STATUSES_OF: dict[SagaState, frozenset[str]] = {
    "stuck": frozenset({"stuck", "unreadable"}),
    "open": frozenset({"running", "compensating", "unreadable"}),
    "ended": frozenset({"completed", "compensated", "unreadable"}),
}


@dataclass(frozen=True, slots=True)
class SagaPage:
    """Some sagas, and where the next ones are.

    Attributes:
        journals: Their journals; one that cannot be read has the status `unreadable`.
        after: Give it to `find_sagas` for the next page; 0 if there is none.
        is_complete: Whether the page is full, or the last one: it is not if the time was over.
    """

    journals: tuple[Journal, ...]
    after: int
    is_complete: bool = True


async def find_sagas(
    bus: Bus,
    *,
    name: str = "",
    statuses: frozenset[str] = frozenset(),
    limit: int = 50,
    after: int = 0,
    within_s: float | None = None,
) -> SagaPage:
    """Find sagas that are kept: stuck ones first, then open ones, then ended ones.

    Args:
        bus: The server.
        name: Only those of this declaration; '' for all.
        statuses: Only those with such a status; empty for all.
        limit: At most this many; 0 for all.
        after: The `after` of the page before; 0 for the first.
        within_s: Return what was found after this many seconds; None for no limit.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    found: list[Journal] = []
    seen, ends_at = 0, math.inf if within_s is None else time.monotonic() + within_s
    async for declaration, ids in _ids(bus, name, statuses):
        store = _store(bus, declaration)
        for first in range(0, len(ids), _READS_AT_ONCE):
            some = ids[first : first + _READS_AT_ONCE]
            if seen + len(some) <= after:
                seen += len(some)
                continue
            journals = await asyncio.gather(*(store.read(saga_id) for saga_id in some))
            for journal in journals:
                seen += 1
                if seen <= after or journal is None:
                    continue
                if not statuses or journal.status in statuses:
                    found.append(journal)
                if limit and len(found) >= limit:
                    return SagaPage(tuple(found), seen)
            if time.monotonic() > ends_at:
                return SagaPage(tuple(found), seen, is_complete=False)
    return SagaPage(tuple(found), 0)


async def resolve_saga(bus: Bus, prefix: str) -> Journal:
    """The journal of the saga with that id, or of the only one whose id begins so.

    Raises:
        NoSuchId: There is none.
        AmbiguousId: There are several.
        UnreadableJournal: A newer release wrote it, or it is malformed.
    """
    ids = set[str]()
    if await bus.command("HEXISTS", bus.key(f"saga:{prefix}"), "journal"):
        ids.add(prefix)
    else:
        async for key in scan(bus, f"saga:{escaped(prefix)}*", "hash"):
            ids.add(key.removeprefix("saga:"))
    saga_id = only_one("saga", prefix, ids)
    return (await _store(bus, "").get(saga_id)).journal


async def resume_saga(bus: Bus, journal: Journal) -> Journal:
    """Let a stuck saga try its compensations again; any other is only made due.

    Raises:
        NoSuchSaga: It is gone.
        ServerUnavailable: The server did not answer.
    """
    store = _store(bus, journal.saga)
    current, _ = await store.change(await store.get(journal.saga_id), resume, due_s=0.0)
    if not current.journal.is_over:
        await store.heartbeat([journal.saga_id], due_s=0.0)
    return current.journal


async def compensate_saga(bus: Bus, journal: Journal, reason: str) -> Journal:
    """Start compensating a running saga: its steps are undone in reverse.

    A saga that does not run is left alone.

    Raises:
        NoSuchSaga: It is gone.
        ServerUnavailable: The server did not answer.
    """
    store = _store(bus, journal.saga)
    running: list[str] = []

    def move(found: Journal) -> Journal:
        running[:] = [entry.request_id for entry in found.entries if entry.status == "intended"]
        trace_id = trace_id_of(found.trace)
        error = {"error_type": "Cancelled", "message": reason, "trace_id": trace_id}
        return start_compensating(found, error, now=NOW)

    current, moved = await store.change(await store.get(journal.saga_id), move, due_s=0.0)
    if moved:
        # Nothing else stops a step that has no compensation.
        for request_id in running:
            await bus.cancel(request_id)
    return current.journal


async def check_sagas(bus: Bus, declarations: Sequence[Saga]) -> list[Incompatibility]:
    """What breaks for the open sagas on a server when only these declarations are deployed.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    changed: list[Incompatibility] = []
    journals = await _open_journals(bus, {saga.name for saga in declarations})
    by_version = {(saga.name, saga.version): saga for saga in declarations}
    for journal in journals:
        if saga := by_version.get((journal.saga, journal.version)):
            for problem in await _changed_commands(bus, saga, journal):
                ids = (journal.saga_id,)
                changed.append(Incompatibility(saga.name, saga.version, problem, ids))
    return find_incompatibilities(declarations, journals) + changed


async def open_versions(bus: Bus) -> list[Incompatibility]:
    """The versions with which open sagas began, and their sagas; `problem` is empty.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    ids = defaultdict[tuple[str, int], list[str]](list)
    for journal in await _open_journals(bus, await saga_names(bus)):
        ids[journal.saga, journal.version].append(journal.saga_id)
    return [Incompatibility(*key, "", tuple(found)) for key, found in sorted(ids.items())]


async def _open_journals(bus: Bus, names: set[str]) -> list[Journal]:
    """The journals of sagas that have not ended, or are stuck."""
    journals: list[Journal] = []
    open_states: tuple[SagaState, ...] = ("stuck", "open")
    for name in sorted(names):
        store = _store(bus, name)
        for state in open_states:
            ids = await store.ids(state)
            for first in range(0, len(ids), _READS_AT_ONCE):
                some = ids[first : first + _READS_AT_ONCE]
                read = await asyncio.gather(*(store.read(saga_id) for saga_id in some))
                journals += [journal for journal in read if journal is not None]
    return journals


async def _changed_commands(bus: Bus, saga: Saga, journal: Journal) -> list[str]:
    """Steps that run and have another stream or event type now: they would be refused."""
    problems = []
    for entry in journal.entries:
        if entry.status != "intended" or entry.kind != "request":
            continue
        try:
            step = saga.step(entry.step)
        except SagaError:
            continue
        request = await read_request(bus, entry.request_id)
        event_type = step.event_type
        if entry.direction == "undo" and step.compensation:
            event_type = step.compensation.event_type
        is_same = request and (request.stream, request.event_type) == (step.stream, event_type)
        if request and request.stream and not is_same:
            problems.append(
                f"step {entry.step!r} runs as {request.event_type} on {request.stream}, and is "
                f"{event_type} on {step.stream} now; declare a new version"
            )
    return problems


async def _ids(
    bus: Bus, name: str, statuses: frozenset[str]
) -> AsyncIterator[tuple[str, list[str]]]:
    """The ids of sagas that may have one of the statuses, by declaration and state."""
    names = {name} if name else await saga_names(bus)
    for state, possible in _STATUSES_OF.items():
        if statuses and statuses.isdisjoint(possible):
            continue
        for declaration in sorted(names):
            yield declaration, await _store(bus, declaration).ids(state)


async def saga_names(bus: Bus) -> set[str]:
    """The names of the declarations of which there are sagas."""
    return {
        key.removeprefix("sagas:").rpartition(":")[0] async for key in scan(bus, "sagas:*", "zset")
    }


def _store(bus: Bus, name: str) -> SagaStore:
    # What is changed here does not end a saga, so nothing is kept for these times.
    return SagaStore(bus, name, wake_after_s=10.0, keep_s=86_400.0, keep_moves_s=5.0)
