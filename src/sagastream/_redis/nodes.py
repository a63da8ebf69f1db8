"""Where the commands of a connection go: one server, the primary of a service, or a cluster.

The Sentinels of a service are asked at each new connection. A cluster's client learns its nodes
from any of them, and goes where they send it.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

from sagastream._redis.address import Address, ServerUrl, parse_url
from sagastream._redis.node import Node
from sagastream._redis.protocol import ConnectionLost, RedisProtocol, connect
from sagastream._redis.replication import Replication
from sagastream.errors import ServerError

_SENTINEL_TIMEOUT_S = 1.0
_LEARN_EVERY_S = 1.0
# How many times this process and its parents have forked; calling `os.getpid` is slower.
_forks = [0]


def _count_fork() -> None:
    _forks[0] += 1


os.register_at_fork(after_in_child=_count_fork)


def fork_count() -> int:
    """How many times this process and its parents have forked; differs in parent and child."""
    return _forks[0]


class Servers:
    """The servers of a URL, for all event loops and threads of a process.

    Args:
        url: As `parse_url` describes.
        replication: Who has to confirm what functions write; None for nobody.

    Raises:
        ValueError: The URL is invalid.

    Attributes:
        url: The URL that was read.
        replication: Who has to confirm what functions write; None for nobody.
        known: Where nodes of a cluster listen, as far as it is known; the hosts of the URL first.
    """

    def __init__(self, url: str, *, replication: Replication | None = None) -> None:
        self.replication = replication
        self.url: ServerUrl = parse_url(url)
        self.known: tuple[Address, ...] = () if self.url.kind == "sentinel" else self.url.hosts
        self._lock = threading.Lock()
        self._nodes: dict[tuple[int, asyncio.AbstractEventLoop], Nodes] = {}

    @property
    def address(self) -> str:
        """The URL without user, password and query."""
        return self.url.redacted

    def learn(self, addresses: Iterable[Address]) -> None:
        """Remember nodes of the cluster."""
        with self._lock:
            self.known += tuple(dict.fromkeys(each for each in addresses if each not in self.known))

    def after(self, address: Address | None) -> Address | None:
        """Another known node than this one; the same if there is no other."""
        known = self.known
        if address not in known:
            return known[0] if known else None
        return known[(known.index(address) + 1) % len(known)]

    def nodes(self) -> "Nodes":
        """The nodes of the running loop, with one more user."""
        key = (fork_count(), asyncio.get_running_loop())
        nodes = self._nodes.get(key)
        if nodes is None:
            for other in list(self._nodes):
                if other[1].is_closed() and other[0] == key[0]:
                    self._nodes.pop(other, None)
            nodes = self._nodes[key] = Nodes(self)
        nodes.users += 1
        return nodes

    async def leave(self, nodes: "Nodes") -> None:
        """Use the nodes of a loop no longer; the last user closes them."""
        nodes.users -= 1
        if nodes.users == 0:
            for key in [key for key, each in self._nodes.items() if each is nodes]:
                del self._nodes[key]
            await nodes.close()


class Nodes:
    """The nodes to which the connections of one event loop send commands.

    Args:
        servers: Where they listen.

    Attributes:
        users: How many connections use them.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._nodes: dict[Address | None, Node] = {}
        self._learned_at = -_LEARN_EVERY_S
        self.users = 0

    def first(self) -> Node:
        """The node that a connection uses until another one sends it elsewhere."""
        return self.at(self._servers.known[0] if self._servers.known else None)

    def at(self, address: Address | None) -> Node:
        """The node at an address; None for that of the URL or of the service."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(
                lambda: self._open(address),
                address=self._servers.address,
                replication=self._servers.replication,
            )
        return node

    def all(self) -> list[Node]:
        """All nodes that were used."""
        return list(self._nodes.values())

    def after(self, node: Node) -> Node:
        """Another known node of the cluster; the same one if no other is known."""
        return self.at(self._servers.after(self._address_of(node)))

    def moved_to(self, node: Node, error: ServerError) -> Node:
        """The node that `MOVED <slot> <host>:<port>` names. Learn of other nodes, too."""
        host, _, port = error.message.split()[2].rpartition(":")
        near = self._address_of(node)
        address = Address(host.strip("[]") or (near.host if near else ""), int(port))
        self._servers.learn([address])
        moved = self.at(address)
        if time.monotonic() - self._learned_at >= _LEARN_EVERY_S:
            self._learned_at = time.monotonic()
            moved.call("CLUSTER", "SLOTS").add_done_callback(
                lambda future: self._learn(address, future)
            )
        return moved

    def primaries_of(self, asked: Node, slots: Any) -> list[Node]:
        """The primaries in the answer of CLUSTER SLOTS."""
        near = self._address_of(asked)
        first = [_address_in(primary, near) for _, _, primary, *_ in slots]
        return [self.at(address) for address in dict.fromkeys(first)]

    def _learn(self, asked: Address, slots: "asyncio.Future[Any]") -> None:
        if slots.cancelled() or slots.exception():
            return  # this client may not ask, or the node is away: those that are known must do
        for _, _, *nodes in slots.result():
            self._servers.learn(_address_in(node, asked) for node in nodes)

    def _address_of(self, node: Node) -> Address | None:
        return next((address for address, each in self._nodes.items() if each is node), None)

    async def close(self) -> None:
        """Close all sockets, and wait until they are closed."""
        for node in self.all():
            await node.close()

    async def _open(self, address: Address | None) -> RedisProtocol:
        url = self._servers.url
        if url.kind != "sentinel":
            return await connect(url.options(address))
        primary = await _primary_of(url)
        protocol = await connect(url.options(primary))
        try:
            await _require_primary(protocol, primary)
        except BaseException:
            await protocol.close()
            raise
        return protocol


def _address_in(node: Any, asked: Address | None) -> Address:
    """The address of a node in the answer of CLUSTER SLOTS."""
    host, port, *_ = node
    if host and host != b"?":
        return Address(host.decode(), int(port))
    return Address(asked.host if asked else "", int(port))


async def _require_primary(protocol: RedisProtocol, address: Address) -> None:
    """Refuse a replica: Sentinels may not know yet that it is one."""
    try:
        role, *_ = await protocol.call("ROLE")
    except ServerError:
        return  # this client may not ask
    if role != b"master":
        raise ConnectionLost(f"{address}, which Sentinel calls the primary, is a replica")


async def _primary_of(url: ServerUrl) -> Address:
    """Ask the Sentinels, one after the other, where the primary of the service is.

    Raises:
        ConnectionLost: None of them knows.
    """
    reasons = []
    for each in url.hosts:
        try:
            async with asyncio.timeout(_SENTINEL_TIMEOUT_S):
                sentinel = await connect(url.sentinel_options(each))
                try:
                    answer = await sentinel.call(*primary_query(url.service))
                finally:
                    await sentinel.close()
        except TimeoutError:
            reasons.append(f"{each} does not answer")
        except (OSError, ServerError) as error:
            reasons.append(f"{each}: {error}")
        else:
            if answer:
                return Address(answer[0].decode(), int(answer[1]))
            reasons.append(f"{each} does not know {url.service!r}")
    raise ConnectionLost(f"no Sentinel knows the primary: {'; '.join(reasons)}")


def primary_query(service: str) -> tuple[str, ...]:
    """What a Sentinel is asked for the address of a service's primary."""
    return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
