"""Processes by the hundred: forked from one that has everything imported and compiled.

    python -m tests.faults.zygote

It reads a JSON object a line: `role` is a function of `mission_roles`, `arguments` what it is
called with. It answers with the new process's id. All of them die with it.
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
from sagastream.testing import die_with_parent


class Zygote:
    """The process that others are forked from, for as long as the context lasts.

    Args:
        fence: Whether the library checks who writes, and what it knows already; without it, as
            a control, it does not.
    """

    def __init__(self, *, fence: bool = True) -> None:
        self._turn = threading.Lock()
        self._arguments = [] if fence else ["without-fence"]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            preexec_fn=die_with_parent,  # noqa: PLW1509 - only calls prctl
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

    def spawn(self, role: str, **arguments: Any) -> "Spawned":
        """Run a role in a process of its own."""
        with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            asked = json.dumps({"role": role, "arguments": arguments})
            self._process.stdin.write(f"{asked}\n")
            self._process.stdin.flush()
            return Spawned(int(self._process.stdout.readline()))


class Spawned:
    """One process of a zygote."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or is stopped."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def children(self) -> list[int]:
        """The processes that it started."""
        try:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            return [int(pid) for pid in listed.split()]
        except OSError:
            return []

    def resume(self) -> None:
        """Let it go on, if it was stopped."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, if it lives; what it started dies of that."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _remove_fence() -> None:
    """Let any claim write, any outcome be the last one, and a request be sent and begun again."""
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
        setattr(module, "SOURCE", source)  # noqa: B010 - they import the name


def _main() -> None:
    if "without-fence" in sys.argv:
        _remove_fence()
    from tests.faults import mission_roles  # noqa: PLC0415 - a client does not need it

    mission_roles.warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid:
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
            continue
        code = 1
        try:
            die_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            getattr(mission_roles, asked["role"])(**asked["arguments"])
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        except BaseException:  # noqa: BLE001 - told, and this process ends here
            traceback.print_exc()
        finally:
            os._exit(code)


if __name__ == "__main__":
    _main()
