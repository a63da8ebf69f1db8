"""Events that sagas wait for: send them, signal a saga, and end the waits that they answer.

An event is kept by its key, so that it may come before the saga waits for it. A saga that waits is
only an entry of its journal, a note at the event, and a time at which it is due: the event makes
it due at once.
"""

import math
from collections.abc import Callable
from typing import Any

from sagastream._codec.payload import decode_payload, encode_payload
from sagastream._codec.validation import check_name, check_seconds
from sagastream.bus import Bus
from sagastream.errors import SagaError
from sagastream.message import Payload
from sagastream.saga.definition import Saga
from sagastream.saga.journal import conclude, next_actions
from sagastream.saga.state import NOW, Journal, JournalEntry
from sagastream.saga.step_telemetry import report
from sagastream.saga.store import SagaStore, VersionedJournal
from sagastream.saga.walk import open_waits

# How long an event is kept, and a note of a wait after its timeout, in seconds.
KEEP_EVENT_S = 7 * 86_400.0
_KEEP_NOTE_S = 600.0


async def send_event(
    bus: Bus, key: str, payload: Payload | None = None, *, keep_s: float = KEEP_EVENT_S
) -> int:
    """Send an event to all sagas that wait for its key, now or while it is kept. Idempotent.

    Args:
        bus: The server.
        key: What a `WaitFor` makes with `key`, such as `payment:order-7`.
        payload: A JSON object, or a model; None for an empty one.
        keep_s: How long it is kept, in seconds.

    Returns:
        How many sagas waited for it.

    Raises:
        InvalidMessage: An argument is invalid.
        SagaError: It was sent before, with another payload.
        ServerUnavailable: The server did not answer.
    """
    return await _send(bus, f"event:{check_name('key', key)}", f"event {key}", payload, keep_s)


async def signal_saga(
    bus: Bus,
    saga_id: str,
    name: str,
    payload: Payload | None = None,
    *,
    keep_s: float = KEEP_EVENT_S,
) -> bool:
    """Send an event to one wait of one saga, now or while it is kept. Idempotent.

    Args:
        bus: The server.
        saga_id: The saga.
        name: The name of its `WaitFor`.
        payload: A JSON object, or a model; None for an empty one.
        keep_s: How long it is kept, in seconds.

    Returns:
        Whether the saga waited for it.

    Raises:
        InvalidMessage: An argument is invalid.
        SagaError: It was sent before, with another payload.
        ServerUnavailable: The server did not answer.
    """
    what = f"signal {check_name('name', name)} of saga {check_name('saga_id', saga_id)}"
    return bool(await _send(bus, _signal_name(saga_id, name), what, payload, keep_s))


async def _send(bus: Bus, name: str, what: str, payload: Payload | None, keep_s: float) -> int:
    text = encode_payload({} if payload is None else payload, max_bytes=bus.max_payload)
    ttl_ms = math.ceil(1000 * check_seconds("keep_s", keep_s))
    outcome, waited = await bus.session().sagas.send_event(bus.key(name), text, ttl_ms=ttl_ms)
    if outcome == "conflict":
        raise SagaError(f"{what} was sent before, with another payload")
    return waited


def _signal_name(saga_id: str, name: str) -> str:
    return f"signal:{saga_id}:{name}"


class Waits:
    """Ends the waits of sagas.

    Args:
        bus: The server.
        store: The journals.
        max_attempts: How many times a compensation is tried before the saga is `stuck`.
    """

    def __init__(self, bus: Bus, store: SagaStore, *, max_attempts: int) -> None:
        self._bus = bus
        self._store = store
        self._max_attempts = max_attempts

    async def end(self, saga: Saga, current: VersionedJournal) -> VersionedJournal:
        """End the waits whose event has come or whose time is over; the others wake the saga.

        A saga that needs no request is then due when its first wait times out. Call this without a
        claim, whose heartbeat would move that time.
        """
        for entry in list(open_waits(current.journal)):
            move = await self._end_of(saga, current.journal, entry)
            if move is not None:
                current, moved = await self._store.change(current, move)
                if moved:
                    entries = {each.request_id: each for each in current.journal.entries}
                    report(current.journal, entries[entry.request_id])
        return current

    def left_s(self, journal: Journal) -> float:
        """Seconds until the first wait of a saga times out; infinite if it waits for nothing."""
        ends = (_timeout_at(entry) for entry in open_waits(journal))
        return max(0.0, min(ends, default=math.inf) - self._store.now())

    async def _end_of(
        self, saga: Saga, journal: Journal, entry: JournalEntry
    ) -> Callable[[Journal], Journal] | None:
        is_idle = not next_actions(saga, journal)
        event = await self._event(journal, entry, is_idle=is_idle)
        result: dict[str, Any] | None = None
        error: dict[str, Any] | None = None
        is_skipped = False
        if event is not None:
            try:
                result = decode_payload(event.decode())
                accept = saga.wait(entry.step).accept
                if accept is not None and not accept(result):
                    error = _error("EventRejected", f"the event of {entry.step!r} was not accepted")
            except Exception as failure:  # noqa: BLE001 - a declaration may raise anything
                error = _error(type(failure).__name__, f"the event of {entry.step!r}: {failure}")
        elif self._store.now() < _timeout_at(entry):
            return None
        elif entry.payload.get("on_timeout") == "continue":
            is_skipped = True
        else:
            error = _error("EventTimeout", f"no event for {entry.step!r} in time")

        def move(found: Journal) -> Journal:
            return conclude(
                saga,
                found,
                entry.request_id,
                now=NOW,
                result=result,
                error=error,
                is_skipped=is_skipped,
                max_attempts=self._max_attempts,
            )

        return move

    async def _event(self, journal: Journal, entry: JournalEntry, *, is_idle: bool) -> bytes | None:
        due_s, saga_id = self.left_s(journal), journal.saga_id
        names = [_signal_name(saga_id, entry.step)]
        if key := entry.payload.get("key"):
            names.append(f"event:{key}")
        for name in names:
            payload = await self._store.await_event(
                *(self._bus.key(name), saga_id),
                due_s=due_s,
                is_idle=is_idle,
                keep_s=due_s + _KEEP_NOTE_S,
            )
            if payload is not None:
                return payload
        return None


def _timeout_at(entry: JournalEntry) -> float:
    return entry.started + float(entry.payload.get("timeout_s", 0.0))


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error_type": kind, "message": message, "trace_id": ""}
