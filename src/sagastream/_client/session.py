"""Sessions: a bus has one for each process and event loop, with its connections.

Nothing connects before it is used. A session belongs to one process and one loop, as its
sockets do; the registry makes a new one after a fork.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from sagastream._client.data_loss import DataLossGuard
from sagastream._client.inbox import Inbox
from sagastream._functions.library import LIBRARY, SOURCE
from sagastream._functions.requests import RequestFunctions
from sagastream._functions.sagas import SagaFunctions
from sagastream._functions.schedule_functions import ScheduleFunctions
from sagastream._functions.streams import StreamFunctions
from sagastream._redis.connection import Connection
from sagastream._redis.deadline import Deadline
from sagastream._redis.nodes import Servers, fork_count
from sagastream._telemetry.operations import Server, server_of
from sagastream.errors import ServerError, ServerUnsuitable
from sagastream.retention import Retention

_CHECK_S = 2.0
# What a child process has from its parent, and must not finalize.
_inherited: list[object] = []


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What all sessions of a bus have in common.

    Attributes:
        servers: The server, the service or the cluster.
        prefix: The prefix of every key, from the namespace; '' without one.
        call_timeout_s: How long a call waits for a server that does not answer, in seconds.
        retention: How long what is left of ended requests is kept.
        max_payload: The largest payload, in bytes of JSON.
        max_in_flight: How many requests may wait for their replies at once.
    """

    servers: Servers
    prefix: str
    call_timeout_s: float
    retention: Retention
    max_payload: int
    max_in_flight: int

    def with_prefix(self, prefix: str) -> "SessionOptions":
        """These options for another namespace."""
        return replace(self, prefix=prefix)

    def key(self, name: str) -> str:
        """The key of a stream or record on the server."""
        return self.prefix + name

    def record_key(self, request_id: str) -> str:
        """The key of a request's record."""
        return f"{self.prefix}request:{request_id}"

    def reply_keys(self, reply_stream: str, saga_id: str) -> list[str]:
        """The keys of the streams that get a request's replies: the requester's and the saga's."""
        names = [reply_stream, f"saga:{saga_id}:replies" if saga_id else ""]
        return [self.prefix + name for name in names if name]


@dataclass(frozen=True, slots=True)
class Session:
    """The connections of one process and event loop, and what uses them."""

    options: SessionOptions
    connection: Connection
    requests: RequestFunctions
    streams: StreamFunctions
    sagas: SagaFunctions
    schedules: ScheduleFunctions
    guard: DataLossGuard
    inbox: Inbox
    server: Server

    async def check(self) -> None:
        """Check that the server answers, is suitable, and has our functions.

        Raises:
            ServerUnavailable: It does not answer.
            ServerUnsuitable: It refuses this client, has no functions, may evict keys, or belongs
                to a cluster and the bus has no namespace.
        """
        connection = self.connection
        deadline = Deadline(min(connection.call_timeout_s, _CHECK_S))
        if self.options.prefix:
            # In a cluster this leads to the node of our keys: what names no key goes there, too.
            key = self.options.key("sagastream:instance")
            await connection.call("EXISTS", key, deadline=deadline)
        info = await self._info(deadline)
        if info.get("cluster_enabled") and not self.options.prefix:
            raise ServerUnsuitable(
                f"{connection.address} belongs to a cluster, where the keys of a request would "
                "be in several slots; give a namespace"
            )
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise ServerUnsuitable(
                f"{connection.address} may evict running requests (maxmemory-policy {policy}); "
                "run CONFIG SET maxmemory-policy noeviction there"
            )
        if not await self._has_functions():
            await connection.load_functions()

    async def _has_functions(self) -> bool:
        """Whether the server has the functions: a full one refuses to load them again."""
        try:
            return bool(await self.connection.call("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY))
        except ServerError as error:
            if error.code != "NOPERM":
                return False
        # Calling one needs no right to list functions; that they are missing is an error here.
        await self.requests.inspect(self.options.record_key("none"))
        return True

    async def _info(self, deadline: Deadline) -> dict[str, Any]:
        """What the server says of itself; nothing if this client may not ask."""
        try:
            return dict(await self.connection.call("INFO", deadline=deadline))
        except ServerError as error:
            if error.code == "NOPERM":
                return {}
            raise


class SessionRegistry:
    """The sessions of a bus, one for each event loop of this process.

    A session ends with `close`, or with its loop: `asyncio.run` closes the asynchronous
    generators of its loop, and each session is held by one.

    Args:
        options: What they have in common.
    """

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._forks = fork_count()
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}
        self._holders: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    def current(self) -> Session:
        """The session of the running loop, made now if there is none."""
        if self._forks != fork_count():
            # Sockets that were open at the fork belong to the parent: leave them alone.
            _inherited.append((self._sessions, self._holders))
            self._sessions, self._holders = {}, {}
            self._forks = fork_count()
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for other in list(self._sessions):  # loops of other threads come and go meanwhile
                if other.is_closed():
                    self._sessions.pop(other, None)
                    self._holders.pop(other, None)
            session = self._sessions[loop] = _make(self._options)
            holder = self._holders[loop] = self._hold(loop, session)
            with contextlib.suppress(StopIteration):
                holder.__anext__().send(None)  # to its first `yield`; the loop knows it now
        return session

    async def close(self) -> None:
        """Close the session of the running loop, if this process made one."""
        if self._forks == fork_count():
            holder = self._holders.get(asyncio.get_running_loop())
            if holder:
                await holder.aclose()

    async def _hold(
        self, loop: asyncio.AbstractEventLoop, session: Session
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._sessions.pop(loop, None)
            self._holders.pop(loop, None)
            await session.inbox.close()
            await session.connection.close()


def _make(options: SessionOptions) -> Session:
    connection = Connection(
        options.servers,
        library=SOURCE,
        call_timeout_s=options.call_timeout_s,
        barrier=options.key("sagastream:instance"),
    )
    guard = DataLossGuard(connection, options.key("sagastream:instance"))
    return Session(
        options,
        connection,
        RequestFunctions(connection, retention=options.retention),
        StreamFunctions(connection, retention=options.retention),
        SagaFunctions(connection),
        ScheduleFunctions(connection, retention=options.retention),
        guard,
        Inbox(
            connection,
            guard,
            options.prefix,
            max_bytes=options.max_payload,
            max_in_flight=options.max_in_flight,
        ),
        server_of(options.servers.url.plain),
    )
