"""Connections to the server: one per process and loop, lazily made, with no client retries.

Commands of one tick travel together on one connection. What is repeated after a lost
connection is only what answers alike when repeated; the caller says how long to try.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis

from sagastream._redis.backoff import backoff_delays, end_tasks
from sagastream._redis.protocol import (
    ConnectionLost,
    Receive,
    RedisProtocol,
    connect,
    pack,
    settle,
    url_options,
)
from sagastream._telemetry.spans import retried
from sagastream.errors import ServerError, ServerRefused, ServerUnavailable, ServerUnsuitable

logger = logging.getLogger(__name__)

BLOCK_MS = 2000
# How many commands may be on their way at once; more wait here.
_WINDOW = 1024
# The codes of answers that mean: not now. Full memory or disk, a replica, a slot that moves.
_TEMPORARY = frozenset(
    {"OOM", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MISCONF", "BUSY", "NOREPLICAS"}
)
_REFUSED = frozenset({"NOAUTH", "WRONGPASS"})
# How redis-py makes values of answers: no more than `INFO` as a mapping, and the like.
_CALLBACKS: dict[str, Callable[[Any], Any]] = redis.Redis(protocol=2).response_callbacks


def redact(url: str) -> str:
    """The address in a URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port:
        host = f"{host}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


class Connection:
    """The commands of one process and loop.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        library: The source of the function library, loaded where it is missing.
        call_timeout_s: How long a call waits for a server that does not answer.
    """

    def __init__(self, url: str, *, library: str, call_timeout_s: float) -> None:
        self.address = redact(url)
        self._options = url_options(url)
        self._library = library
        self.call_timeout_s = call_timeout_s
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[bytes, Receive]] = []
        self._is_due = False
        self._protocol: RedisProtocol | None = None
        self._idle: list[RedisProtocol] = []
        self._returning: asyncio.Task[Any] | None = None
        self._opening: set[asyncio.Task[Any]] = set()
        self._repeating: set[asyncio.Task[Any]] = set()
        self._lost = False

    async def call(self, *args: Any, call_timeout_s: float | None = None) -> Any:
        """Send a command that answers alike when it is sent again.

        Raises:
            ServerUnavailable: No answer within `call_timeout_s` seconds.
            ServerRefused: For as long, the server took no writes.
            ServerUnsuitable: The server refuses the connection or has no functions.
            ServerError: The server refused the command.
        """
        try:
            answer = await self._send(args)
        except (OSError, ServerError) as error:
            answer = await self._call_again(args, error, call_timeout_s, _note_retry)
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
        call_timeout_s: float | None,
        on_retry: Callable[[BaseException], bool],
    ) -> None:
        """Send a command at once that answers alike when it is sent again, and do not wait for it.

        Args:
            args: The command.
            receive: Gets its answer, or what `call` would raise.
            call_timeout_s: As for `call`.
            on_retry: Told what it is sent again for; says whether anybody still waits.
        """
        self._queue.append(
            (pack(args), partial(self._received, args, receive, call_timeout_s, on_retry))
        )
        self._flush()

    def _received(
        self,
        args: tuple[Any, ...],
        receive: Receive,
        call_timeout_s: float | None,
        on_retry: Callable[[BaseException], bool],
        answer: Any,
    ) -> None:
        if isinstance(answer, Exception):
            again = asyncio.create_task(self._call_again(args, answer, call_timeout_s, on_retry))
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
        call_timeout_s: float | None,
        on_retry: Callable[[BaseException], bool],
    ) -> Any:
        deadline = self._loop.time() + (
            self.call_timeout_s if call_timeout_s is None else call_timeout_s
        )
        for delay in backoff_delays():
            if _is_refusal(error):
                raise ServerUnsuitable(f"{self.address} refuses us: {error}") from error
            if not isinstance(error, ServerError) or _is_temporary(error):
                self.note_loss(error)
                if self._loop.time() + delay >= deadline or not on_retry(error):
                    kind = ServerRefused if isinstance(error, ServerError) else ServerUnavailable
                    raise kind(self.address, str(error) or repr(error)) from error
                await asyncio.sleep(delay)
            elif "Function not found" in error.message:
                await self.load_functions(call_timeout_s=deadline - self._loop.time())
            else:
                raise error
            try:
                return await self._send(args)
            except (OSError, ServerError) as another:
                error = another
        raise AssertionError("backoff_delays never ends")

    async def load_functions(self, *, call_timeout_s: float | None = None) -> None:
        """Put the function library on the server, where it is missing.

        Raises:
            ServerUnavailable: No answer within `call_timeout_s` seconds.
            ServerRefused: For as long, the server took no writes.
            ServerUnsuitable: The server has no functions.
        """
        try:
            await self.call("FUNCTION", "LOAD", self._library, call_timeout_s=call_timeout_s)
        except ServerError as error:
            if "already exists" in str(error):
                return
            raise ServerUnsuitable(
                f"{self.address} cannot take the function library ({error}); "
                "Redis 7.0 or Valkey 7.2 and later can",
            ) from error

    async def block(self, *args: Any) -> Any:
        """Send a blocking read on a connection apart; it is not repeated.

        Raises:
            ServerUnavailable: The connection was lost, or the server cannot serve it now.
            ServerError: The server refused the command.
        """
        try:
            answer = await self._block(args)
        except OSError as error:
            raise ServerUnavailable(self.address, str(error) or repr(error)) from error
        except ServerError as error:
            if _is_temporary(error) or _is_refusal(error):
                raise ServerUnavailable(self.address, error.message) from error
            raise
        if self._lost:
            self.note_return()
        return answer

    async def _block(self, args: tuple[Any, ...]) -> Any:
        while self._idle and not self._idle[-1].is_open:
            self._idle.pop()
        protocol = self._idle.pop() if self._idle else await self._opened()
        try:
            return await protocol.ask(*args)
        except asyncio.CancelledError:
            # Its answer may still come, and would be taken for another's.
            protocol.abort(ConnectionLost("cancelled"))
            await asyncio.shield(protocol.close())
            raise
        finally:
            if protocol.is_open:
                self._idle.append(protocol)

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
        """Send what is queued, then close the sockets; wait at most `call_timeout_s` for that."""
        await end_tasks(*self._repeating)
        while self._opening:
            await asyncio.wait(self._opening)
        if self._protocol and self._protocol.is_open:
            # Its answer comes behind those of whatever was sent before.
            with contextlib.suppress(OSError, ServerError):
                async with asyncio.timeout(self.call_timeout_s):
                    await self._send(("PING",))
        protocols, self._protocol, self._idle = [self._protocol, *self._idle], None, []
        for protocol in protocols:
            if protocol:
                await protocol.close()
        await end_tasks(*self._repeating)  # what was on its way when they closed

    @property
    def is_idle(self) -> bool:
        """Whether it has been opened, and nothing is on its way."""
        return self._protocol is not None and not self._protocol.waiting and not self._queue

    def _send(self, args: tuple[Any, ...]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((pack(args), partial(settle, future)))
        if self._protocol and not self._protocol.waiting:
            self._flush()  # nothing is on its way that it could go with
        elif not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._is_due = False
        if not self._queue:
            return
        protocol = self._protocol
        if protocol is None or not protocol.is_open:
            if self._returning is None:
                self._returning = self._start(self._open())
            return
        room = _WINDOW - len(protocol.waiting)
        batch, self._queue = self._queue[:room], self._queue[room:]
        if batch:
            protocol.send(b"".join([data for data, _ in batch]), [receive for _, receive in batch])

    async def _open(self) -> None:
        try:
            self._protocol = await connect(self._options)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            self._returning = None
            queue, self._queue = self._queue, []
            for _, receive in queue:
                receive(error)
        else:
            self._returning = None
            self._protocol.on_room = self._flush
            self._flush()

    async def _opened(self) -> RedisProtocol:
        """A connection for a blocking read; one for a caller that is cancelled is kept."""
        opening = self._start(connect(self._options))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._keep)
            raise

    def _keep(self, opening: "asyncio.Task[RedisProtocol]") -> None:
        if not opening.cancelled() and not opening.exception():
            self._idle.append(opening.result())

    def _start(self, opening: Any) -> "asyncio.Task[Any]":
        # A connection that is being made outlives who asked for it, and is closed with us.
        task = asyncio.create_task(opening, name="sagastream-connect")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task


def _note_retry(error: BaseException) -> bool:
    retried(error)
    return True


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, ServerError):
        return error.code in _REFUSED
    return isinstance(error, ssl.SSLCertVerificationError)


def _is_temporary(error: ServerError) -> bool:
    return error.code in _TEMPORARY or error.message.startswith("UNBLOCKED force unblock")


def is_group_gone(error: ServerError) -> bool:
    """Whether a group read failed because stream or group was deleted; Redis 7.0 has a word more."""
    return error.code in {"NOGROUP", "UNBLOCKED"}


def entries(answer: Any) -> Iterator[tuple[bytes, bytes, dict[bytes, bytes]]]:
    """Walk through the answer of a stream read: stream, entry id, fields."""
    for stream, items in cast("list[Any]", answer or []):
        for entry_id, flat in items:
            fields = (
                flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
            )
            yield stream, entry_id, fields
