"""Stubs of the functions for sagas: journal, take_due, heartbeat, send_event, await_event."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal

from sagastream._functions.answers import DueAnswer, JournalAnswer
from sagastream._functions.library import Caller, function_name
from sagastream.retention import Retention

_JOURNAL, _TAKE_DUE = function_name("journal"), function_name("take_due")
_HEARTBEAT = function_name("heartbeat")
_SEND_EVENT, _AWAIT_EVENT = function_name("send_event"), function_name("await_event")


class SagaFunctions:
    """Typed calls of the functions for sagas. Sagas, streams and records are given as keys.

    Args:
        caller: The connection.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def journal(
        self,
        saga: str,
        stream: str,
        index: Sequence[str],
        records: Sequence[str],
        *,
        saga_id: str,
        version: int,
        journal: str,
        state: Literal["open", "ended", "stuck"],
        delay_ms: int,
        moves_ms: int,
        retention: Retention,
        fields: Mapping[str, str],
    ) -> JournalAnswer:
        """Replace a saga's journal if it is still at `version`.

        Args:
            saga: The saga's hash.
            stream: The stream of its moves.
            index: The sorted sets of open, ended and stuck sagas.
            records: The stream of its replies and the records of its requests; none while it is open.
            saga_id: Its id.
            version: The expected version; 0 for a new saga.
            journal: The new journal as JSON, with a byte 0x01 for each time that is now.
            state: Which of the sets it belongs to.
            delay_ms: Milliseconds until an open saga is due, or an ended one expires.
            moves_ms: Milliseconds that all moves of an ended saga are kept; the last one if it is
                less than `delay_ms`. So long are the results of its requests kept, too.
            retention: How long the ids of its requests are remembered after its end.
            fields: The fields of the move's entry in the stream.
        """
        keys = (saga, stream, *index, *records)
        args = (
            str(version),
            journal,
            saga_id,
            state,
            str(delay_ms),
            str(moves_ms),
            *retention.args[:2],
        )
        flat = chain.from_iterable(fields.items())
        return JournalAnswer.parse(
            await self._caller.call("FCALL", _JOURNAL, len(keys), *keys, *args, *flat)
        )

    async def take_due(self, open_sagas: str, *, limit: int, delay_ms: int) -> DueAnswer:
        """Take open sagas that are due, and postpone them by `delay_ms`."""
        args = (str(limit), str(delay_ms))
        return DueAnswer.parse(await self._caller.call("FCALL", _TAKE_DUE, 1, open_sagas, *args))

    async def heartbeat(self, open_sagas: str, saga_ids: Sequence[str], *, delay_ms: int) -> None:
        """Postpone the due time of sagas that a process works on."""
        await self._caller.call("FCALL", _HEARTBEAT, 1, open_sagas, str(delay_ms), *saga_ids)

    async def send_event(self, event: str, payload: str, *, ttl_ms: int) -> tuple[str, int]:
        """Keep an event, and wake the sagas that wait for it.

        Returns:
            `sent` and how many waited; `known`; or `conflict`, it was sent with another payload.
        """
        word, *rest = await self._caller.call("FCALL", _SEND_EVENT, 1, event, payload, ttl_ms)
        return word.decode(), int(rest[0]) if rest else 0

    async def await_event(
        self, event: str, open_sagas: str, saga_id: str, *, due_ms: int, ttl_ms: int
    ) -> bytes | None:
        """The payload of an event; None if there is none, and then its coming wakes the saga.

        Args:
            event: The event.
            open_sagas: The sorted set of open sagas, in which the saga is.
            saga_id: The saga.
            due_ms: When the saga is due without the event, in milliseconds from now.
            ttl_ms: How long the event wakes the saga.
        """
        keys = (event, open_sagas)
        answer = await self._caller.call("FCALL", _AWAIT_EVENT, 2, *keys, saga_id, due_ms, ttl_ms)
        return bytes(answer[1]) if answer[0] == b"event" else None
