"""Kill one role, or the server, before or after one command of that role.

A supervisor starts again what ends before its part is done. A scenario runs once for each
command of the counted role, until it ends before that command comes: so each command is tried.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import redis

from sagastream._functions.library import LIBRARY
from sagastream.message import TERMINAL_STAGES
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.roles import (
    EXIT_UNAVAILABLE,
    canceller,
    exit_code,
    kill_and_wait,
    listener,
    requester,
    spawn,
)
from tests.plain_client import connect
from tests.polling import NotInTime, eventually_sync
from tests.records import read_record

_WITHIN_S = 60.0
_MAX_POINTS = 400
_CONCURRENCY = 4
_MAX_DELIVERIES = 2
_COMPOUND = {b"CLIENT", b"FCALL", b"FUNCTION", b"XGROUP"}


@dataclass(frozen=True)
class CrashPoint:
    """Which process is killed, and at which command.

    Attributes:
        role: The role whose commands are counted. In a mission it is `orchestrator`, `celery`
            (its connection to the library's server), `broker` (its connection to the broker),
            `listener` or `robots`.
        victim: The process that is killed: of the role itself (its name), its `child` (of a
            prefork worker), or `server`.
        fault: BEFORE or AFTER the command.
        number: The number of the command, from 1.
        while_compensating: Count only commands since the mission started compensating.
    """

    role: str
    victim: str
    fault: Fault
    number: int
    while_compensating: bool = False


def command_name(command: tuple[bytes, ...]) -> str:
    """Return the name of a command for reports, with the subcommand or function if it has one."""
    words = [command[0], *command[1:2]] if command[0] in _COMPOUND else command[:1]
    # The name of a function begins with that of its library, which contains a digest.
    return b" ".join(words).decode().replace(f"{LIBRARY}_", "")


class ScenarioRun:
    """One run of a scenario: its server, its roles, and one crash point.

    Attributes:
        crash_command: The command at which the victim was killed.
        exit_codes: The exit codes with which a role may end before its part is done.

    Args:
        store: The server.
        point: What is killed, and when.
        loses_writes: Whether a killed server may lose the writes that it confirmed last. Then a
            role whose part was done does it again.
    """

    def __init__(self, store: EmbeddedServer, point: CrashPoint, *, loses_writes: bool) -> None:
        self.store = store
        self._loses_writes = loses_writes
        self._point = point
        self._crash = threading.Event()
        self._killed = ""
        self.crash_command = ""
        self.exit_codes = {EXIT_UNAVAILABLE}
        self._crashed_at = self._ready_at = self._back_at = 0.0
        self._processes: dict[str, tuple[BaseProcess, Callable[..., None], tuple[Any, ...]]] = {}
        self._to_repeat: set[str] = set()
        self._proxy = FaultProxy(store.url, self._plan, on_fault=self._kill_victim)

    @contextlib.contextmanager
    def open(self) -> Iterator["ScenarioRun"]:
        """Open the proxy to the server; kill all roles at the end."""
        with self._proxy:
            try:
                yield self
            finally:
                for process, _, _ in self._processes.values():
                    kill_and_wait(process)

    @property
    def has_crashed(self) -> bool:
        """Whether the role reached its command, so that the victim was killed."""
        return self._crash.is_set()

    def recovery_s(self) -> float | None:
        """Seconds from the kill to now; of a server, from its start to the role's next command."""
        if self._point.victim != "server":
            return time.monotonic() - self._crashed_at
        return self._back_at - self._ready_at if self._back_at else None

    def start(self, name: str, role: Callable[..., None], *arguments: Any) -> None:
        """Start a role; it is started again if it ends before its part is done."""
        url = self._proxy.url if name == self._point.role else self.store.url
        self._processes[name] = (spawn(role, url, *arguments), role, arguments)

    def kill(self, name: str) -> None:
        """Kill a role and do not start it again."""
        process, _, _ = self._processes.pop(name)
        kill_and_wait(process)

    def wait_for_exit(self, process: BaseProcess) -> None:
        """Wait for the end of a process that is not a role of this run.

        Raises:
            NotInTime: It does not end.
        """
        self._wait(lambda: exit_code(process) is not None, "the killed handler has ended")

    def wait_for_log(self, *prefixes: str) -> None:
        """Wait until the log has a line with each of these prefixes.

        Raises:
            NotInTime: A line is missing.
        """

        def is_logged() -> bool:
            return all(any(line.startswith(prefix) for line in self._log()) for prefix in prefixes)

        self._wait(is_logged, f"the log has {prefixes}")

    def wait_until_running(self) -> None:
        """Wait until a handler has claimed the request.

        Raises:
            NotInTime: No handler claims it.
        """

        def is_running() -> bool:
            with connect(self.store.url) as client, contextlib.suppress(redis.RedisError):
                return bool(read_record(client, "r").get("status") == "running")
            return False

        self._wait(is_running, "a handler has claimed the request")

    def wait_until_ended(self) -> bool:
        """Wait until the record of the request has a terminal status.

        Returns:
            Whether it had one at once: a killed server may lose an outcome that it confirmed,
            unless it syncs each write to the disk.
        """
        self._supervise()
        was_kept = self._has_ended()
        with contextlib.suppress(NotInTime):  # the check of the request reports it as lost
            self._wait(self._has_ended, "the request has ended")
        return was_kept

    def _wait(self, condition: Callable[[], bool], why: str) -> None:
        eventually_sync(
            condition,
            within_s=_WITHIN_S,
            why=f"{why} ({self._point})",
            meanwhile=self._supervise,
        )

    def _has_ended(self) -> bool:
        with connect(self.store.url) as client:
            return read_record(client, "r").get("status") in TERMINAL_STAGES

    def _supervise(self) -> None:
        if self.has_crashed and self._point.victim == "server" and not self._ready_at:
            self.store.start()
            self._ready_at = time.monotonic()
            if self._loses_writes:
                self._to_repeat = set(self._processes)
        for name, (process, role, arguments) in self._processes.items():
            code = exit_code(process)
            if code is None or (code == 0 and name not in self._to_repeat):
                continue  # it still runs, or its part is done
            self._to_repeat.discard(name)
            if name == self._killed:
                self._killed = ""
            elif code not in {0, *self.exit_codes}:
                raise AssertionError(f"{self._point}: {name} ended with {code}")
            # Not through the proxy: only one process is killed.
            again = spawn(role, self.store.url, *arguments)
            self._processes[name] = (again, role, arguments)

    def _log(self) -> list[str]:
        with connect(self.store.url) as client, contextlib.suppress(redis.RedisError):
            return [str(line) for line in client.lrange("log", 0, -1)]
        return []

    def _plan(self, number: int, command: tuple[bytes, ...]) -> Fault:
        if self._ready_at and not self._back_at:
            self._back_at = time.monotonic()
        if number != self._point.number or self.has_crashed:
            return Fault.NONE
        self.crash_command = command_name(command)
        return self._point.fault

    def _kill_victim(self) -> None:
        if self._point.victim == "server":
            self.store.kill()
        else:
            pid = self._processes[self._point.role][0].pid
            assert pid is not None
            self._killed = self._point.role
            os.kill(pid, signal.SIGKILL)
        self._crashed_at = time.monotonic()
        self._crash.set()


def request(run: ScenarioRun) -> str:
    """A request with progress; returns its terminal status, as all scenarios do."""
    run.start("listener", listener)
    run.start("requester", requester, {})
    run.wait_for_log("got")
    return "completed"


def redelivery(run: ScenarioRun) -> str:
    """A listener dies in its handler; the counted one takes the request over."""
    run.start("first", stalling_listener)
    run.start("requester", requester, {})
    run.wait_until_running()
    run.kill("first")
    run.start("listener", listener)
    run.wait_for_log("got")
    return "completed"


def retry(run: ScenarioRun) -> str:
    """The first attempt fails, and the next one comes after a wait."""
    run.start("listener", listener)
    run.start("requester", requester, {"fails": 1})
    run.wait_for_log("got")
    return "completed"


def cancel(run: ScenarioRun) -> str:
    """A request whose handler never ends is cancelled."""
    run.start("listener", listener)
    run.start("requester", requester, {"wait": 1})
    run.wait_until_running()
    run.start("canceller", canceller)
    run.wait_for_log("cancel answered", "got")
    return "cancelled"


def poison(run: ScenarioRun) -> str:
    """The command kills its handlers until the counted listener makes it a dead letter."""
    # A listener that stopped because the server was away has not met the command.
    run.exit_codes.add(-signal.SIGKILL)
    run.start("requester", requester, {"die": "oom"})
    for _ in range(_MAX_DELIVERIES):
        run.wait_for_exit(spawn(listener, run.store.url, max_deliveries=_MAX_DELIVERIES))
    run.start("listener", strict_listener)
    run.wait_for_log("got")
    return "failed"


def stalling_listener(url: str) -> None:
    """A listener whose handlers never end."""
    listener(url, stalls=True)


def strict_listener(url: str) -> None:
    """A listener with the lower limit for deliveries of the poison scenario."""
    listener(url, max_deliveries=_MAX_DELIVERIES)


def crash_at_each_command(
    run: Callable[[int], bool], *, first: int = 1, step: int = 1, most: int = _MAX_POINTS
) -> None:
    """Call `run` with each number of a command, some at a time, until one is beyond the end.

    Args:
        run: Runs a scenario with a crash at that command; returns whether it was reached.
        first: The first number.
        step: The difference between two numbers.
        most: The scenario must have fewer commands than this.

    Raises:
        AssertionError: The scenario has too many commands.
    """
    numbers = range(first, most, step)
    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        for start in range(0, len(numbers), _CONCURRENCY):
            if not all(list(pool.map(run, numbers[start : start + _CONCURRENCY]))):
                return
    raise AssertionError(f"the scenario does not end within {most} commands")
