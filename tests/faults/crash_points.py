"""Killing one role, or the server, before or after one command of that role.

Whatever ends before its part is done is started again, as a supervisor would. A scenario is a story told to a `Stage`. It is told once for each command of the attacked role,
until the story is over before that command comes: so every command has had its turn.
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
from tests.faults.invariants import look
from tests.faults.roles import GAVE_UP, canceller, end, exit_code, listener, requester, spawn
from tests.polling import comes_true

_PATIENCE_S = 60.0
_MOST_POINTS = 400
_AT_ONCE = 4
_MAX_DELIVERIES = 2
_COMPOUND = {b"CLIENT", b"FCALL", b"FUNCTION", b"XGROUP"}


@dataclass(frozen=True)
class Attack:
    """What is killed, and when.

    Attributes:
        role: Whose commands are counted.
        victim: `role` itself, or `server`.
        fault: BEFORE or AFTER the command.
        number: Which command, from 1.
    """

    role: str
    victim: str
    fault: Fault
    number: int


class Stage:
    """The roles of one run, their server, and the attack on one of them.

    Attributes:
        struck: The command at which the attack took place.
        ends: The exit codes with which a role may end before its part is done.

    Args:
        store: The server.
        attack: What is killed, and when.
        forgets: Whether the server, when it is killed, may take back what it said last. Then a role
            that had done its part does it again.
    """

    def __init__(self, store: EmbeddedServer, attack: Attack, *, forgets: bool) -> None:
        self.store = store
        self._forgets = forgets
        self._attack = attack
        self._hit = threading.Event()
        self._killed = ""
        self.struck = ""
        self.ends = {GAVE_UP}
        self._hit_at = self._ready_at = self._back_at = 0.0
        self._processes: dict[str, tuple[BaseProcess, Callable[..., None], tuple[Any, ...]]] = {}
        self._early: set[str] = set()
        self._proxy = FaultProxy(store.url, self._plan, on_fault=self._strike)

    @contextlib.contextmanager
    def set_up(self) -> Iterator["Stage"]:
        """Have the way to the server open, and leave no process behind."""
        with self._proxy:
            try:
                yield self
            finally:
                for process, _, _ in self._processes.values():
                    end(process)

    @property
    def was_hit(self) -> bool:
        """Whether the attacked role came as far as its command."""
        return self._hit.is_set()

    def recovery_s(self) -> float | None:
        """From the kill to now; of a server, from its return to the role's next command."""
        if self._attack.victim != "server":
            return time.monotonic() - self._hit_at
        return self._back_at - self._ready_at if self._back_at else None

    def start(self, name: str, role: Callable[..., None], *arguments: Any) -> None:
        """Start a role; it is started again when it ends before its part is done."""
        url = self._proxy.url if name == self._attack.role else self.store.url
        self._processes[name] = (spawn(role, url, *arguments), role, arguments)

    def kill(self, name: str) -> None:
        """End a role for good."""
        process, _, _ = self._processes.pop(name)
        end(process)

    def wait_for(self, process: BaseProcess) -> None:
        """Wait for the end of a process that is no role of this stage.

        Raises:
            TimeoutError: It lives on.
        """

        def has_ended() -> bool:
            return exit_code(process) is not None

        if not comes_true(has_ended, within_s=_PATIENCE_S, meanwhile=self._supervise):
            raise TimeoutError(f"{self._attack}: a handler that was to die lives on")

    def until(self, *notes: str) -> None:
        """Wait until a note begins with each of these words.

        Raises:
            TimeoutError: They do not come.
        """

        def are_there() -> bool:
            return all(any(note.startswith(word) for note in self._notes()) for word in notes)

        if not comes_true(are_there, within_s=_PATIENCE_S, meanwhile=self._supervise):
            raise TimeoutError(f"{self._attack}: no {notes} in {self._notes()}")

    def until_running(self) -> None:
        """Wait until a handler has the request.

        Raises:
            TimeoutError: None takes it.
        """

        def is_running() -> bool:
            with look(self.store) as client, contextlib.suppress(redis.RedisError):
                return bool(client.hget("request:r", "status") == "running")
            return False

        if not comes_true(is_running, within_s=_PATIENCE_S, meanwhile=self._supervise):
            raise TimeoutError(f"{self._attack}: nobody begins; {self._notes()}")

    def until_ended(self) -> bool:
        """Wait until the request has ended in its record.

        Returns:
            Whether it had at once: a server that is killed may take back what it has said, unless
            it brings each write to the disk first.
        """
        self._supervise()
        at_once = self._has_ended()
        comes_true(self._has_ended, within_s=_PATIENCE_S, meanwhile=self._supervise)
        return at_once

    def _has_ended(self) -> bool:
        with look(self.store) as client:
            return client.hget("request:r", "status") in TERMINAL_STAGES

    def _supervise(self) -> None:
        if self._hit.is_set() and self._attack.victim == "server" and not self._ready_at:
            self.store.start()
            self._ready_at = time.monotonic()
            if self._forgets:
                self._early = set(self._processes)
        for name, (process, role, arguments) in self._processes.items():
            code = exit_code(process)
            if code is None or (code == 0 and name not in self._early):
                continue  # it is at work, or has done its part
            self._early.discard(name)
            if name == self._killed:
                self._killed = ""
            elif code not in {0, *self.ends}:
                raise AssertionError(f"{self._attack}: {name} ended with {code}")
            # Straight to the server: the attack takes place once.
            again = spawn(role, self.store.url, *arguments)
            self._processes[name] = (again, role, arguments)

    def _notes(self) -> list[str]:
        with look(self.store) as client, contextlib.suppress(redis.RedisError):
            return [str(note) for note in client.lrange("notes", 0, -1)]
        return []

    def _plan(self, number: int, command: tuple[bytes, ...]) -> Fault:
        if self._ready_at and not self._back_at:
            self._back_at = time.monotonic()
        if number != self._attack.number or self._hit.is_set():
            return Fault.NONE
        words = [command[0], *command[1:2]] if command[0] in _COMPOUND else command[:1]
        # A function's name begins with that of its library, which carries a digest.
        self.struck = b" ".join(words).decode().replace(f"{LIBRARY}_", "")
        return self._attack.fault

    def _strike(self) -> None:
        if self._attack.victim == "server":
            self.store.kill()
        else:
            pid = self._processes[self._attack.role][0].pid
            assert pid is not None
            self._killed = self._attack.role
            os.kill(pid, signal.SIGKILL)
        self._hit_at = time.monotonic()
        self._hit.set()


def request(stage: Stage) -> str:
    """A request with progress."""
    stage.start("listener", listener)
    stage.start("requester", requester, {})
    stage.until("got")
    return "completed"


def redelivery(stage: Stage) -> str:
    """A listener dies in its handler; the attacked one takes the request over."""
    stage.start("first", stalling)
    stage.start("requester", requester, {})
    stage.until_running()
    stage.kill("first")
    stage.start("listener", listener)
    stage.until("got")
    return "completed"


def cancel(stage: Stage) -> str:
    """A request that would run for ever is cancelled."""
    stage.start("listener", listener)
    stage.start("requester", requester, {"wait": 1})
    stage.until_running()
    stage.start("canceller", canceller)
    stage.until("cancel answered", "got")
    return "cancelled"


def poison(stage: Stage) -> str:
    """The command kills its handlers until the attacked listener buries it."""
    # One that gave up while the server was away has not met the command: it is for the next.
    stage.ends.add(-signal.SIGKILL)
    stage.start("requester", requester, {"die": "oom"})
    for _ in range(_MAX_DELIVERIES):
        stage.wait_for(spawn(listener, stage.store.url, max_deliveries=_MAX_DELIVERIES))
    stage.start("listener", burying)
    stage.until("got")
    return "failed"


def stalling(url: str) -> None:
    """A listener that does not come to an end."""
    listener(url, stalls=True)


def burying(url: str) -> None:
    """A listener that gives up as early as those before it."""
    listener(url, max_deliveries=_MAX_DELIVERIES)


def strike_each(
    run: Callable[[int], bool], *, first: int = 1, step: int = 1, most: int = _MOST_POINTS
) -> None:
    """Call `run` with one number after the other, a few at once, until it says that there is none.

    Raises:
        AssertionError: The numbers do not end.
    """
    numbers = range(first, most, step)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for at in range(0, len(numbers), _AT_ONCE):
            if not all(list(pool.map(run, numbers[at : at + _AT_ONCE]))):
                return
    raise AssertionError(f"the story does not end within {most} commands")
