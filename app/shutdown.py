"""The end of a program by a signal: gracefully at the first, by force at the second.

The signals are SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed). A program calls
`shutdown.install()` before its slow imports, and says later what to stop and what to kill. A
timer ends it if that takes too long. Its exit code is 128 plus the number of the signal.
"""

import atexit
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Never

# The time from the first signal to the end of the program, in seconds: a person waits no longer.
GRACE_S = 4.5
# What follows the graceful part: threads end, telemetry is exported.
_EXIT_S = 2.0
_HURRY_S = 0.4
_KILL_S = 0.3
# `timeout` sends SIGTERM twice, to the program and to its group. A closing shell repeats SIGHUP.
_SAME_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Shutdown:
    """How this process ends by a signal. There is one for the process: `shutdown`.

    Attributes:
        number: The first signal; 0 before it.
        report: One line about what is done and what is not, printed to stderr if the program ends
            by force; '' for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self.report = ""
        self._first_at = 0.0
        self._deadline = math.inf
        self._grace_s = GRACE_S
        self._stop: Callable[[], object] | None = None
        self._hurry: Callable[[], object] | None = None
        self._kills: list[Callable[[], object]] = []
        self._terminals: list[int] = []
        self._is_installed = False

    @property
    def exit_code(self) -> int:
        """The exit code of this process: 0 unless a signal ends it."""
        return self.number and 128 + self.number

    def left_s(self, otherwise: float) -> float:
        """Return the seconds until this process is ended by force; `otherwise` before a signal."""
        return max(0.0, self._deadline - time.monotonic()) if self.number else otherwise

    def install(self, report: str = "") -> None:
        """Handle the signals, except those that the parent process made this one ignore.

        Args:
            report: The first value of `report`.
        """
        self.report = report
        if not self._is_installed:
            self._is_installed = True
            # Registered first, so it runs last: while Python ends, it would die of the timer.
            atexit.register(self._exit_if_signalled)
        self._terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)

    @contextlib.contextmanager
    def graceful(
        self,
        stop: Callable[[], object],
        *,
        hurry: Callable[[], object] | None = None,
        grace_s: float = GRACE_S,
    ) -> Iterator[None]:
        """Stop gracefully at the first signal; outside such a context it ends the program at once.

        Args:
            stop: Called at the first signal, between any two instructions of the main thread.
            hurry: Called at the second one, with 0.4 s left; None to end the program at once.
            grace_s: The seconds from SIGTERM to the end. They are never more from Ctrl-C.
        """
        self._stop, self._hurry, self._grace_s = stop, hurry, grace_s
        try:
            yield
        finally:
            self._stop = self._hurry = None
            if self.number:
                self._end_within(min(_EXIT_S, self.left_s(_EXIT_S)))

    @contextlib.contextmanager
    def killing(self, kill: Callable[[], object]) -> Iterator[None]:
        """Call `kill` if the program ends by force: it kills children and deletes their files.

        It runs between any two instructions of the main thread, so it must not take locks.
        """
        self._kills.append(kill)
        try:
            yield
        finally:
            self._kills.remove(kill)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
        now = time.monotonic()
        if not self.number:
            self.number, self._first_at = number, now
            grace_s = GRACE_S if number == signal.SIGINT else self._grace_s
            self._deadline = now + grace_s
            self._end_within(grace_s)
            (self._stop or self._force)()
        elif not self._is_repeated(number, now):
            self._end_within(_HURRY_S)
            hurry, self._hurry = self._hurry, None
            (hurry or self._force)()

    def _is_repeated(self, number: int, now: float) -> bool:
        """Whether a signal was sent with the first one, not after it."""
        is_soon = now - self._first_at < _SAME_S
        return number == signal.SIGHUP or (number == signal.SIGTERM and is_soon)

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        self._force()

    def _end_within(self, seconds: float) -> None:
        # A timer of the kernel: nothing in this process can hold it up.
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))

    def _force(self) -> Never:
        for number in (*_SIGNALS, signal.SIGALRM):
            signal.signal(number, self._exit)
        self._end_within(_KILL_S)
        for kill in self._kills:
            with contextlib.suppress(Exception):
                kill()
        with contextlib.suppress(OSError):
            if os.isatty(2):
                os.write(2, b"\x1b[?25h\n")  # a live display hides the cursor
            if self.report:
                os.write(2, f"mission: {self.report}\n".encode())
        self._exit()

    def _leave_terminal(self) -> None:
        """Replace a terminal that was closed: writing to it is an error."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._terminals:
            os.dup2(nothing, descriptor)

    def _exit_if_signalled(self) -> None:
        if self.number:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            self._exit()

    def _exit(self, *_: object) -> Never:
        os._exit(self.exit_code)


shutdown = Shutdown()


def kill_groups(leaders: Iterable[int]) -> None:
    """Kill the process groups that children of this process lead, and wait for the leaders."""
    children = []
    for pid in leaders:
        with contextlib.suppress(OSError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)  # a child of ours
            os.killpg(pid, signal.SIGKILL)
            children.append(pid)
    for pid in children:
        with contextlib.suppress(OSError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
