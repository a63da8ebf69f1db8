"""What one process and loop has of a bus: its connections, its inbox, what it remembers."""

import asyncio
import os
import weakref
from dataclasses import dataclass

from sagastream._client.data_loss import Instance
from sagastream._client.inbox import Inbox
from sagastream._functions.stubs import Functions
from sagastream._redis.connection import Connection
from sagastream._telemetry.operations import Server, server_of
from sagastream.errors import ServerUnsuitable

# How often this process and its parents have forked, as asking for its id each time is slow.
_forks = [0]


def _count_fork() -> None:
    _forks[0] += 1


os.register_at_fork(after_in_child=_count_fork)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one process and loop has of a bus."""

    connection: Connection
    functions: Functions
    instance: Instance
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
        about = await connection.call("INFO", patience_s=min(connection.patience_s, 2.0))
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


class Endpoints:
    """The endpoints of a bus, one a loop; nothing connects before it is used.

    The arguments are those of `Bus`; `prefix` is put before every key.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        patience_s: float,
        retention_s: float,
        max_payload: int,
        max_waiting: int,
    ) -> None:
        self._url = url
        self._prefix = prefix
        self._patience_s = patience_s
        self._retention_s = retention_s
        self._max_payload = max_payload
        self._max_waiting = max_waiting
        self._forks = _forks[0]
        self._made: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Endpoint] = (
            weakref.WeakKeyDictionary()
        )

    def here(self) -> Endpoint:
        """That of the running loop, made now if there is none."""
        if self._forks != _forks[0]:
            # Sockets that came over a fork belong to the parent: leave them alone.
            self._made = weakref.WeakKeyDictionary()
            self._forks = _forks[0]
        loop = asyncio.get_running_loop()
        endpoint = self._made.get(loop)
        if endpoint is None:
            endpoint = self._made[loop] = self._make()
        return endpoint

    async def close(self) -> None:
        """Close that of the running loop, if this process made one."""
        endpoint = self._made.pop(asyncio.get_running_loop(), None)
        if endpoint and self._forks == _forks[0]:
            await endpoint.inbox.close()
            await endpoint.connection.close()

    def _make(self) -> Endpoint:
        connection = Connection(self._url, patience_s=self._patience_s)
        instance = Instance(connection, f"{self._prefix}sagastream:instance")
        return Endpoint(
            connection,
            Functions(connection, reply_ttl_ms=round(self._retention_s * 1000)),
            instance,
            Inbox(
                connection,
                instance,
                self._prefix,
                max_bytes=self._max_payload,
                max_waiting=self._max_waiting,
            ),
            server_of(self._url),
            self._prefix,
        )
