"""A program in a real terminal, where Ctrl-C goes to every process of its group."""

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from app.config import ROOT
from tests.polling import eventually_sync

CTRL_C = b"\x03"
_ROWS, _COLUMNS = 40, 120
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Ends a live display: what follows it stays on the screen as it was printed.
_SHOW_CURSOR = "\x1b[?25h"


class Terminal:
    """A program in a terminal; what it leaves behind ends with the context.

    Args:
        arguments: The program and its arguments.
        env: Its environment; a new folder for temporary files is added.
        piped: Whether its standard output is a pipe, as in `program | other`.
    """

    def __init__(
        self, arguments: Sequence[str | Path], env: Mapping[str, str], *, piped: bool = False
    ) -> None:
        self._marker = f"TERMINAL_TEST={uuid.uuid4().hex}"
        # A short path, because it has the socket of a server.
        self.folder = Path(tempfile.mkdtemp(prefix="term-"))
        name, value = self._marker.split("=")
        self._env = {"TERM": "xterm"} | dict(env) | {name: value, "TMPDIR": str(self.folder)}
        self._arguments = arguments
        self._piped = piped
        self._shown = bytearray()
        self._closing = threading.Event()
        self._signalled = 0.0
        self.out = ""

    def __enter__(self) -> Self:
        self._master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", _ROWS, _COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            self._arguments,
            cwd=ROOT,
            env=self._env,
            stdin=terminal,
            stdout=subprocess.PIPE if self._piped else terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - only sets the terminal and a signal
        )
        os.close(terminal)
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.close()
        if self.process.stdout:
            self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def shown(self) -> str:
        """All that the terminal was sent, without control sequences."""
        return _CONTROL.sub("", self._text)

    @property
    def lines(self) -> list[str]:
        """What was printed after the live display, if there was one; without empty lines."""
        text = _CONTROL.sub("", self._text.rpartition(_SHOW_CURSOR)[2])
        return [line for line in text.replace("^C", "").splitlines() if line.strip()]

    @property
    def _text(self) -> str:
        return self._shown.decode(errors="replace").replace("\r", "")

    def until(self, text: str) -> None:
        """Wait until the program has printed a text."""
        eventually_sync(
            lambda: text in self.shown or self._has_ended(), within_s=60, why=f"{text!r} is shown"
        )
        assert text in self.shown, self.shown[-2000:]

    def press(self, key: bytes = CTRL_C) -> None:
        """Press a key; the time to the end counts from the last one."""
        self._signalled = time.monotonic()
        os.write(self._master, key)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program alone, as a supervisor does."""
        self._signalled = time.monotonic()
        self.process.send_signal(number)

    def close(self) -> None:
        """Close the terminal, as when its window is closed."""
        self._signalled = time.monotonic()
        self._closing.set()
        self._reading.join()

    def end(self) -> float:
        """Wait for the end of the program; return the seconds since the last key or signal."""
        try:
            if self.process.stdout:
                self.out = self.process.stdout.read().decode()
            self.process.wait(60)
        finally:
            took_s = time.monotonic() - self._signalled
        self._reading.join(10)
        return took_s

    def processes(self, name: str = "") -> dict[int, str]:
        """The command lines of the processes that it has started, and of itself, by id.

        Args:
            name: A part of the command line; '' for any.
        """
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                variables = (folder / "environ").read_bytes().split(b"\0")
                # A Valkey server overwrites its environment, and has its socket in its title.
                is_ours = self._marker.encode() in variables or str(self.folder) in command
                if is_ours and name in command:
                    found[int(folder.name)] = command
        return found

    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def _read(self) -> None:
        """Read what is shown, so that the program can print more, and close the terminal."""
        with open(self._master, "rb", buffering=0) as screen:  # noqa: PTH123 - a descriptor
            while not self._closing.is_set():
                if not select.select([screen], [], [], 0.02)[0]:
                    continue
                try:
                    self._shown += screen.read(65536) or b""
                except OSError:  # no process has the terminal any more
                    return


def has_signal(pid: int, kind: str, number: signal.Signals) -> bool:
    """Return whether a signal is in a set of a process.

    Args:
        pid: The process.
        kind: `SigCgt` for those that it handles, `ShdPnd` for those that it has not got yet.
        number: The signal.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{kind}:\t(\w+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Background jobs of a shell ignore SIGINT, and so would their children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
