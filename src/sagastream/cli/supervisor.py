"""Run a command in a child process, and restart it when a source file changes."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from sagastream.cli.output import print_hint
from sagastream.cli.server_address import environment_with
from sagastream.testing import child_options

_LOOK_S = 0.3
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


def supervise(command: Sequence[str], *, url: str, folders: Sequence[Path]) -> int:
    """Run a command until SIGTERM or Ctrl-C, which is passed on to it.

    Args:
        command: The command; without one, only wait for the signal.
        url: The server, for its environment: others can read its arguments.
        folders: Restart it when a `.py` file in one of them changes; empty for never.

    Returns:
        The exit code of the command; 0 after a signal that it obeyed.
    """
    child = _Child(command, environment_with(url))
    stopping = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.set()
        child.signal(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        return _watch(child, stopping, folders)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        child.end()


def _watch(child: "_Child", stopping: threading.Event, folders: Sequence[Path]) -> int:
    seen = _state_of(folders)
    child.start()
    while not stopping.wait(_LOOK_S):
        code = child.code
        if code is not None and not folders:
            return code
        now = _state_of(folders)
        if now != seen:
            seen = now
            print_hint("a file has changed: restarting")
            child.end()
            child.start()
    return child.wait()


def _state_of(folders: Sequence[Path]) -> dict[str, int]:
    """When each source file was last changed."""
    return {path: changed for folder in folders for path, changed in _sources(folder)}


def _sources(folder: Path) -> Iterator[tuple[str, int]]:
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name not in _SKIPPED and not name.startswith(".")]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(place, name)  # noqa: PTH118 - a large tree is read often
                try:
                    yield path, os.stat(path).st_mtime_ns  # noqa: PTH116
                except OSError:
                    continue  # it is gone meanwhile


class _Child:
    """The child process: a new one after each start."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs, or if there is none."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start it in its own session, so that a Ctrl-C reaches it once; it dies with this process."""
        if self._command:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command, env=self._environment, **child_options()
            )

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended."""
        return self._process.wait() if self._process else 0

    def end(self) -> None:
        """Let it drain, and wait until it has ended."""
        self.signal(signal.SIGTERM)
        self.wait()
