"""The library's calls bound to this application's settings, and storage for map parts."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Any

from app.config import get_settings
from sagastream import BackoffConfig, Bus, SagastreamError
from sagastream._codec.entries import decode_reply
from sagastream._redis.connection import entries
from sagastream.message import OnProgress

_BLOCK_MS = 500


class BlobMissing(SagastreamError):
    """A stored map part is gone: it expired, or the server lost it."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"map part {reference} is no longer stored (see BLOB_TTL_S)")
        self.reference = reference

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reference,)


def get_bus() -> Bus:
    """This process's bus."""
    settings = get_settings()
    return _bus_of(
        settings.redis_url,
        settings.namespace,
        settings.max_payload,
        settings.retention_s,
        settings.call_timeout_s,
    )


@lru_cache
def _bus_of(
    url: str, namespace: str, max_payload: int, retention_s: float, call_timeout_s: float
) -> Bus:
    # Of what it needs alone: settings that differ in something else share their connections.
    return Bus(
        url,
        namespace=namespace,
        max_payload=max_payload,
        retention_s=retention_s,
        call_timeout_s=call_timeout_s,
    )


async def emit_command(stream: str, **options: Any) -> str:
    """`Bus.emit_command` on this application's server."""
    return await get_bus().emit_command(stream, **options)


async def emit_event(stream: str, **options: Any) -> str:
    """`Bus.emit_event` on this application's server, with its `maxlen` and `ttl`."""
    settings = get_settings()
    limits = {"maxlen": settings.event_maxlen, "ttl": settings.event_ttl_s}
    return await get_bus().emit_event(stream, **(limits | options))


async def read_replies(
    stream: str,
    correlation_id: str,
    request_id: str,
    timeout: float | None = None,
    backoff_config: BackoffConfig | None = None,
) -> dict[str, Any]:
    """`Bus.read_replies` on this application's server, with its timeout and backoff."""
    settings = get_settings()
    return await get_bus().read_replies(
        stream,
        correlation_id,
        request_id,
        settings.reply_timeout_s if timeout is None else timeout,
        backoff_config
        or BackoffConfig(
            initial_delay=settings.reply_initial_delay_s,
            max_delay=settings.reply_max_delay_s,
            factor=settings.reply_backoff_factor,
        ),
    )


async def request_and_reply(
    stream: str,
    event_type: str,
    payload: Mapping[str, Any],
    timeout: float | None = None,
    on_progress: OnProgress | None = None,
    **ids: Any,
) -> dict[str, Any]:
    """`Bus.request_and_reply` on this application's server, with its timeout."""
    settings = get_settings()
    return await get_bus().request_and_reply(
        stream,
        event_type,
        payload,
        timeout=settings.reply_timeout_s if timeout is None else timeout,
        on_progress=on_progress,
        **ids,
    )


async def read_stream(stream: str, *, follow: bool) -> AsyncIterator[dict[str, Any]]:
    """The entries of a stream of replies or events, from the first.

    Args:
        stream: Its name.
        follow: Go on with what comes, without end, and wait for a server that is away.

    Yields:
        Each entry's fields, its `payload` decoded, with its `entry_id`.

    Raises:
        ServerUnavailable: The server did not answer, and nothing is followed.
    """
    key, last, connection = get_bus().key(stream), "0-0", get_bus().session().connection
    while True:
        what = ("STREAMS", key, last)
        try:
            if follow:
                answer = await connection.block("XREAD", "COUNT", 100, "BLOCK", _BLOCK_MS, *what)
            else:
                answer = await connection.call("XREAD", "COUNT", 100, *what)
        except (SagastreamError, OSError):
            if not follow:
                raise
            await asyncio.sleep(_BLOCK_MS / 1000)
            continue
        for _, entry_id, raw in entries(answer):
            last = entry_id.decode()
            reply = decode_reply(raw, max_bytes=get_settings().max_payload)
            yield reply | {"entry_id": last}
        if not answer and not follow:
            return


async def put_blob(data: bytes, *, ttl_s: int | None = None) -> str:
    """Store bytes compressed under their hash, for a while; returns the reference."""
    reference = hashlib.sha256(data).hexdigest()
    await (
        get_bus()
        .session()
        .connection.call(
            *("SET", get_bus().key(f"blob:{reference}"), zlib.compress(data, 1)),
            *("EX", ttl_s or get_settings().blob_ttl_s),
        )
    )
    return reference


async def get_blob(reference: str) -> bytes:
    """Fetch what `put_blob` stored.

    Raises:
        BlobMissing: It is no longer there.
    """
    stored = await get_bus().command("GET", get_bus().key(f"blob:{reference}"))
    if stored is None:
        raise BlobMissing(reference)
    return zlib.decompress(stored)
