"""The sockets of blocking reads: each read has one for itself while it waits."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from sagastream._redis.protocol import ConnectionLost, RedisProtocol
from sagastream.errors import ServerError

# How many sockets stay open between two reads; those of a burst of readers are closed.
_IDLE_KEPT = 4


class BlockingReads:
    """Opens, keeps and closes the sockets on which one process and loop blocks.

    Args:
        connect: Opens a socket to the server.
    """

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, RedisProtocol]]) -> None:
        self._connect = connect
        self._idle: list[RedisProtocol] = []
        self._reading: dict[RedisProtocol, object] = {}
        self._opening: set[asyncio.Task[RedisProtocol]] = set()
        self._closing: set[RedisProtocol] = set()
        self._is_closed = False

    async def read(self, args: tuple[Any, ...], reader: object) -> Any:
        """Send a blocking read and wait for its answer.

        Args:
            args: The command.
            reader: Identifies the read for `client_ids`; None if nobody asks for it.

        Raises:
            OSError: The connection was lost.
            ServerError: The server refused the command.
        """
        while self._idle and not self._idle[-1].is_open:
            self._idle.pop()
        protocol = self._idle.pop() if self._idle else await self._open()
        self._reading[protocol] = reader
        try:
            if reader is not None and protocol.client_id is None:
                protocol.client_id = await _client_id(protocol)
            return await protocol.call(*args)
        except asyncio.CancelledError:
            # Its answer may still come, and would be taken for that of the next read.
            self._abort(protocol, ConnectionLost("cancelled"))
            raise
        finally:
            del self._reading[protocol]
            self._keep(protocol)

    def client_ids(self, reader: object) -> list[int]:
        """The ids by which the server knows the sockets on which a reader waits."""
        return [
            protocol.client_id
            for protocol, other in self._reading.items()
            if other is reader and protocol.client_id
        ]

    def drop(self, error: BaseException) -> None:
        """Close all sockets; reads in progress get the error."""
        idle, self._idle = self._idle, []
        for protocol in [*idle, *self._reading]:
            self._abort(protocol, error)

    async def close(self) -> None:
        """Close all sockets, and wait until they are closed."""
        self._is_closed = True
        try:
            while self._opening:
                await asyncio.wait(self._opening)
            self.drop(ConnectionLost("closed"))
            for protocol in list(self._closing):
                await protocol.close()
        finally:
            self._is_closed = False

    def _abort(self, protocol: RedisProtocol, error: BaseException) -> None:
        protocol.abort(error)
        if not protocol.closed.done():
            self._closing.add(protocol)
            protocol.closed.add_done_callback(lambda _: self._closing.discard(protocol))

    def _keep(self, protocol: RedisProtocol) -> None:
        if not protocol.is_open:
            return
        if len(self._idle) < _IDLE_KEPT and not self._is_closed:
            self._idle.append(protocol)
        else:
            self._abort(protocol, ConnectionLost("no longer needed"))

    async def _open(self) -> RedisProtocol:
        """Open a socket; keep it if the caller is cancelled meanwhile."""
        # The task may outlive its caller; `close` waits for it.
        # The socket would keep the context of the caller.
        opening = asyncio.create_task(self._connect(), name="sagastream-connect", context=Context())
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._keep_opened)
            raise

    def _keep_opened(self, opening: "asyncio.Task[RedisProtocol]") -> None:
        if not opening.cancelled() and not opening.exception():
            self._keep(opening.result())


async def _client_id(protocol: RedisProtocol) -> int:
    try:
        return int(await protocol.call("CLIENT", "ID"))
    except ServerError:
        return 0  # not allowed here: a read that waits is not interrupted
