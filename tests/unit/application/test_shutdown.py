"""How a program ends by signals; each test runs one, because it ends."""

import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from app.config import ROOT

pytestmark = pytest.mark.blocking

_PROGRAM = """
import functools, signal, time
from app.shutdown import shutdown
say = functools.partial(print, flush=True)
{before}
shutdown.install("the report")
with shutdown.killing(lambda: say("killed")):
    {body}
say("ended")
raise SystemExit(shutdown.exit_code)
"""
# Signals of one kind within 50 ms count as one: this is a second one.
_LATER = "; time.sleep(0.1); "
_GRACEFUL = 'with shutdown.graceful(lambda: say("stop"){}): '


@dataclass(frozen=True)
class Ended:
    """How the program ended."""

    code: int
    said: list[str]
    report: str
    took_s: float


def _run(body: str, *, before: str = "") -> Ended:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(body=body, before=before)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return Ended(done.returncode, done.stdout.split(), done.stderr, time.monotonic() - began)


def _raise(*names: str) -> str:
    return "; ".join(f"signal.raise_signal(signal.{name})" for name in names)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_signal_stops_gracefully(name: str, code: int) -> None:
    """The program goes on to its end, with the exit code of the signal."""
    ended = _run(_GRACEFUL.format("") + _raise(name))
    assert (ended.code, ended.said, ended.report) == (code, ["stop", "ended"], "")


def test_a_signal_while_nothing_can_be_stopped_ends_it_at_once() -> None:
    """What it owns is killed, and it prints its report."""
    ended = _run(_raise("SIGTERM"))
    assert (ended.code, ended.said) == (143, ["killed"])
    assert ended.report == "mission: the report\n"


def test_the_second_signal_ends_it_at_once() -> None:
    """The exit code is that of the first."""
    ended = _run(_GRACEFUL.format("") + _raise("SIGINT") + _LATER + _raise("SIGTERM"))
    assert (ended.code, ended.said) == (130, ["stop", "killed"])


def test_a_program_that_can_hurry_hurries_at_the_second_signal() -> None:
    """A third one ends it at once."""
    graceful = _GRACEFUL.format(', hurry=lambda: say("hurry")')
    ended = _run(graceful + _raise("SIGINT") + _LATER + _raise("SIGINT"))
    assert (ended.code, ended.said) == (130, ["stop", "hurry", "ended"])
    ended = _run(graceful + _raise("SIGINT") + _LATER + _raise("SIGINT") + "; " + _raise("SIGINT"))
    assert (ended.code, ended.said) == (130, ["stop", "hurry", "killed"])


@pytest.mark.parametrize(
    "twice",
    [_raise("SIGTERM", "SIGTERM"), _raise("SIGHUP") + _LATER + _raise("SIGHUP")],
    ids=["SIGTERM", "SIGHUP"],
)
def test_a_signal_that_is_sent_twice_counts_once(twice: str) -> None:
    """`timeout` sends its signal to the program and to its group; a closing shell repeats SIGHUP."""
    assert _run(_GRACEFUL.format("") + twice).said == ["stop", "ended"]


@pytest.mark.parametrize(
    "body",
    [
        _GRACEFUL.format(", grace_s=0.2") + _raise("SIGTERM") + "; time.sleep(20)",
        _GRACEFUL.format("") + _raise("SIGINT") + "\n    time.sleep(20)",
        _GRACEFUL.format(", hurry=list")
        + f"{_raise('SIGINT')}; time.sleep(0.1); {_raise('SIGINT')}; time.sleep(20)",
    ],
    ids=["graceful part", "after it", "hurried"],
)
def test_what_takes_too_long_is_ended_by_force(body: str) -> None:
    """A timer ends the program in each part of its end."""
    ended = _run(body)
    assert ended.said[-1] == "killed"
    assert ended.took_s < 5


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    """A background job of a shell does not end by the Ctrl-C that is meant for another one."""
    before = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    ended = _run(_GRACEFUL.format("") + _raise("SIGINT"), before=before)
    assert (ended.code, ended.said) == (0, ["ended"])


def test_the_end_of_python_does_not_change_the_exit_code() -> None:
    """Slow finalizers do not hold it up: while they run, the timer would kill the program."""
    before = "class Slow:\n    def __del__(self): time.sleep(10)\nslow = Slow()"
    ended = _run(_GRACEFUL.format("") + _raise("SIGINT"), before=before)
    assert (ended.code, ended.said, ended.took_s < 8) == (130, ["stop", "ended"], True)
