"""An MQTT broker for tests: the program mosquitto, which a test may kill and start again."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
_START_S = 10.0


class Mosquitto:
    """A broker on a free port of the loopback.

    Args:
        folder: For its configuration and log.
        lines: More lines of the configuration; without `listener` among them it has one without TLS.
    """

    def __init__(self, folder: Path, lines: Sequence[str] = ("allow_anonymous true",)) -> None:
        if _PROGRAM is None:
            pytest.skip("mosquitto is not installed: apt-get install mosquitto")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / f"mosquitto-{self.port}.conf"
        text = [
            f"listener {self.port} 127.0.0.1",
            "persistence false",
            "set_tcp_nodelay true",
            "log_dest stdout",
            *lines,
        ]
        self._config.write_text("\n".join(text) + "\n")
        self.log = folder / f"mosquitto-{self.port}.log"

    @property
    def url(self) -> str:
        """Its URL, without TLS and user."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        assert _PROGRAM is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_PROGRAM, "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it: connections break, and what it kept in memory is lost."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it empty."""
        self.kill()
        self.start()


@contextmanager
def running_mosquitto(
    folder: Path, lines: Sequence[str] = ("allow_anonymous true",)
) -> Iterator[Mosquitto]:
    """Run a broker while the context is open."""
    broker = Mosquitto(folder, lines)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
