"""One connection to the server: bytes out, answers in, in the order in which they were asked for.

What a command means, and whether it is sent again, is `connection.py`'s. Addresses, TLS and
credentials are read from URLs by redis-py, answers are parsed by hiredis.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import hiredis
from redis.asyncio import Connection as UrlOptions
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from sagastream.errors import ServerError

ANSWER_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 2.0
_CLOSE_TIMEOUT_S = 1.0
# Gets an answer, or the exception that came instead.
Receive = Callable[[Any], None]

pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)


class ConnectionLost(ConnectionError):
    """No answer: the connection broke or was refused, or the server said nothing in time."""


def error_of(text: str) -> Exception:
    """The exception for an error as the server words it."""
    code = text.partition(" ")[0]
    if code == "LOADING":
        return ConnectionLost(text)  # it reads its data, and answers soon
    if code == "ERR" and "AUTH" in text and "without any password" in text:
        code = "NOAUTH"
    return ServerError(code, text.removeprefix("ERR "))


def settle(future: "asyncio.Future[Any]", answer: Any) -> None:
    """Give a future the answer that came, or the exception."""
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)


class RedisProtocol(asyncio.Protocol):
    """A connected socket, and who waits for the next answers on it.

    Attributes:
        waiting: Those whose answers have not come, oldest first.
        on_room: Called when answers have come.
        gone: Done when the connection is closed, by whichever side.
    """

    def __init__(self) -> None:
        self.waiting: deque[Receive] = deque()
        self.on_room: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=error_of)
        self._heard = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._broken: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return self._transport is not None and self._broken is None

    def send(self, data: bytes, waiting: Sequence[Receive]) -> None:
        """Write packed commands, whose answers go to these."""
        assert self._transport is not None
        if not self.waiting:
            self._heard = self._loop.time()
        self.waiting.extend(waiting)
        if self._broken:
            # It was closed before whoever asked for it had its turn.
            self._fail(self._broken)
            return
        if self._alarm is None:
            self._alarm = self._loop.call_later(ANSWER_TIMEOUT_S, self._check)
        self._transport.write(data)

    async def ask(self, *args: Any) -> Any:
        """Send one command and wait for its answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send(pack(args), (partial(settle, future),))
        return await future

    def abort(self, error: BaseException) -> None:
        """Close at once; who waits gets the error."""
        if self._broken is None:
            self._broken = error
            if self._transport:
                self._transport.abort()
            self._fail(error)

    async def close(self) -> None:
        """Close, and wait until the socket is."""
        self.abort(ConnectionLost("closed"))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.shield(self.gone)

    # -- what the loop calls ----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        # Other loops than asyncio's have transports of their own.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out the answers that are whole."""
        reader, waiting = self._reader, self.waiting
        self._heard = self._loop.time()
        try:
            reader.feed(data)
            answer = reader.gets()
            while answer is not False:
                waiting.popleft()(answer)
                answer = reader.gets()
        except (hiredis.HiredisError, IndexError) as error:
            self.abort(ConnectionLost(f"that is no answer: {error!r}"))
            return
        if self.on_room:
            self.on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        error = exc or self._broken or ConnectionLost("the server closed the connection")
        self._broken = self._broken or error
        if self._alarm:
            self._alarm.cancel()
        self._fail(error)
        if not self.gone.done():
            self.gone.set_result(None)

    def _fail(self, error: BaseException) -> None:
        while self.waiting:
            self.waiting.popleft()(error)

    def _check(self) -> None:
        self._alarm = None
        if not self.waiting:
            return
        left_s = self._heard + ANSWER_TIMEOUT_S - self._loop.time()
        if left_s <= 0:
            self.abort(ConnectionLost(f"no answer for {ANSWER_TIMEOUT_S:.0f} s"))
        else:
            self._alarm = self._loop.call_later(left_s, self._check)


def url_options(url: str) -> UrlOptions:
    """What a URL says, as a connection of redis-py's that is never connected."""
    return ConnectionPool.from_url(url, driver_info=None).make_connection()  # type: ignore[no-any-return,no-untyped-call]


async def connect(options: UrlOptions) -> RedisProtocol:
    """Open a connection, with credentials and database as the URL has them.

    Raises:
        OSError: The server cannot be reached, or does not answer.
        ServerError: It refuses us.
    """
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            wire = await _open(options)
            try:
                await _introduce(wire, options)
            except BaseException:
                await wire.close()
                raise
    except TimeoutError:
        raise ConnectionLost("no connection in time") from None
    return wire


async def _open(options: UrlOptions) -> RedisProtocol:
    loop = asyncio.get_running_loop()
    if isinstance(options, UnixDomainSocketConnection):
        _, wire = await loop.create_unix_connection(RedisProtocol, options.path)
        return wire
    tls = options.ssl_context.get() if isinstance(options, SSLConnection) else None
    transport, wire = await loop.create_connection(
        RedisProtocol, options.host, options.port, ssl=tls
    )
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return wire


async def _introduce(wire: RedisProtocol, options: UrlOptions) -> None:
    if options.password:
        user = (options.username,) if options.username else ()
        await wire.ask("AUTH", *user, options.password)
    if options.db:
        await wire.ask("SELECT", options.db)
