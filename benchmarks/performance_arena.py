"""One contestant at work: a server of its own, worker processes, a requester process.

Everything listens on the loopback's TCP, as not every contestant can do otherwise. What a load
costs each process is read from the kernel, what is sent to the server from its MONITOR.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import redis
from performance_peers import ROOT, Peer

from sagastream.testing import EmbeddedServer, die_with_parent

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_BLOCKING = frozenset({"XREAD", "XREADGROUP", "BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH"})
_SENT = re.compile(r'^\S+ \[\d+ (?P<client>\S+)\] "(?P<command>[^"]*)"')


class NoServer(Exception):
    """A contestant's server is not installed."""


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Valkey:
    """The embedded server on TCP, without persistence."""

    def __init__(self) -> None:
        self._port = free_port()
        self._server = EmbeddedServer(port=self._port)
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> "Valkey":
        self._server.__enter__()
        self.pid = self._server.pid
        return self

    def __exit__(self, *what: object) -> None:
        self._server.__exit__(None, None, None)

    def client(self) -> redis.Redis:
        """A connection to it."""
        return redis.Redis.from_url(self.url)


class Nats:
    """`nats-server` with JetStream."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"nats://127.0.0.1:{port}"
        self._directory = Path(tempfile.mkdtemp(prefix="benchmark-nats-"))
        self._command = ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js"]
        self._command += ["-sd", str(self._directory), "-l", str(self._directory / "log")]

    def __enter__(self) -> "Nats":
        if shutil.which("nats-server") is None:
            raise NoServer("no nats-server on the path; Debian has it as package nats-server")
        self._process = _start(self._command)
        self.pid = self._process.pid
        time.sleep(0.5)
        return self

    def __exit__(self, *what: object) -> None:
        with contextlib.suppress(AttributeError):
            _stop(self._process)
        shutil.rmtree(self._directory, ignore_errors=True)


def server_of(peer: Peer) -> Valkey | Nats:
    """A new server of the kind that a contestant needs."""
    return Nats() if peer.server == "nats" else Valkey()


class Contest:
    """A contestant's processes, for as long as the context lasts.

    Args:
        peer: Who.
        server: A running one.
        workers: How many worker processes.
        env: What the processes get beside this one's environment.
    """

    def __init__(
        self,
        peer: Peer,
        server: Valkey | Nats,
        *,
        workers: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._peer, self._server, self._count = peer, server, workers
        own = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} if not peer.pins else {"PYTHONPATH": ""}
        self._env = dict(os.environ) | own | (env or {})

    def __enter__(self) -> "Contest":
        peer, url = self._peer, self._server.url
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        self._workers = [
            _start(peer.command("worker", url), env=self._env, stdout=self._log, stderr=self._log)
            for _ in range(self._count)
        ]
        self._requester = _start(
            peer.command("requester", url),
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            self._answer()
            self.under(seconds=0.3)  # warm
            self.under(seconds=0.3, in_flight=64)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *what: object) -> None:
        for process in (self._requester, *self._workers):
            _stop(process)
        for pipe in (self._requester.stdin, self._requester.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._log.close()

    def under(
        self,
        *,
        seconds: float,
        in_flight: int = 1,
        work: str = "echo",
        payload_bytes: int = 0,
    ) -> dict[str, Any]:
        """Figures under a load: percentiles, rate, and processor time a request by process."""
        load = {"work": work, "payload_bytes": payload_bytes, "in_flight": in_flight}
        pids = {
            "requester": [self._requester.pid],
            "worker": [worker.pid for worker in self._workers],
            "server": [self._server.pid],
        }
        before = {who: _cpu_s(own) for who, own in pids.items()}
        assert self._requester.stdin is not None
        self._requester.stdin.write((json.dumps(load | {"seconds": seconds}) + "\n").encode())
        self._requester.stdin.flush()
        told = self._answer()
        took = sorted(told["took_us"])
        return {
            "requests": len(took),
            "p50_us": median(took),
            "p99_us": took[min(len(took) - 1, len(took) * 99 // 100)],
            "per_s": len(took) / told["seconds"],
            "cpu_us": {
                who: 1e6 * (_cpu_s(own) - before[who]) / len(took) for who, own in pids.items()
            },
            "deciles_us": [took[min(len(took) - 1, len(took) * n // 200)] for n in range(201)],
        }

    def commands(self, *, in_flight: int = 1) -> dict[str, float]:
        """Commands a request that clients send beside blocking reads, as the server saw them."""
        assert isinstance(self._server, Valkey)
        with _monitored(self._server) as seen:
            asked = self.under(seconds=0.2, in_flight=in_flight)["requests"]
        return {
            name: count / asked
            for name, count in sorted(seen.items())
            if name not in _BLOCKING and count / asked >= 0.05
        }

    def _answer(self) -> Any:
        assert self._requester.stdout is not None
        line = self._requester.stdout.readline()
        if not line:
            self._log.seek(0)
            words = self._log.read().decode(errors="replace")[-3000:]
            raise RuntimeError(f"{self._peer.name} ended: {words}")
        return json.loads(line)


@contextlib.contextmanager
def _monitored(server: Valkey) -> Iterator[Counter[str]]:
    """What clients send meanwhile; what functions call inside is not counted."""
    seen: Counter[str] = Counter()
    end = f"end-{time.monotonic_ns()}"
    with socket.create_connection(("127.0.0.1", int(server.url.split(":")[2][:-2]))) as link:
        lines = link.makefile("r", encoding="utf-8", errors="replace")
        link.sendall(b"MONITOR\r\n")
        lines.readline()

        def read() -> None:
            for line in lines:
                if end in line:
                    return
                sent = _SENT.match(line[1:])
                if sent and sent["client"] != "lua":
                    seen[sent["command"].upper()] += 1

        reading = threading.Thread(target=read)
        reading.start()
        yield seen
        server.client().echo(end)
        reading.join()


def _start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen(command, **quiet | options, preexec_fn=die_with_parent)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _cpu_s(pids: list[int]) -> float:
    """Processor time that processes have used so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S
