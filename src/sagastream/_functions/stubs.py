"""The server-side transitions: one Lua library, and a typed stub for each function.

The Lua stands in `sagastream.lua`. Library and functions carry a digest of their source
in their names, so that two releases share a server and none runs the other's code.
"""

import asyncio
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from typing import Literal

from sagastream._codec.entries import SCHEMA_VERSION
from sagastream._functions.batcher import Answer, Batcher, Caller, answer_of
from sagastream._telemetry.spans import Trace

_TEMPLATE = files("sagastream._functions").joinpath("sagastream.lua").read_text(encoding="utf-8")
LIBRARY = "sagastream_" + hashlib.sha256(_TEMPLATE.encode()).hexdigest()[:12]
SOURCE = _TEMPLATE.replace("@LIBRARY@", LIBRARY).replace("@SCHEMA@", SCHEMA_VERSION)
_LIBRARY_PREFIX = f"{LIBRARY}_"


def _flat(fields: Mapping[str, str]) -> list[str]:
    return list(chain.from_iterable(fields.items()))


class Functions:
    """Typed calls of the library's functions.

    Those of `emit`, `begin`, `progress` and `finish` that are made in one tick of the loop go
    to the server as one command; each has an answer of its own.

    Args:
        caller: The connection.
        reply_ttl_ms: How long a reply stream lives after its last entry.
    """

    def __init__(self, caller: Caller, *, reply_ttl_ms: int) -> None:
        self._caller = caller
        self._reply_ttl_ms = str(reply_ttl_ms)
        self._together = Batcher(caller, _LIBRARY_PREFIX)

    async def _fcall(self, name: str, keys: Sequence[str], args: Sequence[str | bytes]) -> Answer:
        return answer_of(
            await self._caller.call("FCALL", _LIBRARY_PREFIX + name, len(keys), *keys, *args)
        )

    def emit(
        self,
        record: str,
        stream: str,
        instance: str,
        entry: Sequence[str],
        *,
        reply_streams: Iterable[str],
        end_streams: Iterable[str] = (),
        deadline_ms: int | None = None,
        maxlen: int | None = None,
        ttl_ms: int | None = None,
        effect: str = "",
        supersedes: Sequence[str] = (),
        wakeup_prefix: str = "",
    ) -> "asyncio.Future[Answer]":
        """Write record and entry: new | known | conflict, entry id, counter.

        `entry` are the values of correlation_id, request_id, saga_id, event_type, payload,
        reply_stream, v, traceparent, tracestate and parent_span_id. `reply_streams` get every
        stage, `end_streams` the terminal one alone. `supersedes` are records of requests that end
        in the same step.
        """
        args = [*entry, "\n".join(reply_streams), "\n".join(end_streams)]
        if deadline_ms is not None:
            args += ("deadline_ms", str(deadline_ms))
        if maxlen is not None:
            args += ("maxlen", str(maxlen))
        if ttl_ms is not None:
            args += ("ttl_ms", str(ttl_ms))
        if effect:
            args += ("effect", effect)
        for superseded in supersedes:
            args += ("supersedes", superseded)
        shared = (self._reply_ttl_ms, wakeup_prefix, instance)
        return self._together("emit", shared, (record, stream), args)

    async def adopt(
        self,
        record: str,
        stream: str,
        fields: Mapping[str, str],
        *,
        group: str,
        entry_id: str,
        retention_ms: int,
        reply_streams: Iterable[str],
    ) -> Answer:
        """Give an entry that nobody emitted its record: adopted | done, status | conflict."""
        return await self._fcall(
            "adopt",
            (record, stream),
            (
                group,
                entry_id,
                self._reply_ttl_ms,
                str(retention_ms),
                "\n".join(reply_streams),
                *_flat(fields),
            ),
        )

    def begin(
        self,
        record: str,
        stream: str,
        *,
        group: str,
        entry_id: str,
        owner: str,
        token: str,
        lease_ms: int,
        retention_ms: int,
        max_deliveries: int,
        trace: Trace,
    ) -> "asyncio.Future[Answer]":
        """Claim a request: claimed | busy | wait | done | unknown, with what each tells.

        claimed: epoch, now, effect that the handler must declare, last progress, lost span;
        busy: owner, ms left; wait: ms left at most; done: status, lost span, whether it is dead
        now; unknown: the entry has to be adopted first.
        """
        shared = (group, owner, str(lease_ms), self._reply_ttl_ms, str(retention_ms))
        return self._together(
            "begin", (*shared, str(max_deliveries)), (record, stream), (entry_id, token, *trace)
        )

    def progress(
        self, record: str, stream: str, payload: str, *, token: str, seq: int, trace: Trace
    ) -> "asyncio.Future[Answer]":
        """Write a numbered progress stage: ok | stale, status, epoch.

        Like `finish` it waits for a server that is away: a handler does not fail for that.
        """
        args = (token, str(seq), payload, *trace)
        return self._together(
            "progress", (self._reply_ttl_ms,), (record, stream), args, call_timeout_s=math.inf
        )

    async def follow(self, record: str, trace: Trace) -> Answer:
        """Have a request keep a log of its stages: ok."""
        return await self._fcall("follow", (record,), (self._reply_ttl_ms, *trace))

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
        retention_ms: int,
        trace: Trace,
        writes: Sequence[Sequence[str]] = (),
    ) -> "asyncio.Future[Answer]":
        """Store the outcome, reply and ack: ok | stale, status, epoch | mismatch, key.

        It waits for a server that is away for as long as it takes: work that is done is not
        given up, and another claim is refused or wins meanwhile.
        """
        args = [entry_id, token, status, payload, *trace]
        for write in writes:
            args += write
        shared = (group, str(retention_ms), self._reply_ttl_ms)
        return self._together("finish", shared, (record, stream), args, call_timeout_s=math.inf)

    async def release(
        self, record: str, stream: str, *, group: str, entry_id: str, owner: str, token: str
    ) -> Answer:
        """Give a claim back without an outcome: ok | stale, status | told."""
        return await self._fcall("release", (record, stream), (group, entry_id, owner, token))

    async def cancel(
        self, record: str, *, retention_ms: int, wakeup_prefix: str, trace: Trace
    ) -> Answer:
        """End a request, or ask its handler to: cancelled | cancelling | how it ended."""
        return await self._fcall(
            "cancel",
            (record,),
            (self._reply_ttl_ms, str(retention_ms), wakeup_prefix, *trace),
        )

    async def sweep(
        self,
        sweeper: str,
        stream: str,
        *,
        owner: str,
        group: str,
        lease_ms: int,
        count: int,
        keep: int,
    ) -> list[tuple[str, dict[bytes, bytes]]]:
        """Take over entries that nobody renewed for a lease, at most `count`; trim behind `keep`."""
        answer = await self._caller.call(
            *("FCALL", f"{LIBRARY}_sweep", 2, sweeper, stream, owner, group, lease_ms, count, keep)
        )
        return [
            (entry_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))
            for entry_id, flat in answer[1:]
        ]

    async def event(
        self,
        stream: str,
        record: str,
        fields: Mapping[str, str],
        *,
        token: str,
        maxlen: int | None,
        ttl_ms: int | None,
    ) -> Answer:
        """Write any entry but a stranger's stage: ok, entry id | refused, status, owner."""
        return await self._fcall(
            "event",
            (stream, record),
            (fields["status"], token, _optional(maxlen), _optional(ttl_ms), *_flat(fields)),
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
    ) -> Answer:
        """Turn an entry that is no command into a dead letter: ok | done."""
        return await self._fcall(
            "reject",
            (stream, dead, record, reply_stream),
            (group, entry_id, self._reply_ttl_ms, str(len(letter)), *letter, *_flat(reply)),
        )

    async def announce(self, members: Sequence[tuple[str, str]], *, ttl_ms: int) -> Answer:
        """Say for `ttl_ms` what a listener handles, as (announcements key, member); 0: no more."""
        return await self._fcall(
            "announce",
            [key for key, _ in members],
            [str(ttl_ms), *(member for _, member in members)],
        )

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
    ) -> Answer:
        """Put a command back for a listener that can: passed, entry id | nobody, types…."""
        return await self._fcall(
            "forward",
            (stream, announcements, record),
            (group, entry_id, event_type, *fields),
        )

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
        told: Mapping[str, str],
    ) -> Answer:
        """Replace a saga's journal if it is at `version`: ok | moved, version.

        `index` are the sorted sets of open, ended and stuck sagas.
        """
        return await self._fcall(
            "journal",
            (saga, stream, *index, *records),
            (str(version), journal, saga_id, state, str(delay_ms), *_flat(told)),
        )

    async def take_due(self, open_sagas: str, *, most: int, delay_ms: int) -> Answer:
        """Take open sagas that are due, and put their time off: ok, saga ids…."""
        return await self._fcall("take_due", (open_sagas,), (str(most), str(delay_ms)))

    async def look_after(
        self, open_sagas: str, saga_ids: Sequence[str], *, delay_ms: int
    ) -> Answer:
        """Put the time off at which sagas are due: ok."""
        return await self._fcall("look_after", (open_sagas,), (str(delay_ms), *saga_ids))

    async def join(self, stream: str, *, group: str, stale_ms: int, prefix: str) -> Answer:
        """Make a reader's own group at 0, and sweep those of dead readers."""
        return await self._fcall(
            "join",
            (stream,),
            (group, self._reply_ttl_ms, str(stale_ms), prefix),
        )

    async def leave(self, stream: str, *, group: str) -> Answer:
        """Destroy a reader's group, and a stream that nobody wrote to."""
        return await self._fcall("leave", (stream,), (group,))


def _optional(value: int | None) -> str:
    return "" if value is None else str(value)
