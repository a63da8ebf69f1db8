"""The connection of one process and event loop, made when it is first used.

Commands of one tick go together over one socket; each blocking read has another socket.
After a loss only commands that answer the same when they are repeated are sent again; the
caller says how long to try.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis

from sagastream._redis.protocol import (
    ConnectionLost,
    Receive,
    RedisProtocol,
    connect,
    pack,
    settle,
    url_options,
)
from sagastream._redis.retrying import backoff_delays, end_tasks, is_refusal, is_temporary
from sagastream._telemetry.spans import retried
from sagastream.errors import ServerError, ServerRefused, ServerUnavailable, ServerUnsuitable

logger = logging.getLogger(__name__)

BLOCK_MS = 2000
# How many commands may wait for their answers at once; more wait here.
_WINDOW = 1024
# How redis-py converts answers, such as that of INFO into a mapping.
_CALLBACKS: dict[str, Callable[[Any], Any]] = redis.Redis(protocol=2).response_callbacks


def redact(url: str) -> str:
    """The address in a URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port:
        host = f"{host}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


class Connection:
    """Sends the commands of one process and event loop.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        library: The source of the function library, loaded where it is missing.
        call_timeout_s: How long a call waits for a server that does not answer, in seconds.
    """

    def __init__(self, url: str, *, library: str, call_timeout_s: float) -> None:
        self.address = redact(url)
        self._options = url_options(url)
        self._library = library
        self.call_timeout_s = call_timeout_s
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[bytes, Receive]] = []
        self._is_flush_scheduled = False
        self._protocol: RedisProtocol | None = None
        self._idle: list[RedisProtocol] = []
        self._reading: set[RedisProtocol] = set()
        self._connecting: asyncio.Task[Any] | None = None
        self._opening: set[asyncio.Task[Any]] = set()
        self._retries: set[asyncio.Task[Any]] = set()
        self._lost = False

    async def call(self, *args: Any, call_timeout_s: float | None = None) -> Any:
        """Send a command that answers the same when it is repeated, and wait for its answer.

        Raises:
            ServerUnavailable: No answer within `call_timeout_s` seconds.
            ServerRefused: The server took no writes in that time.
            ServerUnsuitable: The server refuses the connection or has no functions.
            ServerError: The server refused the command.
        """
        try:
            answer = await self._send(args)
        except (OSError, ServerError) as error:
            answer = await self._retry(args, error, call_timeout_s, _note_retry)
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
        """Send a command that answers the same when it is repeated, and do not wait.

        Args:
            args: The command.
            receive: Called with its answer, or with the error that `call` would raise.
            call_timeout_s: As for `call`.
            on_retry: Called with the error before each retry; returns whether a caller still
                waits.
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
            retry = asyncio.create_task(self._retry(args, answer, call_timeout_s, on_retry))
            self._retries.add(retry)
            retry.add_done_callback(partial(self._retried, receive))
            return
        if self._lost:
            self.note_return()
        receive(answer)

    def _retried(self, receive: Receive, retry: "asyncio.Task[Any]") -> None:
        self._retries.discard(retry)
        if retry.cancelled():
            receive(ServerUnavailable(self.address, "the bus was closed"))
        else:
            receive(retry.exception() or retry.result())

    async def _retry(
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
            if is_refusal(error):
                raise ServerUnsuitable(f"{self.address} refuses us: {error}") from error
            if not isinstance(error, ServerError) or is_temporary(error):
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
        """Load the function library if the server does not have it.

        Raises:
            ServerUnavailable: No answer within `call_timeout_s` seconds.
            ServerRefused: The server took no writes in that time.
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
        """Send a blocking read on another socket; it is not repeated.

        Raises:
            ServerUnavailable: The connection was lost, or the server cannot serve it now.
            ServerError: The server refused the command.
        """
        try:
            answer = await self._block(args)
        except OSError as error:
            raise ServerUnavailable(self.address, str(error) or repr(error)) from error
        except ServerError as error:
            if is_temporary(error) or is_refusal(error):
                raise ServerUnavailable(self.address, error.message) from error
            raise
        if self._lost:
            self.note_return()
        return answer

    async def _block(self, args: tuple[Any, ...]) -> Any:
        while self._idle and not self._idle[-1].is_open:
            self._idle.pop()
        protocol = self._idle.pop() if self._idle else await self._open_blocking()
        self._reading.add(protocol)
        try:
            return await protocol.call(*args)
        except asyncio.CancelledError:
            # Its answer may still come, and would be taken for that of the next read.
            protocol.abort(ConnectionLost("cancelled"))
            await asyncio.shield(protocol.close())
            raise
        finally:
            self._reading.discard(protocol)
            if protocol.is_open:
                self._idle.append(protocol)

    async def call_within(self, timeout: float, *args: Any) -> Any:
        """`call` that ends after `timeout` seconds, though an answer is still awaited.

        Raises:
            ServerUnavailable: No answer in time; otherwise as `call`.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self.call(*args, call_timeout_s=timeout)
        except TimeoutError:
            raise ServerUnavailable(self.address, f"no answer within {timeout:g} s") from None

    def note_loss(self, error: BaseException) -> None:
        """Log the loss of the server, once."""
        if not self._lost:
            self._lost = True
            reason = str(error) or repr(error)
            if isinstance(error, ServerUnavailable | ServerRefused):
                reason = error.reason
            logger.warning("lost %s: %s", self.address, reason)

    def note_return(self) -> None:
        """Log the return of the server, once."""
        if self._lost:
            self._lost = False
            logger.warning("%s is back", self.address)

    async def close(self) -> None:
        """Send what is queued, then close the sockets; wait at most `call_timeout_s` for that."""
        await end_tasks(*self._retries)
        while self._opening:
            await asyncio.wait(self._opening)
        if self._protocol and self._protocol.is_open:
            # Its answer comes after those of all commands before it.
            with contextlib.suppress(OSError, ServerError):
                async with asyncio.timeout(self.call_timeout_s):
                    await self._send(("PING",))
        protocols = [self._protocol, *self._idle, *self._reading]
        self._protocol, self._idle = None, []
        for protocol in protocols:
            if protocol:
                await protocol.close()
        await end_tasks(*self._retries)  # those that the close of the sockets began

    @property
    def is_idle(self) -> bool:
        """Whether it is open, and no answer is awaited."""
        return self._protocol is not None and not self._protocol.receivers and not self._queue

    def _send(self, args: tuple[Any, ...]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((pack(args), partial(settle, future)))
        if self._protocol and not self._protocol.receivers:
            self._flush()  # no answer is awaited: nothing to batch it with
        elif not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        if not self._queue:
            return
        protocol = self._protocol
        if protocol is None or not protocol.is_open:
            if self._connecting is None:
                self._connecting = self._start(self._connect())
            return
        room = _WINDOW - len(protocol.receivers)
        batch, self._queue = self._queue[:room], self._queue[room:]
        if batch:
            protocol.send(b"".join([data for data, _ in batch]), [receive for _, receive in batch])

    async def _connect(self) -> None:
        try:
            self._protocol = await connect(self._options)
        except Exception as error:  # noqa: BLE001 - the callers get it
            self._connecting = None
            queue, self._queue = self._queue, []
            for _, receive in queue:
                receive(error)
        else:
            self._connecting = None
            self._protocol.on_answers = self._flush
            self._flush()

    async def _open_blocking(self) -> RedisProtocol:
        """Open a socket for a blocking read; keep it if the caller is cancelled meanwhile."""
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
        # It outlives its caller, and is closed with the connection.
        task = asyncio.create_task(opening, name="sagastream-connect")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task


def _note_retry(error: BaseException) -> bool:
    retried(error)
    return True


def entries(answer: Any) -> Iterator[tuple[bytes, bytes, dict[bytes, bytes]]]:
    """Iterate over the answer of a stream read: stream, entry id, fields."""
    for stream, items in cast("list[Any]", answer or []):
        for entry_id, flat in items:
            fields = (
                flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
            )
            yield stream, entry_id, fields
