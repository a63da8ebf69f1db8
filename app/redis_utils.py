"""`sagastream` calls bound to the application's settings, and storage for map parts.

A stored map part (a blob) is content-addressed: its reference is the hash of its bytes.
"""

import asyncio
import hashlib
import logging
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Any, Literal

from app.config import get_settings
from app.shutdown import GRACE_S, shutdown
from sagastream import (
    BackoffConfig,
    Bus,
    CommandListener,
    InvalidMessage,
    Retention,
    SagastreamError,
    ServerError,
    StreamEntry,
)
from sagastream.message import OnProgress

_BLOCK_S = 0.5
_GIVE_BACK_S = 1.5


logger = logging.getLogger(__name__)

# The largest blob: as many bytes as the largest map has cells, twice.
MAX_BLOB_BYTES = 32_000_000
_REFERENCE = re.compile(r"[0-9a-f]{64}")


class BlobMissing(SagastreamError):
    """A stored map part is missing: it expired, or the server lost it.

    Attributes:
        reference: The hash of the missing part.
    """

    def __init__(self, reference: str) -> None:
        super().__init__(f"map part {reference} is no longer stored (see BLOB_TTL_S)")
        self.reference = reference

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reference,)


class BlobInvalid(SagastreamError):
    """What is stored under a reference is not what was stored there, or is too large."""

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(f"map part {reference[:70]} {reason}")
        self.reference = reference
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reference, self.reason)


def get_bus() -> Bus:
    """Return the bus of this process."""
    settings = get_settings()
    result_s = min(settings.result_s, settings.retention_s)
    return _bus_of(
        settings.redis_url,
        settings.namespace,
        settings.max_payload,
        Retention(result_s=result_s, remember_s=settings.retention_s),
        settings.call_timeout_s,
        (settings.durability, settings.replicas, settings.replicated_within_s),
    )


@lru_cache
def _bus_of(  # noqa: PLR0917 - the cache needs all as arguments
    url: str,
    namespace: str,
    max_payload: int,
    retention: Retention,
    call_timeout_s: float,
    replication: tuple[Literal["primary", "replicated"], int, float],
) -> Bus:
    # Cached by these arguments only: other settings may change without new connections.
    return Bus(
        url,
        namespace=namespace,
        max_payload=max_payload,
        retention=retention,
        call_timeout_s=call_timeout_s,
        durability=replication[0],
        replicas=replication[1],
        replicated_within_s=replication[2],
    )


async def emit_command(stream: str, **options: Any) -> str:
    """Call `Bus.emit_command` on the application's server."""
    return await get_bus().emit_command(stream, **options)


async def emit_event(stream: str, **options: Any) -> str:
    """Call `Bus.emit_event` on the application's server, with its `maxlen` and `ttl`."""
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
    """Call `Bus.read_replies` on the application's server, with its timeout and backoff."""
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
    """Call `Bus.request_and_reply` on the application's server, with its timeout."""
    settings = get_settings()
    return await get_bus().request_and_reply(
        stream,
        event_type,
        payload,
        timeout=settings.reply_timeout_s if timeout is None else timeout,
        on_progress=on_progress,
        **ids,
    )


def payload_of(text: str) -> dict[str, Any]:
    """Decode the payload of an entry, as strictly as the library does.

    Raises:
        InvalidMessage: It is malformed, or too large.
    """
    # Only the payload is checked: entries of events need no other field.
    fields = {"request_id": "any", "status": "progress", "payload": text}
    reply = StreamEntry("", "0-0", fields).reply(max_bytes=get_bus().max_payload)
    payload: dict[str, Any] = reply["payload"]
    return payload


async def read_streams(
    after: Mapping[str, str], *, count: int, block_s: float
) -> list[StreamEntry]:
    """Read the next entries of several streams; a key that is no stream hides only its own.

    Args:
        after: The id of the last entry that was read, by the stream's name without the namespace.
        count: How many entries of each stream, at most.
        block_s: How long to wait for the first entry, in seconds.

    Raises:
        SagastreamError: The server did not answer.
    """
    try:
        return await get_bus().read_entries(after, count=count, block_s=block_s)
    except ServerError:
        pass
    entries: list[StreamEntry] = []
    for stream, last in after.items():
        try:
            entries += await get_bus().read_entries({stream: last}, count=count)
        except ServerError:
            continue
    if not entries:
        await asyncio.sleep(block_s)
    return entries


async def read_stream(stream: str, *, follow: bool) -> AsyncIterator[dict[str, Any]]:
    """Read the entries of a stream of replies or events, from the first one.

    Args:
        stream: The stream's name, without the namespace.
        follow: Continue with new entries, without end, and wait while the server is unavailable.

    Yields:
        The fields of each entry with `payload` decoded, and its `entry_id`.

    An entry that is not a reply is logged and left out.

    Raises:
        ServerUnavailable: The server did not answer, and `follow` is false.
    """
    bus, last = get_bus(), "0-0"
    while True:
        try:
            entries = await bus.read_entries({stream: last}, block_s=_BLOCK_S if follow else 0.0)
        except SagastreamError:
            if not follow:
                raise
            await asyncio.sleep(_BLOCK_S)
            continue
        for entry in entries:
            last = entry.entry_id
            try:
                reply = entry.reply(max_bytes=bus.max_payload)
            except InvalidMessage as error:
                logger.warning("%s %s is not a reply: %s", stream, last, error)
                continue
            yield reply
        if not entries and not follow:
            return


async def run_listener(listener: CommandListener, *, drain_s: float) -> None:
    """Run a listener until SIGTERM, SIGINT or SIGHUP; then it drains. For the main thread.

    At the second signal, and 3 s after a Ctrl-C, it cancels the handlers that still run and gives
    their commands back. `app.shutdown.shutdown.exit_code` is then the exit code of the program.

    Args:
        listener: The listener, with this `drain_s`.
        drain_s: How long it drains after SIGTERM, in seconds.

    Raises:
        ServerUnavailable: The server cannot be reached at the start.
    """
    shutdown.install()
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(listener.run())

    def stop() -> None:
        listener.stop()
        loop.call_later(shutdown.left_s(drain_s) - _GIVE_BACK_S, running.cancel)

    with shutdown.graceful(
        lambda: loop.call_soon_threadsafe(stop),
        hurry=lambda: loop.call_soon_threadsafe(running.cancel),
        grace_s=drain_s + GRACE_S,
    ):
        try:
            await running
        except asyncio.CancelledError:
            if not running.cancelled() or not shutdown.number:
                raise


async def put_blob(data: bytes, *, ttl_s: int | None = None) -> str:
    """Store bytes, compressed, under their hash.

    Args:
        data: The bytes to store.
        ttl_s: Seconds to keep them; None for the setting `blob_ttl_s`.

    Returns:
        The reference: the SHA-256 of the bytes, in hex.
    """
    reference = hashlib.sha256(data).hexdigest()
    bus = get_bus()
    await bus.command(
        *("SET", bus.key(f"blob:{reference}"), zlib.compress(data, 1)),
        *("EX", ttl_s or get_settings().blob_ttl_s),
    )
    return reference


async def get_blob(reference: str) -> bytes:
    """Fetch what `put_blob` stored.

    At most `MAX_BLOB_BYTES` are read and decompressed, whatever is stored.

    Raises:
        BlobMissing: It expired, or the server lost it.
        BlobInvalid: It is too large, or not what its reference says.
    """
    bus = get_bus()
    key = bus.key(f"blob:{_checked_reference(reference)}")
    stored = await bus.command("GETRANGE", key, 0, MAX_BLOB_BYTES)
    if not stored:
        raise BlobMissing(reference)
    try:
        data = await asyncio.to_thread(_decompressed, stored)
    except (zlib.error, ValueError) as error:
        raise BlobInvalid(reference, f"cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != reference:
        raise BlobInvalid(reference, "has another content than its reference says")
    return data


def _checked_reference(reference: object) -> str:
    """Return a reference if it is one.

    Raises:
        BlobInvalid: It is not the SHA-256 of something, in hex.
    """
    if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
        raise BlobInvalid(str(reference), "is no reference: it is not a SHA-256 in hex")
    return reference


def _decompressed(stored: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(stored, MAX_BLOB_BYTES)
    if not unpacker.eof:
        raise ValueError(f"it is cut off, or larger than the limit of {MAX_BLOB_BYTES} bytes")
    return data
