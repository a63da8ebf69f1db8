"""Stubs of the functions for streams: those of listeners, of events, and of readers."""

from collections.abc import Mapping, Sequence
from itertools import chain

from sagastream._functions.library import Caller, function_name
from sagastream._functions.stream_answers import (
    EventAnswer,
    ForwardAnswer,
    RejectAnswer,
    SweepAnswer,
)
from sagastream._redis.deadline import Deadline
from sagastream.retention import Retention

_SWEEP, _EVENT, _REJECT = (function_name(name) for name in ("sweep", "event", "reject"))
_ANNOUNCE, _FORWARD = function_name("announce"), function_name("forward")
_GIVE_BACK, _MAKE_GROUP = function_name("give_back"), function_name("make_group")
_JOIN, _LEAVE = function_name("join"), function_name("leave")
_PAUSE, _RESUME = function_name("pause"), function_name("resume")


class StreamFunctions:
    """Typed calls of the functions for command streams and reply streams.

    Streams and records are given as keys, with their namespace.

    Args:
        caller: The connection.
        retention: How long results, and reply streams after their last entry, are kept.
    """

    def __init__(self, caller: Caller, *, retention: Retention) -> None:
        self._caller = caller
        self._retention = retention

    async def sweep(
        self,
        sweeper: str,
        stream: str,
        windows: str,
        *,
        consumer: str,
        group: str,
        lease_ms: int,
        idle_ms: int,
        count: int,
        keep: int,
        keep_bytes: int,
    ) -> SweepAnswer:
        """Take over entries that were idle for `idle_ms`, and drop what is no longer kept.

        Of ended commands the last `keep` stay, or `keep_bytes` if that is less.
        """
        args = (consumer, group, lease_ms, idle_ms, count, keep, keep_bytes)
        return SweepAnswer.parse(
            await self._caller.call("FCALL", _SWEEP, 3, sweeper, stream, windows, *args)
        )

    async def pause(self, stream: str, target: str, reason: str) -> None:
        """Let no request begin for which the target stands."""
        await self._caller.call("FCALL", _PAUSE, 1, stream, target, reason)

    async def resume(self, stream: str, target: str) -> bool:
        """Let the requests of a target begin again; False if it was not paused."""
        answer = await self._caller.call("FCALL", _RESUME, 1, stream, target)
        return bool(answer[0] == b"ok")

    async def make_group(self, stream: str, *, group: str) -> None:
        """Create a stream and its consumer group, if they do not exist."""
        await self._caller.call("FCALL", _MAKE_GROUP, 1, stream, group)

    async def give_back(
        self,
        sweeper: str,
        stream: str,
        *,
        group: str,
        consumer: str,
        idle_ms: int,
        kept: Sequence[str],
        deadline: Deadline,
    ) -> None:
        """Let the next sweep take over what is pending for a consumer, except the kept entries."""
        args = (group, consumer, idle_ms, *kept)
        await self._caller.call("FCALL", _GIVE_BACK, 2, sweeper, stream, *args, deadline=deadline)

    async def event(
        self,
        stream: str,
        record: str,
        fields: Mapping[str, str],
        *,
        token: str,
        maxlen: int | None,
        ttl_ms: int | None,
    ) -> EventAnswer:
        """Add an entry to any stream, unless it is a stage of another claim's request."""
        args = (fields["status"], token, _optional(maxlen), _optional(ttl_ms))
        return EventAnswer.parse(
            await self._caller.call("FCALL", _EVENT, 2, stream, record, *args, *_flat(fields))
        )

    async def reject(
        self,
        stream: str,
        dead: str,
        record: str,
        reply_stream: str,
        *,
        group: str,
        entry_id: str,
        letter: Sequence[bytes | str],
        reply: Mapping[str, str],
    ) -> RejectAnswer:
        """Turn an entry that cannot be begun into a dead letter."""
        head = (group, entry_id, *self._retention.args, len(letter))
        args = (*head, *letter, *_flat(reply))
        return RejectAnswer.parse(
            await self._caller.call("FCALL", _REJECT, 4, stream, dead, record, reply_stream, *args)
        )

    async def announce(
        self,
        members: Sequence[tuple[str, str]],
        *,
        ttl_ms: int,
        deadline: Deadline | None = None,
    ) -> int | None:
        """Publish for `ttl_ms` what a listener handles, as (announcements key, member).

        A `ttl_ms` of 0 withdraws it.

        Returns:
            In how many milliseconds a schedule of these streams is due; None if none is.
        """
        keys = [key for key, _ in members]
        args = (str(ttl_ms), *(member for _, member in members))
        _, due_ms = await self._caller.call(
            "FCALL", _ANNOUNCE, len(keys), *keys, *args, deadline=deadline
        )
        return int(due_ms) if due_ms else None

    async def forward(
        self,
        stream: str,
        announcements: str,
        record: str,
        *,
        group: str,
        entry_id: str,
        event_type: str,
        fields: Sequence[bytes | str],
    ) -> ForwardAnswer:
        """Add a command to its stream again, for a live listener that can handle it."""
        args = (group, entry_id, event_type, *fields)
        return ForwardAnswer.parse(
            await self._caller.call("FCALL", _FORWARD, 3, stream, announcements, record, *args)
        )

    async def join(self, stream: str, *, group: str, stale_ms: int, prefix: str) -> None:
        """Create a reader's group at the first entry, and destroy the groups of dead readers."""
        args = (group, self._retention.args[0], str(stale_ms), prefix)
        await self._caller.call("FCALL", _JOIN, 1, stream, *args)

    async def leave(self, stream: str, *, group: str, deadline: Deadline) -> None:
        """Destroy a reader's group, and its stream if that has no entry and no other reader."""
        await self._caller.call("FCALL", _LEAVE, 1, stream, group, deadline=deadline)


def _flat(fields: Mapping[str, str]) -> list[str]:
    return list(chain.from_iterable(fields.items()))


def _optional(value: int | None) -> str:
    return "" if value is None else str(value)
