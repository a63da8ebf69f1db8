"""What one process and loop has of a bus: its connections, its inbox, what it remembers."""

import asyncio
import os
import weakref
from dataclasses import dataclass

from sagastream._client.data_loss import DataLossGuard
from sagastream._client.inbox import Inbox
from sagastream._functions.stubs import SOURCE, Functions
from sagastream._redis.connection import Connection
from sagastream._telemetry.operations import Server, server_of
from sagastream.errors import ServerUnsuitable

# How often this process and its parents have forked, as asking for its id each time is slow.
_forks = [0]


def _count_fork() -> None:
    _forks[0] += 1


os.register_at_fork(after_in_child=_count_fork)


@dataclass(frozen=True, slots=True)
class Session:
    """What one process and loop has of a bus."""

    connection: Connection
    functions: Functions
    instance: DataLossGuard
    inbox: Inbox
    server: Server
    prefix: str

    async def check(self) -> None:
        """Ask the server for a sign of life, and make sure that it has our functions.

        Raises:
            ServerUnavailable: It does not answer.
            ServerUnsuitable: It refuses us, cannot hold functions, may evict keys, or is of a
                cluster while there is no namespace.
        """
        connection = self.connection
        about = await connection.call("INFO", call_timeout_s=min(connection.call_timeout_s, 2.0))
        if about.get("cluster_enabled") and not self.prefix:
            raise ServerUnsuitable(
                f"{connection.address} is of a cluster, where the keys of a request would lie "
                "apart; give a namespace"
            )
        policy = str(about.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise ServerUnsuitable(
                f"{connection.address} may evict requests that run (maxmemory-policy {policy}); "
                "run CONFIG SET maxmemory-policy noeviction there"
            )
        await connection.load_functions()


class SessionRegistry:
    """The endpoints of a bus, one a loop; nothing connects before it is used.

    The arguments are those of `Bus`; `prefix` is put before every key.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        call_timeout_s: float,
        retention_s: float,
        max_payload: int,
        max_in_flight: int,
    ) -> None:
        self._url = url
        self._prefix = prefix
        self._call_timeout_s = call_timeout_s
        self._retention_s = retention_s
        self._max_payload = max_payload
        self._max_in_flight = max_in_flight
        self._forks = _forks[0]
        self._made: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Session] = (
            weakref.WeakKeyDictionary()
        )

    def here(self) -> Session:
        """That of the running loop, made now if there is none."""
        if self._forks != _forks[0]:
            # Sockets that came over a fork belong to the parent: leave them alone.
            self._made = weakref.WeakKeyDictionary()
            self._forks = _forks[0]
        loop = asyncio.get_running_loop()
        session = self._made.get(loop)
        if session is None:
            session = self._made[loop] = self._make()
        return session

    async def close(self) -> None:
        """Close that of the running loop, if this process made one."""
        session = self._made.pop(asyncio.get_running_loop(), None)
        if session and self._forks == _forks[0]:
            await session.inbox.close()
            await session.connection.close()

    def _make(self) -> Session:
        connection = Connection(self._url, library=SOURCE, call_timeout_s=self._call_timeout_s)
        instance = DataLossGuard(connection, f"{self._prefix}sagastream:instance")
        return Session(
            connection,
            Functions(connection, reply_ttl_ms=round(self._retention_s * 1000)),
            instance,
            Inbox(
                connection,
                instance,
                self._prefix,
                max_bytes=self._max_payload,
                max_in_flight=self._max_in_flight,
            ),
            server_of(self._url),
            self._prefix,
        )
