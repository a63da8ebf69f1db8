"""A primary and its replica, and a name that leads to one of them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from sagastream.testing import EmbeddedServer
from tests.plain_client import connect
from tests.polling import eventually_sync

NAME = "primary.test"
_WITHIN_S = 20.0


@dataclass(frozen=True)
class Pair:
    """Two servers; the second follows the first.

    Attributes:
        first: The primary at the start.
        second: Its replica.
        first_port: The primary's port.
        second_port: The replica's port.
    """

    first: EmbeddedServer
    second: EmbeddedServer
    first_port: int
    second_port: int


class Names:
    """The name of the primary, for this process.

    Attributes:
        port: The port to which it leads.
        url: The URL with the name.
    """

    url = f"redis://{NAME}:1"

    def __init__(self, port: int) -> None:
        self.port = port
        self._resolve = socket.getaddrinfo

    def resolve(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        """`socket.getaddrinfo` with one more name."""
        if host == NAME:
            host, port = "127.0.0.1", self.port
        return self._resolve(host, port, *args, **options)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def replicated(binary: str | None) -> Iterator[Pair]:
    """Start a primary, and a replica that follows it."""
    first_port, second_port = _free_port(), _free_port()
    with (
        EmbeddedServer(binary=binary, port=first_port) as first,
        EmbeddedServer(binary=binary, port=second_port) as second,
        connect(first.url) as primary,
        connect(second.url) as replica,
    ):
        replica.replicaof("127.0.0.1", first_port)
        # The primary says so after the replica does, at its first acknowledgement.
        eventually_sync(
            lambda: primary.info("replication").get("slave0", {}).get("state") == "online",
            within_s=_WITHIN_S,
            why="the replica follows",
        )
        yield Pair(first, second, first_port, second_port)


def fail_over(pair: Pair) -> None:
    """Change the roles, and wait until both servers have theirs."""
    with connect(pair.first.url) as old, connect(pair.second.url) as new:
        old.execute_command("FAILOVER", "TO", "127.0.0.1", pair.second_port)
        for client, role in ((new, "master"), (old, "slave")):
            eventually_sync(
                partial(_has_role, client, role), within_s=_WITHIN_S, why=f"one of them is {role}"
            )


def _has_role(client: Any, role: str) -> bool:
    return bool(client.info("replication")["role"] == role)
