"""Connections to the server: one per process and loop, lazily made, with no client retries.

Commands of one tick travel together on one connection. What is repeated after a lost
connection is only what answers alike when repeated; the caller says how long to try.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterable, Iterator
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio as redis
from opentelemetry.context import attach, detach, set_value
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from sagastream.errors import ServerRefused, ServerUnavailable, ServerUnsuitable
from sagastream.functions import SOURCE
from sagastream.telemetry import retried

logger = logging.getLogger(__name__)

BLOCK_MS = 2000
SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
LOST = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, OSError)
_BATCH = 256
# Full memory or disk, a replica, a cluster in between: it may be over in a moment.
_MENDS_ITSELF = (OutOfMemoryError, ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError)
_MENDS_ITSELF_WORDS = ("MISCONF", "BUSY ", "NOREPLICAS", "UNBLOCKED force unblock")
# The name by which OpenTelemetry's instrumentations know that a span is not wanted.
_SUPPRESS = "suppress_instrumentation"


def redact(url: str) -> str:
    """The address in a URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port:
        host = f"{host}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def make_client(url: str) -> "redis.Redis":
    """A client that never repeats a command by itself."""
    return redis.Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        driver_info=None,  # redis-py would read package metadata from disk for each connection
        **({} if url.startswith("unix") else {"socket_keepalive": True}),
    )


def backoff_delays(first: float = 0.05, limit: float = 0.5) -> Iterable[float]:
    """Delays in seconds that double up to a limit, each with full jitter over its half.

    With this limit a server that was away is in use again within a second of its return.
    """
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        delay = min(delay * 2, limit)


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Keep instrumentations quiet: an idle blocking read is not worth a root span."""
    token = attach(set_value(_SUPPRESS, value=True))
    try:
        yield
    finally:
        detach(token)


class Connection:
    """The commands of one process and loop.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        patience_s: How long a call waits for a server that does not answer.
    """

    def __init__(self, url: str, *, patience_s: float) -> None:
        self.address = redact(url)
        self._client = make_client(url)
        self._blocking = make_client(url)
        self._patience_s = patience_s
        self._queue: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._lost = False

    async def call(self, *args: Any, patience_s: float | None = None) -> Any:
        """Send a command that answers alike when it is sent again.

        Raises:
            ServerUnavailable: No answer within `patience_s` seconds.
            ServerRefused: For as long, the server took no writes.
            ServerUnsuitable: The server refuses the connection or has no functions.
            redis.exceptions.ResponseError: The server refused the command.
        """
        patience = self._patience_s if patience_s is None else patience_s
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        for delay in backoff_delays():
            try:
                answer = await self._send(args)
            except AuthenticationError as error:
                raise ServerUnsuitable(f"{self.address} refuses us: {error}") from error
            except LOST as error:
                self.note_loss(error)
                if loop.time() + delay >= give_up:
                    raise ServerUnavailable(self.address, str(error) or repr(error)) from error
                retried(error)
                await asyncio.sleep(delay)
            except ResponseError as error:
                if _mends_itself(error):
                    self.note_loss(error)
                    if loop.time() + delay >= give_up:
                        raise ServerRefused(self.address, str(error)) from error
                    retried(error)
                    await asyncio.sleep(delay)
                elif "Function not found" in str(error):
                    await self.load_functions(patience_s=give_up - loop.time())
                else:
                    raise
            else:
                self.note_return()
                return answer
        raise AssertionError("backoff_delays never ends")

    async def load_functions(self, *, patience_s: float | None = None) -> None:
        """Put the function library on the server, where it is missing.

        Raises:
            ServerUnavailable: No answer within `patience_s` seconds.
            ServerRefused: For as long, the server took no writes.
            ServerUnsuitable: The server has no functions.
        """
        try:
            await self.call("FUNCTION", "LOAD", SOURCE, patience_s=patience_s)
        except ResponseError as error:
            if "already exists" in str(error):
                return
            raise ServerUnsuitable(
                f"{self.address} cannot take the function library ({error}); "
                "Redis 7.0 or Valkey 7.2 and later can",
            ) from error

    async def block(self, *args: Any) -> Any:
        """Send a blocking read on a connection apart; it is not repeated."""
        task = asyncio.current_task()
        asked_to_end = task.cancelling() if task else 0
        try:
            with untraced():
                answer = await self._blocking.execute_command(*args)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if _mends_itself(error):
                raise RedisConnectionError(str(error)) from error
            raise
        finally:
            # See `end`: a swallowed cancellation must not turn into a lost connection.
            if task and task.cancelling() > asked_to_end:
                raise asyncio.CancelledError
        self.note_return()
        return answer

    def note_loss(self, error: BaseException) -> None:
        """Log the loss of the server, once."""
        if not self._lost:
            self._lost = True
            logger.warning("lost %s: %s", self.address, error or repr(error))

    def note_return(self) -> None:
        """Log the return of the server, once."""
        if self._lost:
            self._lost = False
            logger.warning("%s is back", self.address)

    async def close(self) -> None:
        """Send what is queued, then close the sockets."""
        if self._flusher:
            await asyncio.wait([self._flusher])
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()
        with contextlib.suppress(RedisError, OSError):
            await self._blocking.aclose()

    async def _send(self, args: tuple[Any, ...]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((args, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush(), name="sagastream-flush")
        return await future

    async def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            pipeline = self._client.pipeline(transaction=False)
            for args, _ in batch:
                pipeline.execute_command(*args)
            answers: list[Any]
            try:
                with untraced():
                    answers = await pipeline.execute(raise_on_error=False)
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for it
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks until they are done: redis-py swallows a cancellation while it connects."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.05)


def _mends_itself(error: ResponseError) -> bool:
    return isinstance(error, _MENDS_ITSELF) or str(error).startswith(_MENDS_ITSELF_WORDS)


def is_group_gone(error: ResponseError) -> bool:
    """Whether a group read failed because stream or group was deleted; Redis 7.0 has a word more."""
    return str(error).startswith(("NOGROUP", "UNBLOCKED"))


def entries(answer: Any) -> Iterator[tuple[bytes, bytes, dict[bytes, bytes]]]:
    """Walk through the answer of a stream read: stream, entry id, fields."""
    for stream, items in cast("list[Any]", answer or []):
        for entry_id, fields in items:
            yield stream, entry_id, fields
