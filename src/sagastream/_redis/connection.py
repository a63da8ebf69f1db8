"""The connection of one process and event loop, opened when it is first used.

Commands of one tick of the loop are sent together over one socket; each blocking read has
another socket. A command that was sent by `call` or `post` is sent again after a lost
connection, so it must be idempotent: its answer is the same when it is repeated.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import redis

from sagastream._redis.blocking import BlockingReads
from sagastream._redis.deadline import Deadline
from sagastream._redis.protocol import (
    ConnectionLost,
    Receive,
    RedisProtocol,
    connect,
    pack,
    settle,
    url_options,
)
from sagastream._redis.retrying import (
    backoff_delays,
    end_tasks,
    has_moved,
    is_refusal,
    is_temporary,
)
from sagastream._telemetry.spans import retried
from sagastream.errors import (
    SagastreamError,
    ServerError,
    ServerRefused,
    ServerUnavailable,
    ServerUnsuitable,
    UnknownLayout,
)

logger = logging.getLogger(__name__)

BLOCK_MS = 2000
# How many commands may wait for their answers at once; others wait in the queue.
_WINDOW = 1024
_CLOSE_TIMEOUT_S = 2.0
# How redis-py converts answers, such as that of INFO into a mapping.
_ANSWERS_AS_THEY_ARE = frozenset({"FCALL", "FCALL_RO"})
_CALLBACKS: dict[str, Callable[[Any], Any]] = redis.Redis(protocol=2).response_callbacks

T = TypeVar("T")


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

    Attributes:
        address: The server, without user and password.
        lost_at: When the server was last seen to be away, by the monotonic clock.
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
        self._blocking = BlockingReads(self._options)
        self._connecting: asyncio.Task[None] | None = None
        self._retries: set[asyncio.Task[Any]] = set()
        self._loss: BaseException | None = None
        self.lost_at = -math.inf

    async def call(self, *args: Any, deadline: Deadline | None = None) -> Any:
        """Send an idempotent command, and wait for its answer.

        Args:
            args: The command.
            deadline: When to end; None for `call_timeout_s` from now.

        Raises:
            ServerUnavailable: No answer in time.
            ServerRefused: The server took no writes in that time.
            ServerUnsuitable: The server refuses this client or has no functions.
            ServerError: The server refused the command.
        """
        deadline = deadline or Deadline(self.call_timeout_s)
        answer = await self.within(deadline, self._call(args, deadline))
        if args[0] in _ANSWERS_AS_THEY_ARE:
            return answer
        convert = _CALLBACKS.get(args[0]) or _CALLBACKS.get(" ".join(map(str, args[:2])))
        return convert(answer) if convert else answer

    async def within(self, deadline: Deadline, answer: Awaitable[T]) -> T:
        """Wait for an answer until a deadline.

        Raises:
            ServerUnavailable: No answer in time.
            ServerRefused: The server took no writes in that time.
        """
        try:
            async with deadline.timeout():
                return await answer
        except TimeoutError:
            raise self.timed_out(deadline) from deadline.error

    def timed_out(self, deadline: Deadline) -> ServerUnavailable | ServerRefused:
        """The error of a call whose deadline has passed."""
        reason = f"timed out after {deadline.seconds:g} s"
        if isinstance(deadline.error, ServerError):
            return ServerRefused(self.address, f"{deadline.error}; {reason}")
        if deadline.error is not None:
            return ServerUnavailable(self.address, f"{_reason(deadline.error)}; {reason}")
        return ServerUnavailable(self.address, reason)

    async def _call(self, args: tuple[Any, ...], deadline: Deadline) -> Any:
        try:
            answer = await self._send(args)
        except (OSError, ServerError) as error:
            answer = await self._retry(args, error, deadline, _note_retry)
        if self._loss:
            self.note_return()
        return answer

    def post(
        self,
        args: tuple[Any, ...],
        receive: Receive,
        *,
        on_retry: Callable[[BaseException], bool],
    ) -> None:
        """Send an idempotent command, and do not wait. It is sent again while a caller waits.

        Args:
            args: The command.
            receive: Called with its answer, or with the error that `call` would raise.
            on_retry: Called with the error before each retry; returns whether a caller still
                waits.
        """
        self._queue.append((pack(args), partial(self._received, args, receive, on_retry)))
        self._flush()

    def _received(
        self,
        args: tuple[Any, ...],
        receive: Receive,
        on_retry: Callable[[BaseException], bool],
        answer: Any,
    ) -> None:
        if isinstance(answer, Exception):
            retry = asyncio.create_task(self._retry(args, answer, Deadline(math.inf), on_retry))
            self._retries.add(retry)
            retry.add_done_callback(partial(self._retried, receive))
            return
        if self._loss:
            self.note_return()
        receive(answer)

    def _retried(self, receive: Receive, retry: "asyncio.Task[Any]") -> None:
        self._retries.discard(retry)
        if retry.cancelled():
            receive(ServerUnavailable(self.address, "the bus was closed"))
        elif error := retry.exception():
            receive(error)
        else:
            self.note_return()
            receive(retry.result())

    async def _retry(
        self,
        args: tuple[Any, ...],
        error: BaseException,
        deadline: Deadline,
        on_retry: Callable[[BaseException], bool],
    ) -> Any:
        for delay in backoff_delays():
            if isinstance(error, UnknownLayout):
                raise error
            if is_refusal(error):
                raise ServerUnsuitable(f"{self.address} refuses this client: {error}") from error
            if not isinstance(error, ServerError) or is_temporary(error):
                self.note_loss(error)
                deadline.note(error)
                if not on_retry(error):
                    raise ServerUnavailable(self.address, _reason(error)) from error
                await asyncio.sleep(delay)
            elif "Function not found" in error.message:
                await self.load_functions(deadline=deadline)
            else:
                raise error
            try:
                return await self._send(args)
            except (OSError, ServerError) as another:
                error = another
        raise AssertionError("backoff_delays never ends")

    async def load_functions(self, *, deadline: Deadline | None = None) -> None:
        """Load the function library if the server does not have it.

        Raises:
            ServerUnavailable: No answer in time.
            ServerRefused: The server took no writes in that time.
            ServerUnsuitable: The server has no functions.
        """
        try:
            await self.call("FUNCTION", "LOAD", self._library, deadline=deadline)
        except ServerError as error:
            if "already exists" in str(error):
                return
            if error.code == "NOPERM":
                raise ServerUnsuitable(
                    f"{self.address} does not have the functions of this release, and this user may "
                    "not load them; an administrator must run once: sagastream install"
                ) from error
            raise ServerUnsuitable(
                f"{self.address} cannot load the function library ({error}); "
                "it needs Redis 7.0, Valkey 7.2 or later",
            ) from error

    async def block(self, *args: Any, reader: object = None) -> Any:
        """Send a blocking read on another socket; it is not repeated.

        Args:
            args: The command.
            reader: Identifies the read for `unblock`.

        Raises:
            ServerUnavailable: The connection was lost, or the server cannot serve it now.
            ServerError: The server refused the command.
        """
        try:
            answer = await self._blocking.read(args, reader)
        except OSError as error:
            raise ServerUnavailable(self.address, _reason(error)) from error
        except ServerError as error:
            if is_temporary(error) or is_refusal(error):
                self.note_loss(error)
                raise ServerUnavailable(self.address, error.message) from error
            raise
        if self._loss:
            self.note_return()
        return answer

    async def unblock(self, reader: object, *, deadline: Deadline) -> None:
        """Let the read of a reader answer now, with what it has; a server that is away is left.

        Unlike a cancelled read, it loses no entry that the server has sent already.
        """
        for client_id in self._blocking.client_ids(reader):
            with contextlib.suppress(SagastreamError):
                await self.call("CLIENT", "UNBLOCK", client_id, deadline=deadline)

    def note_loss(self, error: BaseException) -> None:
        """Log the loss of the server, once. Leave a node that has become a replica.

        The name of the server is resolved again for each new socket, so the next one leads to
        the node that takes writes, once the name does.
        """
        if isinstance(error, ServerError) and has_moved(error):
            if self._protocol:
                self._protocol.abort(ConnectionLost(error.message))
            self._blocking.drop(ConnectionLost(error.message))
        self.lost_at = time.monotonic()
        if not self._loss:
            reason = error.reason if isinstance(error, ServerUnavailable | ServerRefused) else ""
            logger.warning("lost %s: %s", self.address, reason or _reason(error))
        self._loss = error

    def note_return(self) -> None:
        """Log the return of the server, once."""
        if self._loss:
            self._loss = None
            logger.warning("%s is back", self.address)

    async def close(self) -> None:
        """Send what is queued, then close the sockets; wait for a server at most 2 s."""
        await end_tasks(*self._retries)
        if self._connecting:
            await asyncio.wait({self._connecting})
        if self._protocol and self._protocol.is_open:
            # The answer to PING comes after the answers to all commands before it.
            with contextlib.suppress(OSError, ServerError):
                async with asyncio.timeout(min(self.call_timeout_s, _CLOSE_TIMEOUT_S)):
                    await self._send(("PING",))
        protocol, self._protocol = self._protocol, None
        if protocol:
            await protocol.close()
        await self._blocking.close()
        await end_tasks(*self._retries)  # those that began because the sockets were closed

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
                # The task may outlive its caller; `close` waits for it. The socket would keep the
                # context of the caller.
                self._connecting = asyncio.create_task(
                    self._connect(), name="sagastream-connect", context=Context()
                )
            return
        free = _WINDOW - len(protocol.receivers)
        batch, self._queue = self._queue[:free], self._queue[free:]
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


def _reason(error: BaseException) -> str:
    return str(error) or repr(error)


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
