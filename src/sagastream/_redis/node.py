"""The sockets to one server, shared by the connections of an event loop."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

from sagastream._redis.blocking import BlockingReads
from sagastream._redis.protocol import ConnectionLost, Receive, RedisProtocol, pack, settle
from sagastream._redis.replication import Confirmations, Confirmed, Replication
from sagastream.errors import ServerError

# How many commands may wait for their answers at once; others wait in the queue.
_WINDOW = 1024

Connect = Callable[[], Coroutine[Any, Any, RedisProtocol]]


class Node:
    """Sends the commands of one tick of the loop together over one socket.

    Each blocking read has another socket. A command is sent once; its answer may be the loss of
    the connection.

    Args:
        connect: Opens a socket to the server.
        address: The server, for errors.
        replication: Who has to confirm what functions write; None for nobody.

    Attributes:
        reads: The sockets of its blocking reads.
        generation: How often it was connected.
    """

    def __init__(
        self, connect: Connect, *, address: str, replication: Replication | None = None
    ) -> None:
        self._connect_once = connect
        self._address = address
        self._replication = replication
        self._confirmations: Confirmations | None = None
        self.generation = 0
        self.reads = BlockingReads(connect)
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[bytes, Receive]] = []
        self._is_flush_scheduled = False
        self._protocol: RedisProtocol | None = None
        self._connecting: asyncio.Task[None] | None = None

    def call(self, *args: Any) -> "asyncio.Future[Any]":
        """Send a command; the future gets its answer, or the error that came instead."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.add((pack(args), partial(settle, future)))
        return future

    def add(self, command: tuple[bytes, Receive]) -> None:
        """Queue a packed command with the receiver of its answer; send it in this tick."""
        self._queue.append(command)
        if self._protocol and not self._protocol.receivers:
            self.flush()  # no answer is awaited: nothing to batch it with
        elif not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self.flush)

    def push(self, command: tuple[bytes, Receive]) -> None:
        """Send a packed command now, after those that are queued."""
        self._queue.append(command)
        self.flush()

    def flush(self) -> None:
        """Send what is queued now, and connect first if there is no connection."""
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

    def confirm(self, key: str, confirmed: Confirmed) -> None:
        """Confirm that replicas have what the server has answered, as `Confirmations.add` does."""
        protocol, confirmations = self._protocol, self._confirmations
        if not (protocol and protocol.is_open and confirmations and confirmations.protocol.is_open):
            self.drop_commands(ConnectionLost("the connection that confirms writes is lost"))
            confirmed(ConnectionLost("the connection was lost before replicas confirmed"))
        else:
            confirmations.add(key, confirmed)

    def drop_commands(self, error: BaseException) -> None:
        """Close the socket of commands: the next one may lead to a server that has less."""
        if self._protocol:
            self._protocol.abort(error)
        if self._confirmations:
            self._confirmations.protocol.abort(error)

    def drop(self, error: BaseException) -> None:
        """Close all sockets at once; whatever waits for an answer gets the error."""
        self.drop_commands(error)
        self.reads.drop(error)

    async def drain(self, within_s: float) -> None:
        """Wait until the server has answered what was sent, or a time in seconds has passed."""
        if self._connecting:
            await asyncio.wait({self._connecting})
        if self._protocol and self._protocol.is_open:
            # The answer to PING comes after the answers to all commands before it.
            with contextlib.suppress(OSError, ServerError):
                async with asyncio.timeout(within_s):
                    await self.call("PING")

    async def close(self) -> None:
        """Close all sockets, and wait until they are closed."""
        if self._connecting:
            await asyncio.wait({self._connecting})
        protocol, self._protocol = self._protocol, None
        confirmations, self._confirmations = self._confirmations, None
        if protocol:
            await protocol.close()
        if confirmations:
            await confirmations.protocol.close()
        await self.reads.close()

    async def _connect(self) -> None:
        try:
            protocol = await self._connect_once()
            if self._replication:
                try:
                    await self._open_confirmations(protocol, self._replication)
                except BaseException:
                    await protocol.close()
                    raise
            self._protocol, self.generation = protocol, self.generation + 1
        except Exception as error:  # noqa: BLE001 - the callers get it
            self._connecting = None
            queue, self._queue = self._queue, []
            for _, receive in queue:
                receive(error)
        else:
            self._connecting = None
            self._protocol.on_answers = self.flush
            self.flush()

    async def _open_confirmations(self, protocol: RedisProtocol, replication: Replication) -> None:
        """Open the socket that confirms the writes on another one."""
        if self._confirmations:
            await self._confirmations.protocol.close()
        second = await self._connect_once()
        if second.peer != protocol.peer:
            await second.close()
            raise ConnectionLost("the server has changed")
        self._confirmations = Confirmations(replication, self._address, second)
