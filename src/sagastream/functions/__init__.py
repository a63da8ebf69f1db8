"""The server-side transitions: one Lua library, and a typed stub for each function.

The Lua stands in `sagastream.lua`. Library and functions carry a digest of their source
in their names, so that two releases share a server and none runs the other's code.
"""

import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from typing import Any, Literal

_TEMPLATE = files(__package__).joinpath("sagastream.lua").read_text(encoding="utf-8")
LIBRARY = "sagastream_" + hashlib.sha256(_TEMPLATE.encode()).hexdigest()[:12]
SOURCE = _TEMPLATE.replace("@LIBRARY@", LIBRARY)

Call = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function says: a word, and what belongs to it."""

    word: str
    rest: tuple[str, ...]


def _flat(fields: Mapping[str, str]) -> list[str]:
    return list(chain.from_iterable(fields.items()))


class Functions:
    """Typed calls of the library's functions.

    Args:
        call: Sends one `FCALL name numkeys keys… args…` and returns its answer; it loads
            the library where it is missing and may repeat the call, as each function
            answers alike when repeated.
        reply_ttl_ms: How long a reply stream lives after its last entry.
    """

    def __init__(self, call: Call, *, reply_ttl_ms: int) -> None:
        self._call = call
        self._reply_ttl_ms = str(reply_ttl_ms)

    async def _fcall(
        self,
        name: str,
        keys: Sequence[str],
        args: Sequence[str | bytes],
        **options: float,
    ) -> Answer:
        call = ("FCALL", f"{LIBRARY}_{name}", len(keys), *keys, *args)
        answer = await self._call(*call, **options)
        word, *rest = [part.decode() if isinstance(part, bytes) else str(part) for part in answer]
        return Answer(word, tuple(rest))

    async def emit(
        self,
        record: str,
        stream: str,
        instance: str,
        fields: Mapping[str, str],
        *,
        reply_streams: Sequence[str],
        deadline_ms: int | None,
        maxlen: int | None,
        ttl_ms: int | None,
        effect: str = "",
        closes: Sequence[tuple[str, str]] = (),
        doorbells: str = "",
    ) -> Answer:
        """Write record and entry: new | known | conflict, entry id, status, reply, counter.

        `fields` begin as those of `Emission` do. `closes` are records with their request ids,
        which end in the same step.
        """
        return await self._fcall(
            "emit",
            (record, stream, instance),
            (
                _optional(deadline_ms),
                _optional(maxlen),
                _optional(ttl_ms),
                self._reply_ttl_ms,
                effect,
                doorbells,
                str(len(reply_streams)),
                *reply_streams,
                str(len(closes)),
                *(part for closed in closes for part in closed),
                *_flat(fields),
            ),
        )

    async def begin(
        self,
        record: str,
        stream: str,
        dead: str,
        *,
        group: str,
        entry_id: str,
        owner: str,
        token: str,
        lease_ms: int,
        retention_ms: int,
        max_deliveries: int,
        reply_streams: Sequence[str],
        start: Mapping[str, str],
        entry: str = "",
    ) -> Answer:
        """Claim a request: claimed | busy | wait | done | conflict | gone, with what each tells.

        claimed: epoch, now, effect that the handler must declare, last progress; busy: owner,
        ms left; wait: ms left at most; done: status; gone: give the `entry`, as JSON of fields
        and values in turn, as the server has neither record nor entry.
        """
        return await self._fcall(
            "begin",
            (record, stream, dead),
            (
                group,
                entry_id,
                owner,
                token,
                str(lease_ms),
                self._reply_ttl_ms,
                str(retention_ms),
                str(max_deliveries),
                entry,
                str(len(reply_streams)),
                *reply_streams,
                *_flat(start),
            ),
        )

    async def progress(
        self,
        record: str,
        fields: Mapping[str, str],
        *,
        token: str,
        seq: int,
    ) -> Answer:
        """Write a numbered progress stage: ok | stale, status, epoch.

        Like `finish` it waits for a server that is away: a handler does not fail for that.
        """
        return await self._fcall(
            "progress",
            (record,),
            (token, str(seq), self._reply_ttl_ms, *_flat(fields)),
            patience_s=math.inf,
        )

    async def follow(self, record: str, start: Mapping[str, str]) -> Answer:
        """Have a request keep a log of its stages: ok."""
        return await self._fcall("follow", (record,), (self._reply_ttl_ms, *_flat(start)))

    async def finish(
        self,
        record: str,
        stream: str,
        fields: Mapping[str, str],
        *,
        group: str,
        entry_id: str,
        token: str,
        retention_ms: int,
        writes: Sequence[Sequence[str]] = (),
    ) -> Answer:
        """Store the outcome, reply and ack: ok | stale, status, epoch | mismatch, key.

        It waits for a server that is away for as long as it takes: work that is done is not
        given up, and another claim is refused or wins meanwhile.
        """
        return await self._fcall(
            "finish",
            (record, stream),
            (
                group,
                entry_id,
                token,
                fields["status"],
                str(retention_ms),
                self._reply_ttl_ms,
                str(len(writes)),
                *(part for write in writes for part in write),
                *_flat(fields),
            ),
            patience_s=math.inf,
        )

    async def release(
        self, record: str, stream: str, *, group: str, entry_id: str, owner: str, token: str
    ) -> Answer:
        """Give a claim back without an outcome: ok | stale, status | told."""
        return await self._fcall("release", (record, stream), (group, entry_id, owner, token))

    async def cancel(
        self, record: str, fields: Mapping[str, str], *, retention_ms: int, doorbells: str
    ) -> Answer:
        """End a request, or ask its handler to: cancelled | cancelling | how it ended."""
        return await self._fcall(
            "cancel",
            (record,),
            (self._reply_ttl_ms, str(retention_ms), doorbells, *_flat(fields)),
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
        answer = await self._call(
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

    async def pass_on(
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
            "pass_on",
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

    async def due(self, open_sagas: str, *, most: int, delay_ms: int) -> Answer:
        """Take open sagas that are due, and put their time off: ok, saga ids…."""
        return await self._fcall("due", (open_sagas,), (str(most), str(delay_ms)))

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
