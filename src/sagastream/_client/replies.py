"""`read_replies` and `follow`: one request's end on any reply stream, or all its stages.

Each reader has a consumer group of its own, made at 0 and destroyed when it leaves: so
two readers of one stream each get their own reply, and a late one still gets it.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sagastream._codec.entries import decode_reply
from sagastream._functions.stubs import Functions
from sagastream._redis.backoff import backoff_delays
from sagastream._redis.connection import BLOCK_MS, Connection, entries, is_group_gone
from sagastream.errors import InvalidMessage, ReplyTimeout, ServerError, ServerUnavailable
from sagastream.message import TERMINAL_STAGES

logger = logging.getLogger(__name__)

READER_PREFIX = "reader-"
_STALE_READER_MS = 60_000


@dataclass(frozen=True, slots=True)
class BackoffConfig:
    """How long an empty read waits: the BLOCK of the next read grows from one to the next.

    Attributes:
        initial_delay: The first wait, in seconds.
        max_delay: The longest wait, in seconds.
        factor: What each wait is multiplied by.
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


async def read_until_terminal(
    connection: Connection,
    functions: Functions,
    stream: str,
    *,
    correlation_id: str,
    request_id: str,
    timeout: float,
    backoff: BackoffConfig,
    look: Callable[[], Awaitable[dict[str, Any] | None]],
    check: Callable[[], Awaitable[None]],
    on_stage: Callable[[dict[str, Any]], None],
    max_bytes: int,
) -> dict[str, Any]:
    """Read `stream` until the request's terminal reply is there, and return it.

    `stream` is a key; `look` reads the terminal reply from the request's record, and gives
    None while there is none; `check` raises `DataLost` when the server has lost our data;
    `on_stage` is told of each stage.

    Raises:
        ReplyTimeout: Nothing terminal within `timeout` seconds.
    """

    async def ended() -> dict[str, Any] | None:
        found = await look()
        if found:
            on_stage(found)
        return found

    await check()
    reply = await ended()
    if reply:
        return reply
    loop = asyncio.get_running_loop()
    give_up = loop.time() + timeout
    name = f"{READER_PREFIX}{uuid.uuid4()}"

    async def join() -> None:
        await functions.join(stream, group=name, stale_ms=_STALE_READER_MS, prefix=READER_PREFIX)

    await join()
    last_stage: str | None = None
    delay = backoff.initial_delay
    losses = iter(backoff_delays())
    try:
        while (left := give_up - loop.time()) > 0:
            block_ms = max(1, round(min(delay, left) * 1000))
            try:
                answer = await connection.block(
                    *("XREADGROUP", "GROUP", name, name, "COUNT", 100),
                    *("BLOCK", block_ms, "NOACK", "STREAMS", stream, ">"),
                )
            except ServerUnavailable as error:
                connection.note_loss(error)
                await asyncio.sleep(next(losses))
                reply = await ended()
                if reply:
                    return reply
                continue
            except ServerError as error:
                if not is_group_gone(error):
                    raise
                await check()
                await join()
                continue
            delay = delay if answer else min(delay * backoff.factor, backoff.max_delay)
            for stage in _stages_of(answer, request_id, correlation_id, max_bytes):
                last_stage = stage["status"]
                on_stage(stage)
                logger.info(
                    "reply %s",
                    last_stage,
                    extra={"request_id": request_id, "correlation_id": correlation_id},
                )
                if last_stage in TERMINAL_STAGES:
                    return stage
        reply = await ended()
        if reply:
            return reply
        raise ReplyTimeout(request_id, timeout, last_stage)
    finally:
        await asyncio.shield(functions.leave(stream, group=name))


def _stages_of(
    answer: Any, request_id: str, correlation_id: str, max_bytes: int
) -> Iterator[dict[str, Any]]:
    """The stages of one request among what was read."""
    wanted = request_id.encode()
    for stream, entry_id, raw in entries(answer):
        if raw.get(b"request_id") != wanted:
            continue
        try:
            stage = decode_reply(raw, max_bytes=max_bytes)
        except InvalidMessage as error:
            logger.warning("%s %s is no reply: %s", stream.decode(), entry_id.decode(), error)
            continue
        if stage.get("correlation_id") == correlation_id:
            yield stage


async def follow_stages(
    connection: Connection,
    record: str,
    after: str | None,
    *,
    max_bytes: int,
    keep: Callable[[], Awaitable[Any]],
) -> AsyncIterator[dict[str, Any]]:
    """The stages in a request's own log, until the terminal one; `keep` has it kept."""
    last, losses = (after or "0-0").encode(), iter(backoff_delays())
    while True:
        await keep()
        try:
            answer = await connection.block(
                "XREAD", "COUNT", 100, "BLOCK", BLOCK_MS, "STREAMS", f"{record}:stages", last
            )
        except ServerUnavailable as error:
            connection.note_loss(error)
            await asyncio.sleep(next(losses))
            continue
        for _, entry_id, raw in entries(answer):
            last = entry_id
            stage = decode_reply(raw, max_bytes=max_bytes) | {"entry_id": entry_id.decode()}
            yield stage
            if stage["status"] in TERMINAL_STAGES:
                return
