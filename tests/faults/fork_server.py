"""A fork server: starts hundreds of processes from one with all modules imported and compiled.

    python -m tests.faults.fork_server

It reads one JSON object per line: `role` is a function of `mission_roles`, `arguments` its
keyword arguments. It answers with the id of the new process. All processes end with the server.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sagastream._client import session
from sagastream._functions import library
from sagastream._worker import lease
from sagastream.testing import child_options, die_with_parent


class ForkServer:
    """Run the fork server, as a context manager.

    Args:
        fence: Whether the library has its checks of claims and outcomes; without them, as a
            control, the tests must fail.
    """

    def __init__(self, *, fence: bool = True) -> None:
        self._turn = threading.Lock()
        self._arguments = [] if fence else ["without-fence"]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            **child_options(),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def spawn(self, role: str, **arguments: Any) -> "ForkedProcess":
        """Run a role in a new process."""
        with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            order = json.dumps({"role": role, "arguments": arguments})
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
            return ForkedProcess(int(self._process.stdout.readline()))


class ForkedProcess:
    """One process of a fork server."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def is_alive(self) -> bool:
        """Return whether it runs or is suspended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def children(self) -> list[int]:
        """Return the ids of its child processes."""
        try:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            return [int(pid) for pid in listed.split()]
        except OSError:
            return []

    def resume(self) -> None:
        """Continue it, if it is suspended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, if it runs; its child processes end with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _remove_fence() -> None:
    """Let any claim write, any outcome replace another, and a request be sent and begun again."""
    source = library.SOURCE
    for check, instead in (
        ("return record.token == token and not TERMINAL[record.status]", "return record.digest"),
        ("if record.status == 'running' and left > 0 then", "if false then"),
        ("  if TERMINAL[record.status] then\n    ack(call", "  if false then\n    ack(call"),
        (
            "  if record.digest then\n    record = read_record",
            "  if false then\n    record = read_record",
        ),
    ):
        assert source.count(check) == 1, check
        source = source.replace(check, instead)
    for module in (library, lease, session):
        setattr(module, "SOURCE", source)  # noqa: B010 - these modules import the name


def _main() -> None:
    if "without-fence" in sys.argv:
        _remove_fence()
    from tests.faults import mission_roles  # noqa: PLC0415 - only the server needs it

    parent = os.getpid()
    mission_roles.warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid:
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
            continue
        code = 1
        try:
            die_with_parent(parent)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            getattr(mission_roles, order["role"])(**order["arguments"])
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        except BaseException:  # noqa: BLE001 - printed, and this process ends here
            traceback.print_exc()
        finally:
            os._exit(code)


if __name__ == "__main__":
    _main()
