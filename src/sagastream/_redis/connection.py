"""Connections to the server: one per process and loop, lazily made, with no client retries.

Commands of one tick travel together on one connection. What is repeated after a lost
connection is only what answers alike when repeated; the caller says how long to try.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from sagastream._functions.stubs import SOURCE
from sagastream._redis.protocol import Receive, Wire, connect, pack, settings_of, settle
from sagastream._telemetry.spans import retried
from sagastream.errors import ServerRefused, ServerUnavailable, ServerUnsuitable

logger = logging.getLogger(__name__)

BLOCK_MS = 2000
LOST = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, OSError)
# How many commands may be on their way at once; more wait here.
_WINDOW = 1024
# Full memory or disk, a replica, a cluster in between: it may be over in a moment.
_MENDS_ITSELF = (OutOfMemoryError, ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError)
_MENDS_ITSELF_WORDS = ("MISCONF", "BUSY ", "NOREPLICAS", "UNBLOCKED force unblock")
# How redis-py makes values of answers: no more than `INFO` as a mapping, and the like.
_CALLBACKS: dict[str, Callable[[Any], Any]] = redis.Redis(protocol=2).response_callbacks


def redact(url: str) -> str:
    """The address in a URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port:
        host = f"{host}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def backoff_delays(first: float = 0.05, limit: float = 0.5) -> Iterable[float]:
    """Delays in seconds that double up to a limit, each with full jitter over its half.

    With this limit a server that was away is in use again within a second of its return.
    """
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        delay = min(delay * 2, limit)


class Connection:
    """The commands of one process and loop.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        patience_s: How long a call waits for a server that does not answer.
    """

    def __init__(self, url: str, *, patience_s: float) -> None:
        self.address = redact(url)
        self._settings = settings_of(url)
        self.patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[bytes, Receive]] = []
        self._is_due = False
        self._wire: Wire | None = None
        self._idle: list[Wire] = []
        self._returning: asyncio.Task[Any] | None = None
        self._opening: set[asyncio.Task[Any]] = set()
        self._repeating: set[asyncio.Task[Any]] = set()
        self._lost = False

    async def call(self, *args: Any, patience_s: float | None = None) -> Any:
        """Send a command that answers alike when it is sent again.

        Raises:
            ServerUnavailable: No answer within `patience_s` seconds.
            ServerRefused: For as long, the server took no writes.
            ServerUnsuitable: The server refuses the connection or has no functions.
            redis.exceptions.ResponseError: The server refused the command.
        """
        try:
            answer = await self._send(args)
        except (*LOST, ResponseError, AuthenticationError) as error:
            answer = await self._call_again(args, error, patience_s, _note_retry)
        if self._lost:
            self.note_return()
        if args[0] == "FCALL":
            return answer
        made = _CALLBACKS.get(args[0]) or _CALLBACKS.get(" ".join(map(str, args[:2])))
        return made(answer) if made else answer

    def post(
        self,
        args: tuple[Any, ...],
        receive: Receive,
        *,
        patience_s: float | None,
        on_retry: Callable[[BaseException], bool],
    ) -> None:
        """Send a command at once that answers alike when it is sent again, and do not wait for it.

        Args:
            args: The command.
            receive: Gets its answer, or what `call` would raise.
            patience_s: As for `call`.
            on_retry: Told what it is sent again for; says whether anybody still waits.
        """
        self._queue.append(
            (pack(args), partial(self._received, args, receive, patience_s, on_retry))
        )
        self._flush()

    def _received(
        self,
        args: tuple[Any, ...],
        receive: Receive,
        patience_s: float | None,
        on_retry: Callable[[BaseException], bool],
        answer: Any,
    ) -> None:
        if isinstance(answer, Exception):
            again = asyncio.create_task(self._call_again(args, answer, patience_s, on_retry))
            self._repeating.add(again)
            again.add_done_callback(partial(self._repeated, receive))
            return
        if self._lost:
            self.note_return()
        receive(answer)

    def _repeated(self, receive: Receive, again: "asyncio.Task[Any]") -> None:
        self._repeating.discard(again)
        if again.cancelled():
            receive(ServerUnavailable(self.address, "the bus was closed"))
        else:
            receive(again.exception() or again.result())

    async def _call_again(
        self,
        args: tuple[Any, ...],
        error: BaseException,
        patience_s: float | None,
        on_retry: Callable[[BaseException], bool],
    ) -> Any:
        give_up = self._loop.time() + (self.patience_s if patience_s is None else patience_s)
        for delay in backoff_delays():
            if isinstance(error, AuthenticationError | ssl.SSLCertVerificationError):
                raise ServerUnsuitable(f"{self.address} refuses us: {error}") from error
            if isinstance(error, LOST) or _mends_itself(error):
                self.note_loss(error)
                if self._loop.time() + delay >= give_up:
                    kind = ServerUnavailable if isinstance(error, LOST) else ServerRefused
                    raise kind(self.address, str(error) or repr(error)) from error
                if not on_retry(error):
                    raise error
                await asyncio.sleep(delay)
            elif "Function not found" in str(error):
                await self.load_functions(patience_s=give_up - self._loop.time())
            else:
                raise error
            try:
                return await self._send(args)
            except (*LOST, ResponseError, AuthenticationError) as another:
                error = another
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
        while self._idle and not self._idle[-1].is_open:
            self._idle.pop()
        wire = self._idle.pop() if self._idle else await self._opened()
        try:
            answer = await wire.ask(*args)
        except ResponseError as error:
            if _mends_itself(error):
                raise RedisConnectionError(str(error)) from error
            raise
        except asyncio.CancelledError:
            # Its answer may still come, and would be taken for another's.
            wire.abort(RedisConnectionError("cancelled"))
            await asyncio.shield(wire.close())
            raise
        finally:
            if wire.is_open:
                self._idle.append(wire)
        if self._lost:
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
        await end(*self._repeating)
        while self._opening:
            await asyncio.wait(self._opening)
        if self._wire and self._wire.is_open:
            # Its answer comes behind those of whatever was sent before.
            with contextlib.suppress(*LOST, ResponseError):
                await self._send(("PING",))
        wires, self._wire, self._idle = [self._wire, *self._idle], None, []
        for wire in wires:
            if wire:
                await wire.close()
        await end(*self._repeating)  # what was on its way when they closed

    @property
    def is_idle(self) -> bool:
        """Whether it has been opened, and nothing is on its way."""
        return self._wire is not None and not self._wire.waiting and not self._queue

    def _send(self, args: tuple[Any, ...]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((pack(args), partial(settle, future)))
        if self._wire and not self._wire.waiting:
            self._flush()  # nothing is on its way that it could go with
        elif not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._is_due = False
        if not self._queue:
            return
        wire = self._wire
        if wire is None or not wire.is_open:
            if self._returning is None:
                self._returning = self._start(self._open())
            return
        room = _WINDOW - len(wire.waiting)
        batch, self._queue = self._queue[:room], self._queue[room:]
        if batch:
            wire.send(b"".join([data for data, _ in batch]), [receive for _, receive in batch])

    async def _open(self) -> None:
        try:
            self._wire = await connect(self._settings)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            self._returning = None
            queue, self._queue = self._queue, []
            for _, receive in queue:
                receive(error)
        else:
            self._returning = None
            self._wire.on_room = self._flush
            self._flush()

    async def _opened(self) -> Wire:
        """A connection for a blocking read; one for a caller that is cancelled is kept."""
        opening = self._start(connect(self._settings))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._keep)
            raise

    def _keep(self, opening: "asyncio.Task[Wire]") -> None:
        if not opening.cancelled() and not opening.exception():
            self._idle.append(opening.result())

    def _start(self, opening: Any) -> "asyncio.Task[Any]":
        # A connection that is being made outlives who asked for it, and is closed with us.
        task = asyncio.create_task(opening, name="sagastream-connect")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks, and wait until they are done."""
    left = {task for task in tasks if not task.done()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


def _note_retry(error: BaseException) -> bool:
    retried(error)
    return True


def _mends_itself(error: BaseException) -> bool:
    return isinstance(error, _MENDS_ITSELF) or str(error).startswith(_MENDS_ITSELF_WORDS)


def is_group_gone(error: ResponseError) -> bool:
    """Whether a group read failed because stream or group was deleted; Redis 7.0 has a word more."""
    return str(error).startswith(("NOGROUP", "UNBLOCKED"))


def entries(answer: Any) -> Iterator[tuple[bytes, bytes, dict[bytes, bytes]]]:
    """Walk through the answer of a stream read: stream, entry id, fields."""
    for stream, items in cast("list[Any]", answer or []):
        for entry_id, flat in items:
            fields = (
                flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
            )
            yield stream, entry_id, fields
