"""The Redis protocol on one socket: commands out, answers in, in the same order.

`Connection` decides which commands are sent, and which are sent again. redis-py reads addresses,
TLS options and credentials from URLs; hiredis parses answers.
"""

import asyncio
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import hiredis
from redis.asyncio import Connection as UrlOptions
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from sagastream.errors import ServerError, UnknownLayout

ANSWER_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 2.0
_CLOSE_TIMEOUT_S = 1.0
# Called with an answer, or with the exception that came instead.
Receive = Callable[[Any], None]

# A function's error; the server may put its own word before it.
_LAYOUT = re.compile(r"(?:ERR )?LAYOUT (\d+) (\d+)")

pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)


class ConnectionLost(ConnectionError):
    """No answer: the connection broke or was refused, or the server sent nothing in time."""


def error_of(text: str) -> Exception:
    """The exception for the text of a server's error."""
    code = text.partition(" ")[0]
    if code == "LOADING":
        return ConnectionLost(text)  # the server loads its data, and will answer soon
    if layout := _LAYOUT.match(text):
        return UnknownLayout(int(layout[1]), int(layout[2]))
    if code == "ERR" and "AUTH" in text and "without any password" in text:
        code = "NOAUTH"
    return ServerError(code, text.removeprefix("ERR "))


def settle(future: "asyncio.Future[Any]", answer: Any) -> None:
    """Set the result of a future to an answer, or its exception."""
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)


class RedisProtocol(asyncio.Protocol):
    """A connected socket, and the receivers of the next answers.

    Attributes:
        receivers: Called with the next answers, in this order.
        on_answers: Called when answers have arrived.
        closed: Done when the connection is closed, by either side.
        client_id: The id by which the server knows it; None if it was not asked, 0 if unknown.
    """

    def __init__(self) -> None:
        self.receivers: deque[Receive] = deque()
        self.on_answers: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.client_id: int | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=error_of)
        self._heard_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._broken: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and self._broken is None

    @property
    def peer(self) -> Any:
        """The address of the server's end of the socket."""
        return self._transport.get_extra_info("peername") if self._transport else None

    def send(self, data: bytes, receivers: Sequence[Receive]) -> None:
        """Write packed commands; `receivers` are called with their answers, in order."""
        assert self._transport is not None
        if not self.receivers:
            self._heard_at = self._loop.time()
        self.receivers.extend(receivers)
        if self._broken:
            # The socket was closed after it was opened and before this call.
            self._fail(self._broken)
            return
        if self._alarm is None:
            self._alarm = self._loop.call_later(ANSWER_TIMEOUT_S, self._check)
        self._transport.write(data)

    async def call(self, *args: Any) -> Any:
        """Send one command and wait for its answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send(pack(args), (partial(settle, future),))
        return await future

    def abort(self, error: BaseException) -> None:
        """Close at once; the receivers get the error."""
        if self._broken is None:
            self._broken = error
            if self._transport:
                self._transport.abort()
            self._fail(error)

    async def close(self) -> None:
        """Close, and wait until the socket is closed."""
        self.abort(ConnectionLost("closed"))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.shield(self.closed)

    # -- called by the event loop -------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        # uvloop's transports are not asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Deliver the complete answers."""
        reader, receivers = self._reader, self.receivers
        self._heard_at = self._loop.time()
        try:
            reader.feed(data)
            answer = reader.gets()
            while answer is not False:
                receivers.popleft()(answer)
                answer = reader.gets()
        except (hiredis.HiredisError, IndexError) as error:
            self.abort(ConnectionLost(f"malformed answer: {error!r}"))
            return
        if self.on_answers:
            self.on_answers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        error = exc or self._broken or ConnectionLost("the server closed the connection")
        self._broken = self._broken or error
        if self._alarm:
            self._alarm.cancel()
        self._fail(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def _fail(self, error: BaseException) -> None:
        while self.receivers:
            self.receivers.popleft()(error)

    def _check(self) -> None:
        self._alarm = None
        if not self.receivers:
            return
        left_s = self._heard_at + ANSWER_TIMEOUT_S - self._loop.time()
        if left_s <= 0:
            self.abort(ConnectionLost(f"no answer for {ANSWER_TIMEOUT_S:.0f} s"))
        else:
            self._alarm = self._loop.call_later(left_s, self._check)


async def connect(options: UrlOptions) -> RedisProtocol:
    """Open a connection, with the credentials and the database of the URL.

    Raises:
        OSError: The server cannot be reached, or does not answer.
        ServerError: It refuses the credentials or the database.
    """
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            protocol = await _open(options)
            try:
                await _handshake(protocol, options)
            except BaseException:
                await protocol.close()
                raise
    except TimeoutError:
        raise ConnectionLost("no connection in time") from None
    return protocol


async def _open(options: UrlOptions) -> RedisProtocol:
    loop = asyncio.get_running_loop()
    if isinstance(options, UnixDomainSocketConnection):
        _, protocol = await loop.create_unix_connection(RedisProtocol, options.path)
        return protocol
    tls = options.ssl_context.get() if isinstance(options, SSLConnection) else None
    transport, protocol = await loop.create_connection(
        RedisProtocol, options.host, options.port, ssl=tls
    )
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return protocol


async def _handshake(protocol: RedisProtocol, options: UrlOptions) -> None:
    if options.password:
        user = (options.username,) if options.username else ()
        await protocol.call("AUTH", *user, options.password)
    if options.db:
        await protocol.call("SELECT", options.db)


def entries(answer: Any) -> Iterator[tuple[bytes, bytes, dict[bytes, bytes]]]:
    """Iterate over the answer of a stream read: stream, entry id, fields."""
    for stream, items in cast("list[Any]", answer or []):
        for entry_id, flat in items:
            fields = (
                flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
            )
            yield stream, entry_id, fields
