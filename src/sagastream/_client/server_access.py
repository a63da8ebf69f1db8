"""The server of a bus: its connections, and commands that belong to the application."""

import copy
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

from sagastream._client.replies import read_entries
from sagastream._client.session import Session, SessionOptions, SessionRegistry
from sagastream._codec.entries import StreamEntry, text_fields
from sagastream._codec.payload import MAX_PAYLOAD_BYTES
from sagastream._codec.validation import check_name
from sagastream._redis.deadline import Deadline
from sagastream._redis.nodes import Servers
from sagastream._redis.replication import Replication
from sagastream.retention import Retention


class ServerAccess:
    """What a `Bus` knows of its server; `Bus` describes the arguments."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "",
        max_payload: int = MAX_PAYLOAD_BYTES,
        retention: Retention = Retention(),  # noqa: B008 - frozen
        call_timeout_s: float = 10.0,
        max_in_flight: int = 10_000,
        when_full: Literal["wait", "raise"] = "wait",
        durability: Literal["primary", "replicated"] = "primary",
        replicas: int = 1,
        replicated_within_s: float = 1.0,
    ) -> None:
        self.url = url
        self.namespace = namespace
        self.max_payload = max_payload
        self.retention = retention
        self._when_full = when_full
        prefix = f"{{{check_name('namespace', namespace)}}}:" if namespace else ""
        if durability not in {"primary", "replicated"}:
            raise ValueError(f"durability must be 'primary' or 'replicated', not {durability!r}")
        replication = Replication(replicas, replicated_within_s)
        self._options = SessionOptions(
            Servers(url, replication=replication if durability == "replicated" else None),
            prefix,
            call_timeout_s=call_timeout_s,
            retention=retention,
            max_payload=max_payload,
            max_in_flight=max_in_flight,
        )
        self._sessions = SessionRegistry(self._options)

    def __repr__(self) -> str:
        return f"<Bus {self.address} {self._options.prefix}>"

    @property
    def address(self) -> str:
        """The server, without user and password."""
        return self._options.servers.address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def key(self, name: str) -> str:
        """The key of a stream or record on the server."""
        return self._options.key(name)

    def with_namespace(self, namespace: str) -> Self:
        """A bus for another namespace that shares the connections of this one.

        Each has to be closed; the last one closes the connections.
        """
        other = copy.copy(self)
        prefix = f"{{{check_name('namespace', namespace)}}}:"
        other.namespace = namespace
        other._options = self._options.with_prefix(prefix)  # noqa: SLF001 - the same class
        other._sessions = SessionRegistry(other._options)  # noqa: SLF001
        return other

    def session(self) -> Session:
        """The connections of this process and event loop; for the library's own use."""
        return self._sessions.current()

    async def close(self) -> None:
        """Close the connections of this process and event loop. The bus can be used again."""
        await self._sessions.close()

    async def ping(self) -> None:
        """Check that the server answers, is suitable, and has our functions.

        Raises:
            ServerUnavailable: It does not answer.
            ServerUnsuitable: It refuses this client, has no functions, may evict keys, or belongs
                to a cluster and the bus has no namespace.
        """
        await self.session().check()

    async def command(self, *args: str | bytes | float, timeout: float | None = None) -> Any:
        """Send one Redis command, for keys that belong to the application.

        The server may get it twice, if its first answer is lost: use idempotent commands. The
        namespace is not put before keys: see `key`.

        Args:
            args: The command and its arguments, such as `"HGET", bus.key("fleet"), "r1"`.
            timeout: Seconds to wait for the answer; None for the bus's `call_timeout_s`.

        Returns:
            The answer, with text as bytes.

        Raises:
            ServerUnavailable: The server did not answer in time.
            ServerRefused: The server takes no writes for now.
            ServerError: The server answered with another error.
        """
        deadline = Deadline(self._options.call_timeout_s if timeout is None else timeout)
        return await self.session().connection.call(*args, deadline=deadline)

    async def read_entries(
        self, after: Mapping[str, str], *, count: int = 100, block_s: float = 0.0
    ) -> list[StreamEntry]:
        """Read the entries of streams that come after a known one.

        Args:
            after: For each stream, without the namespace, the id of the last entry seen;
                `0-0` for all.
            count: Read at most this many of each stream.
            block_s: Wait this long for the first entry if there is none; 2 at most.

        Returns:
            The entries stream by stream, each stream's oldest first.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        return await read_entries(self.session(), after, count=count, block_s=block_s)

    async def last_entries(self, stream: str, count: int) -> list[StreamEntry]:
        """Read the last entries of a stream, the newest first; raises as `read_entries`."""
        answer = await self.command("XREVRANGE", self.key(stream), "+", "-", "COUNT", count)
        return [StreamEntry(stream, entry.decode(), text_fields(raw)) for entry, raw in answer]
