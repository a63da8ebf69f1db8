"""Stubs of the functions that move one request: emit, adopt, claim, progress, finish, cancel.

Calls of `emit`, `begin`, `progress` and `finish` that are made in one tick of the event loop
go to the server as one command; each has its own answer.
"""

import asyncio
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sagastream._functions.answers import (
    AdoptAnswer,
    BeginAnswer,
    CancelAnswer,
    EmitAnswer,
    Expired,
    FinishAnswer,
    PostponeAnswer,
    ProgressAnswer,
    ReleaseAnswer,
    parse_begin,
    parse_emit,
    parse_record,
)
from sagastream._functions.batcher import Batcher
from sagastream._functions.library import Caller, function_name
from sagastream._redis.deadline import Deadline
from sagastream._telemetry.trace_context import Trace
from sagastream.retention import Retention

_ADOPT, _FOLLOW, _INSPECT = (function_name(name) for name in ("adopt", "follow", "inspect"))
_RELEASE, _CANCEL, _RENEW, _PURGE, _POSTPONE = (
    function_name(name) for name in ("release", "cancel", "renew", "purge", "postpone")
)


class RequestFunctions:
    """Typed calls of the functions that move one request.

    Records and streams are given as keys, with their namespace.

    Args:
        caller: The connection.
        retention: How long results are kept, if their handler does not say.
    """

    def __init__(self, caller: Caller, *, retention: Retention) -> None:
        self._caller = caller
        self._times = retention.args[:2]
        self._batcher = Batcher(caller)

    def emit(
        self,
        record: str,
        stream: str,
        entry: Sequence[str],
        *,
        reply_streams: Iterable[str],
        end_streams: Iterable[str] = (),
        deadline_ms: int | None = None,
        maxlen: int | None = None,
        ttl_ms: int | None = None,
        effect: str = "",
        context: str = "",
        supersedes: Sequence[str] = (),
        delay_ms: int | None = None,
        not_before_ms: int | None = None,
        turn: str = "",
        unique: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> "asyncio.Future[EmitAnswer | Expired]":
        """Write a command's record and entry.

        Args:
            record: The request's record.
            stream: The command stream.
            entry: The values of correlation_id, request_id, saga_id, event_type, payload,
                reply_stream, v, traceparent, tracestate and parent_span_id.
            reply_streams: The streams that get every stage.
            end_streams: The streams that get only the terminal stage.
            deadline_ms: From now, by the server's clock; None for no deadline.
            maxlen: Trim the stream to about this many entries.
            ttl_ms: Milliseconds after which the stream expires.
            effect: The effect policy that the handler must declare, '' for any.
            context: What other propagators than W3C Trace Context carry, '' if nothing.
            supersedes: The records of requests that end in the same step.
            delay_ms: How long after now it may begin at the earliest.
            not_before_ms: The time before which it does not begin, since the Unix epoch.
            turn: Class, weight and key of its turn, one per line; '' for none.
            unique: Key, length and kind of its window, by the names of the function's options.
            deadline: When the command is no longer sent again; None for never.
        """
        digest = digest_of(stream, entry[3], entry[4])
        args: list[str | bytes] = [*entry]
        args += ("\n".join(reply_streams), "\n".join(end_streams), digest)
        if deadline_ms is not None:
            args += ("deadline_ms", str(deadline_ms))
        if maxlen is not None:
            args += ("maxlen", str(maxlen))
        if ttl_ms is not None:
            args += ("ttl_ms", str(ttl_ms))
        if effect:
            args += ("effect", effect)
        if context:
            args += ("context", context)
        if delay_ms is not None:
            args += ("delay_ms", str(delay_ms))
        if not_before_ms is not None:
            args += ("not_before_ms", str(not_before_ms))
        if turn:
            args += ("turn", turn)
        for option in (unique or {}).items():
            args += option
        for superseded in supersedes:
            args += ("supersedes", superseded)
        return self._batcher.call(
            "emit", self._times, (record, stream), args, parse_emit, deadline=deadline
        )

    async def adopt(
        self,
        record: str,
        stream: str,
        fields: Mapping[str, str],
        *,
        group: str,
        entry_id: str,
        retention: Retention,
        reply_streams: Iterable[str],
    ) -> AdoptAnswer:
        """Write the record of an entry that was added by plain XADD."""
        args = [group, entry_id, *retention.args, "\n".join(reply_streams)]
        for pair in fields.items():
            args += pair
        return AdoptAnswer.parse(await self._caller.call("FCALL", _ADOPT, 2, record, stream, *args))

    def begin(
        self,
        record: str,
        stream: str,
        *,
        group: str,
        entry_id: str,
        consumer: str,
        token: str,
        lease_ms: int,
        retention: Retention,
        max_deliveries: int,
        trace: Trace,
        limiters: Sequence[tuple[str, str, str]] = (),
        deadline: Deadline | None = None,
    ) -> "asyncio.Future[BeginAnswer]":
        """Claim a request: the epoch grows, and `start` is written.

        `limiters` has name, count and interval of each limiter, in the order in which the request
        takes their permits.
        """
        return self._batcher.call(
            "begin",
            (group, consumer, str(lease_ms), str(max_deliveries), *retention.args),
            (record, stream),
            (entry_id, token, *trace, *(part for limiter in limiters for part in limiter)),
            parse_begin,
            deadline=deadline,
        )

    def progress(
        self, record: str, stream: str, payload: str, *, token: str, seq: int, trace: Trace
    ) -> "asyncio.Future[ProgressAnswer]":
        """Write a numbered progress stage.

        Like `finish` it waits as long as the server is unavailable, so that no handler fails.
        """
        return self._batcher.call(
            "progress",
            self._times,
            (record, stream),
            (token, str(seq), payload, *trace),
            ProgressAnswer.parse,
        )

    async def follow(self, record: str, trace: Trace) -> Expired | None:
        """Start a request's own stage log; `Expired` if its result is no longer kept."""
        answer = await self._caller.call("FCALL", _FOLLOW, 1, record, self._times[0], *trace)
        return Expired.parse(answer) if answer[0] == b"expired" else None

    async def inspect(
        self, record: str, *, deadline: Deadline | None = None
    ) -> dict[str, str] | Expired | None:
        """Read a record: its fields by name; `Expired`, or None if there is none.

        Raises:
            ServerError: It is malformed.
        """
        word, *parts = await self._caller.call("FCALL_RO", _INSPECT, 1, record, deadline=deadline)
        if word == b"expired":
            return Expired.parse((word, *parts))
        if word == b"none":
            return None
        return parse_record(record, parts)

    def finish(
        self,
        record: str,
        stream: str,
        status: str,
        payload: str,
        *,
        group: str,
        entry_id: str,
        token: str,
        retention: Retention,
        trace: Trace,
        writes: Sequence[Sequence[str]] = (),
    ) -> "asyncio.Future[FinishAnswer]":
        """Store the outcome, write the terminal reply and ack.

        It waits as long as the server is unavailable, so that finished work is not lost. If a later
        claim has begun meanwhile, this one is refused as stale; otherwise no later one begins.
        """
        args = [entry_id, token, status, payload, *trace]
        for write in writes:
            args += write
        return self._batcher.call(
            "finish",
            (group, *retention.args),
            (record, stream),
            args,
            FinishAnswer.parse,
        )

    async def postpone(
        self,
        record: str,
        stream: str,
        *,
        group: str,
        entry_id: str,
        token: str,
        delay_ms: int,
        failure: str,
    ) -> PostponeAnswer:
        """End an attempt that failed; the next one begins after `delay_ms` at the earliest.

        Like `finish` it waits as long as the server is unavailable, so that a failure counts.
        """
        command = ("FCALL", _POSTPONE, 2, record, stream, group, entry_id, token, delay_ms, failure)
        return PostponeAnswer.parse(await self._caller.call(*command, deadline=Deadline(math.inf)))

    async def release(
        self,
        record: str,
        stream: str,
        *,
        group: str,
        entry_id: str,
        consumer: str,
        token: str,
        idle_ms: int,
        deadline: Deadline | None = None,
    ) -> ReleaseAnswer:
        """Give a delivery back without an outcome, as if it had been idle for `idle_ms`."""
        command = release_command(
            (record, stream, token, entry_id), group=group, consumer=consumer, idle_ms=idle_ms
        )
        return ReleaseAnswer.parse(await self._caller.call(*command, deadline=deadline))

    async def purge(
        self, records: Sequence[str | bytes], *, older_than_ms: int, dry_run: bool
    ) -> tuple[int, int]:
        """Drop results of ended requests; how many they were, and the bytes of their payloads."""
        args = (older_than_ms, "1" if dry_run else "")
        count, size = await self._caller.call("FCALL", _PURGE, len(records), *records, *args)
        return int(count), int(size)

    async def cancel(self, record: str, *, trace: Trace) -> CancelAnswer:
        """End a request that has not begun, or ask its handler to stop."""
        args = (*self._times, *trace)
        return CancelAnswer.parse(await self._caller.call("FCALL", _CANCEL, 1, record, *args))


def digest_of(stream: str, event_type: str, payload: str) -> bytes:
    """What tells two commands apart that have the same id; the Lua computes the same."""
    text = f"{stream}\n{event_type}\n{payload}".encode()
    return hashlib.sha1(text, usedforsecurity=False).digest()[:8]


def release_command(
    claim: tuple[str, str, str, str], *, group: str, consumer: str, idle_ms: int
) -> tuple[Any, ...]:
    """The command that gives a delivery back.

    Args:
        claim: Its record, stream, token and entry id.
        group: The consumer group.
        consumer: The listener.
        idle_ms: For how long its entry counts as idle.
    """
    record, stream, token, entry_id = claim
    return ("FCALL", _RELEASE, 2, record, stream, group, entry_id, consumer, token, idle_ms)


def renew_command(
    claims: Sequence[tuple[str, str, str, str]], *, lease_ms: int, group: str, consumer: str
) -> tuple[Any, ...]:
    """The command that renews the leases of one listener, for the connection of its lease thread.

    Args:
        claims: Record, stream, token and entry id of each.
        lease_ms: How long the leases are.
        group: The consumer group.
        consumer: The listener.

    Returns:
        The command; its answer has for each claim `1` kept, `c` kept and to be cancelled, or
        `0` lost.
    """
    keys = [key for record, stream, _, _ in claims for key in (record, stream)]
    tokens = [part for _, _, token, entry_id in claims for part in (token, entry_id)]
    return ("FCALL", _RENEW, len(keys), *keys, lease_ms, group, consumer, *tokens)
