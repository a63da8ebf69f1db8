"""Read a request's replies from any reply stream, or all stages from its own log.

Each reader of a reply stream has its own consumer group, which begins at the first entry and is
destroyed when the reader leaves. So two readers of one stream each get their own reply, and a
late reader still gets it.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sagastream._client.session import Session
from sagastream._client.terminal_outcome import read_outcome
from sagastream._codec.entries import StreamEntry, decode_reply, text_fields
from sagastream._redis.connection import BLOCK_MS
from sagastream._redis.deadline import Deadline
from sagastream._redis.protocol import entries
from sagastream._redis.retrying import backoff_delays, is_group_gone
from sagastream._telemetry.trace_context import Trace
from sagastream.errors import (
    InvalidMessage,
    ResultExpired,
    SagastreamError,
    ServerError,
    ServerUnavailable,
)
from sagastream.message import TERMINAL_STAGES

logger = logging.getLogger(__name__)

_READER_PREFIX = "reader-"
_STALE_READER_MS = 60_000
# How long a reader waits for the answer when it leaves, in seconds; the reply is worth more.
_LEAVE_S = 0.02


@dataclass(frozen=True, slots=True)
class BackoffConfig:
    """How long an empty read waits: each read's BLOCK is longer than the one before.

    Attributes:
        initial_delay: The first wait, in seconds.
        max_delay: The longest wait, in seconds.
        factor: The growth of the waits.
    """

    initial_delay: float = 0.1
    max_delay: float = 1.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.initial_delay <= self.max_delay <= 2.0:  # noqa: PLR2004 - BLOCK's limit
            raise ValueError(
                f"0 < initial_delay ({self.initial_delay}) <= max_delay ({self.max_delay}) <= 2 "
                "must hold, in seconds: a longer BLOCK outlives the socket timeout",
            )
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}")


class GroupReader:
    """Reads the stages of one request from a reply stream, with its own consumer group.

    Args:
        session: The server.
        stream: The reply stream, without the namespace.
        correlation_id: The request's correlation id.
        request_id: The request.
        deadline: When the wait ends.
        backoff: How the waits of empty reads grow.
        on_stage: Called with each stage.

    Attributes:
        is_emitted: The command is emitted elsewhere.
        last_stage: The status of the last stage that came, None before the first.
    """

    def __init__(
        self,
        session: Session,
        stream: str,
        *,
        correlation_id: str,
        request_id: str,
        deadline: Deadline,
        backoff: BackoffConfig,
        on_stage: Callable[[dict[str, Any]], None],
    ) -> None:
        self.is_emitted = True
        self.last_stage: str | None = None
        self._session = session
        self._key = session.options.key(stream)
        self._correlation_id = correlation_id
        self._request_id = request_id
        self._deadline = deadline
        self._backoff = backoff
        self._on_stage = on_stage
        self._name = f"{_READER_PREFIX}{uuid.uuid4()}"
        self._has_joined = False
        self._known: set[str] = set()

    async def until_terminal(self) -> dict[str, Any]:
        """Read until the terminal reply is there, and return it.

        Raises:
            DataLost: The server came back without our data.
            ServerUnavailable: The server did not answer at first.
        """
        try:
            await self._session.guard.check()
            return await self.last_look() or await self._read()
        finally:
            await asyncio.shield(self._leave())

    async def last_look(self, deadline: Deadline | None = None) -> dict[str, Any] | None:
        """The terminal reply in the request's record, None while there is none."""
        reply = await read_outcome(
            self._session, self._request_id, deadline=deadline, known=self._known
        )
        if reply is None or reply.get("correlation_id") != self._correlation_id:
            return None
        self._on_stage(reply)
        return reply

    async def _read(self) -> dict[str, Any]:
        session, name, backoff = self._session, self._name, self._backoff
        await self._join()
        delay, retry_delays = backoff.initial_delay, iter(backoff_delays())
        while not self._deadline.is_over:
            block_ms = max(1, round(min(delay, self._deadline.left_s) * 1000))
            try:
                answer = await session.connection.block(
                    *("XREADGROUP", "GROUP", name, name, "COUNT", 100),
                    *("BLOCK", block_ms, "NOACK", "STREAMS", self._key, ">"),
                )
            except ServerUnavailable as error:
                session.connection.note_loss(error)
                await asyncio.sleep(next(retry_delays))
                reply = await self.last_look()
                if reply:
                    return reply
                continue
            except ServerError as error:
                if not is_group_gone(error):
                    raise
                await session.guard.check()
                await self._join()
                continue
            delay = delay if answer else min(delay * backoff.factor, backoff.max_delay)
            for stage in self._stages_of(answer):
                self.last_stage = stage["status"]
                self._on_stage(stage)
                ids = {"request_id": self._request_id, "correlation_id": self._correlation_id}
                logger.info("reply %s", self.last_stage, extra=ids)
                if self.last_stage in TERMINAL_STAGES:
                    return stage
        raise TimeoutError

    async def _leave(self) -> None:
        """Destroy the group. One that stays is destroyed by a later reader."""
        if not self._has_joined:
            return
        try:
            deadline = Deadline(_LEAVE_S)
            await self._session.streams.leave(self._key, group=self._name, deadline=deadline)
        except SagastreamError as error:
            logger.debug("group %s of %s stays: %s", self._name, self._key, error)

    async def _join(self) -> None:
        self._has_joined = True
        await self._session.streams.join(
            self._key, group=self._name, stale_ms=_STALE_READER_MS, prefix=_READER_PREFIX
        )

    def _stages_of(self, answer: Any) -> Iterator[dict[str, Any]]:
        wanted, max_bytes = self._request_id.encode(), self._session.options.max_payload
        for stream, entry_id, raw in entries(answer):
            if raw.get(b"request_id") != wanted:
                continue
            try:
                stage = decode_reply(raw, max_bytes=max_bytes)
            except InvalidMessage as error:
                logger.warning(
                    "%s %s: malformed reply: %s", stream.decode(), entry_id.decode(), error
                )
                continue
            if stage.get("correlation_id") == self._correlation_id:
                yield stage


async def read_stages(
    session: Session, request_id: str, after: str | None, trace: Trace
) -> list[dict[str, Any]]:
    """Wait for the next stages in a request's own log.

    Args:
        session: The server.
        request_id: The request.
        after: The entry id of the last stage seen; None for all.
        trace: The trace context of the follower.

    Returns:
        At least one stage, each with its `entry_id`.
    """
    record, limit = session.options.record_key(request_id), session.options.max_payload
    block = ("XREAD", "COUNT", 100, "BLOCK", BLOCK_MS)
    retry_delays = iter(backoff_delays())
    while True:
        expired = await session.requests.follow(record, trace)  # it keeps the log from now on
        if expired:
            raise ResultExpired(request_id, expired.status, expired.ended_s)
        try:
            answer = await session.connection.block(
                *block, "STREAMS", f"{record}:stages", after or "0-0"
            )
        except ServerUnavailable as error:
            session.connection.note_loss(error)
            await asyncio.sleep(next(retry_delays))
            continue
        stages = [
            decode_reply(raw, max_bytes=limit) | {"entry_id": entry_id.decode()}
            for _, entry_id, raw in entries(answer)
        ]
        if stages:
            return stages


async def follow_stages(
    session: Session, request_id: str, after: str | None, trace: Trace
) -> AsyncIterator[dict[str, Any]]:
    """The stages in a request's own log, until the terminal one.

    The arguments are those of `read_stages`.
    """
    while True:
        for stage in await read_stages(session, request_id, after, trace):
            after = stage["entry_id"]
            yield stage
            if stage["status"] in TERMINAL_STAGES:
                return


async def read_entries(
    session: Session, after: Mapping[str, str], *, count: int, block_s: float
) -> list[StreamEntry]:
    """Read the entries of streams after a known one, as `Bus.read_entries` describes."""
    names = {session.options.key(stream).encode(): stream for stream in after}
    streams = ("COUNT", count, "STREAMS", *names, *after.values())
    if block_s:
        block_ms = round(block_s * 1000)
        reading = session.connection.block("XREAD", "BLOCK", block_ms, *streams)
        deadline = Deadline(block_s + session.connection.call_timeout_s)
        answer = await session.connection.within(deadline, reading)
    else:
        answer = await session.connection.call("XREAD", *streams)
    return [
        StreamEntry(names[key], entry_id.decode(), text_fields(raw))
        for key, entry_id, raw in entries(answer)
    ]
