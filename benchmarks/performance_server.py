"""Start the servers of the contestants, and record the commands that they get.

The servers listen on TCP on the loopback interface, because some contestants know nothing else.
They keep nothing on disk.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis
from performance_peers import Peer

from sagastream.testing import EmbeddedServer, child_options

_SENT = re.compile(r"\+\S+ \[\d+ (?!lua\])\S+\] (.*)")
_PART = re.compile(r'"((?:[^"\\]|\\.)*)"')


class NoServer(Exception):
    """A contestant's server is not installed."""


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Valkey:
    """The embedded server on TCP, without persistence."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server = EmbeddedServer(port=self.port)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._server.__enter__()
        self.pid = self._server.pid
        return self

    def __exit__(self, *what: object) -> None:
        self._server.__exit__(None, None, None)

    def client(self) -> redis.Redis:
        """Return a connection to it."""
        return redis.Redis.from_url(self.url)


class Nats:
    """`nats-server` with JetStream."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"nats://127.0.0.1:{port}"
        self._directory = Path(tempfile.mkdtemp(prefix="benchmark-nats-"))
        self._command = ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js"]
        self._command += ["-sd", str(self._directory), "-l", str(self._directory / "log")]

    def __enter__(self) -> Self:
        if shutil.which("nats-server") is None:
            raise NoServer(
                "nats-server is not on the path; on Debian install the package nats-server"
            )
        self._process = start(self._command)
        self.pid = self._process.pid
        time.sleep(0.5)
        return self

    def __exit__(self, *what: object) -> None:
        with contextlib.suppress(AttributeError):
            stop(self._process)
        shutil.rmtree(self._directory, ignore_errors=True)


def server_of(peer: Peer) -> Valkey | Nats:
    """Return a new server of the kind that a contestant needs."""
    return Nats() if peer.server == "nats" else Valkey()


@dataclass(frozen=True, slots=True)
class Sent:
    """A command as the server saw it."""

    words: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """Its name; for a function call `FCALL` and the function's name without its library."""
        name = self.words[0].decode().upper()
        function = self.words[1].decode().rpartition("_")[2] if name == "FCALL" else ""
        return f"{name} {function}".rstrip()


@contextlib.contextmanager
def monitored(server: Valkey) -> Iterator[list[Sent]]:
    """Record what clients send, complete on exit; without the commands inside functions."""
    seen: list[Sent] = []
    end = f"end-{time.monotonic_ns()}"
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        lines = link.makefile("r", encoding="ascii")
        link.sendall(b"MONITOR\r\n")
        lines.readline()

        def read() -> None:
            for line in lines:
                if end in line:
                    return
                if sent := _SENT.match(line):
                    seen.append(Sent(tuple(map(_unescaped, _PART.findall(sent[1])))))

        reading = threading.Thread(target=read)
        reading.start()
        try:
            yield seen
        finally:
            server.client().echo(end)
            reading.join()


def _unescaped(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one; its output is discarded by default."""
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen(
        command,
        **quiet | options,
        **child_options(),
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and wait for it."""
    process.kill()
    process.wait()
