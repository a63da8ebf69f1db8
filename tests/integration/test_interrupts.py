"""Ctrl-C, SIGTERM and a closed terminal, in a real terminal and in each phase of a mission."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import ROOT
from sagastream import Bus
from sagastream.status import stream_status
from sagastream.testing import EmbeddedServer
from tests.integration.conftest import environment, run
from tests.integration.terminal import Terminal, has_signal
from tests.plain_client import connect
from tests.polling import eventually_sync

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]

_MISSION = Path(sys.executable).with_name("mission")
_UNDONE = "mission: undone: perform_exploration, allocate_resources"
_IN_TIME_S = 5.0
_AT_ONCE_S = 2.0


def _mission(*arguments: str, server: EmbeddedServer | None = None, **options: bool) -> Terminal:
    """`mission run` in a terminal, on its own server or on one that stays."""
    settings = {"REDIS_URL": server.url} if server else {}
    return Terminal(
        [_MISSION, "run", "--robots", "2", *arguments], environment(**settings), **options
    )


def _holders(url: str) -> set[str]:
    with connect(url) as client:
        return {json.loads(robot)["holder"] for robot in client.hgetall("fleet").values()}


def _assert_nothing_is_left(terminal: Terminal) -> None:
    # A child that the program had not yet noted when it was interrupted is killed by the kernel, after it.
    eventually_sync(lambda: not terminal.processes(), within_s=10, why="its children have ended")
    assert list(terminal.folder.iterdir()) == []


def _assert_ended(terminal: Terminal, code: int, *, within_s: float) -> None:
    took_s = terminal.end()
    assert "Traceback" not in terminal.shown
    assert terminal.process.returncode == code
    assert took_s < within_s
    _assert_nothing_is_left(terminal)


def _ctrl_c(terminal: Terminal) -> None:
    terminal.press()


def _sigterm(terminal: Terminal) -> None:
    terminal.send(signal.SIGTERM)


_INTERRUPTS = pytest.mark.parametrize(
    ("interrupt", "code"), [(_ctrl_c, 130), (_sigterm, 143)], ids=["ctrl-c", "sigterm"]
)
Interrupt = Callable[[Terminal], None]


@_INTERRUPTS
def test_a_mission_that_explores_is_undone(
    own_server: EmbeddedServer, tmp_path: Path, interrupt: Interrupt, code: int
) -> None:
    """One line says that it is undone, one names the undone steps; the robots are free."""
    with _mission("--out", str(tmp_path / "out"), server=own_server) as terminal:
        terminal.until("m driven")
        interrupt(terminal)
        _assert_ended(terminal, code, within_s=_IN_TIME_S)
        assert terminal.lines == [_UNDONE]
        assert terminal.shown.count("mission: undoing mission") == 1
    assert _holders(own_server.url) == {""}
    assert not (tmp_path / "out").exists()


def test_ctrl_c_does_not_reach_the_server_of_the_mission(tmp_path: Path) -> None:
    """A mission is undone on the server that it has started, which then ends too."""
    with _mission("--out", str(tmp_path)) as terminal:
        terminal.until("m driven")
        assert len(terminal.processes("valkey-server")) == 1
        terminal.press()
        _assert_ended(terminal, 130, within_s=_IN_TIME_S)
        assert terminal.lines == [_UNDONE]


def test_a_closed_terminal_undoes_the_mission(own_server: EmbeddedServer, tmp_path: Path) -> None:
    """The mission is undone and nothing is left, though the shell that ends repeats the signal."""
    with _mission("--out", str(tmp_path), server=own_server) as terminal:
        terminal.until("m driven")
        terminal.close()
        terminal.send(signal.SIGHUP)
        _assert_ended(terminal, 129, within_s=_IN_TIME_S)
    assert _holders(own_server.url) == {""}


def test_an_interrupted_mission_is_one_json_object(tmp_path: Path) -> None:
    """The report says what was undone; the lines about the interruption go to standard error."""
    with _mission("--out", str(tmp_path), "-o", "json", piped=True) as terminal:
        terminal.until("m driven")
        terminal.press()
        _assert_ended(terminal, 130, within_s=_IN_TIME_S)
        assert terminal.lines == [_UNDONE]
        report = json.loads(terminal.out)
        assert report["status"] == "compensated"
        assert report["error"]["message"] == "interrupted"


@_INTERRUPTS
def test_during_the_imports(interrupt: Interrupt, code: int, tmp_path: Path) -> None:
    """The command ends at once, without a traceback."""
    with _mission("--out", str(tmp_path)) as terminal:
        eventually_sync(
            lambda: has_signal(terminal.process.pid, "SigCgt", signal.SIGHUP),
            within_s=30,
            why="it handles signals",
        )
        interrupt(terminal)
        _assert_ended(terminal, code, within_s=_AT_ONCE_S)
        assert terminal.lines == ["mission: interrupted"]


@_INTERRUPTS
@pytest.mark.parametrize("child", ["valkey-server", "app.command_listener"])
def test_before_the_workers_are_up(
    interrupt: Interrupt, code: int, child: str, tmp_path: Path
) -> None:
    """No mission was started; the server and the workers that start are stopped."""
    with _mission("--out", str(tmp_path)) as terminal:
        eventually_sync(lambda: terminal.processes(child), within_s=30, why=f"{child} starts")
        interrupt(terminal)
        _assert_ended(terminal, code, within_s=_IN_TIME_S)
        (line,) = terminal.lines
        assert line.startswith("mission: interrupted")


def _stop_robots(terminal: Terminal, number: signal.Signals) -> None:
    for pid in terminal.processes("app.robots.process"):
        os.kill(pid, number)


def test_while_it_is_undone(own_server: EmbeddedServer, maps: Path, tmp_path: Path) -> None:
    """A Ctrl-C while a mission is compensated lets the compensation end."""
    suite = str(maps / "suite.yaml")
    with _mission(
        "--map", suite, "--out", str(tmp_path), "--timeout", "4", server=own_server
    ) as one:
        one.until("m driven")
        _stop_robots(one, signal.SIGSTOP)
        one.until("undo perform_exploration")
        one.press()
        one.until("mission: undoing mission")
        _stop_robots(one, signal.SIGCONT)
        _assert_ended(one, 130, within_s=_IN_TIME_S)
        assert one.lines == [_UNDONE]
    assert _holders(own_server.url) == {""}


def test_what_is_not_undone_in_time_is_named(
    own_server: EmbeddedServer, maps: Path, tmp_path: Path
) -> None:
    """With robots that do not answer the command ends in time, and says how to continue."""
    suite = str(maps / "suite.yaml")
    with _mission("--map", suite, "--out", str(tmp_path), server=own_server) as terminal:
        terminal.until("m driven")
        _stop_robots(terminal, signal.SIGSTOP)
        terminal.press()
        _assert_ended(terminal, 130, within_s=_IN_TIME_S)
        (line,) = terminal.lines
        assert line.startswith("mission: undone: nothing; not undone yet: perform_exploration, ")
        assert line.endswith("allocate_resources; to continue: mission workers")


def test_the_second_ctrl_c_ends_it_at_once(maps: Path, tmp_path: Path) -> None:
    """Every child is killed, and their files are deleted, though the robots do not answer."""
    with _mission("--map", str(maps / "suite.yaml"), "--out", str(tmp_path)) as terminal:
        terminal.until("m driven")
        _stop_robots(terminal, signal.SIGSTOP)
        terminal.press()
        terminal.until("mission: undoing mission")
        terminal.press()
        _assert_ended(terminal, 130, within_s=_AT_ONCE_S)
        (line,) = terminal.lines
        assert line.endswith("was not undone; its server has ended")


def test_twice_while_the_workers_start(tmp_path: Path) -> None:
    """The second Ctrl-C ends it at once, though a worker does not end."""
    with _mission("--out", str(tmp_path)) as terminal:
        pids = eventually_sync(
            lambda: terminal.processes("app.command_listener"), within_s=30, why="workers start"
        )
        (listener,) = pids
        os.kill(listener, signal.SIGSTOP)
        terminal.press()
        eventually_sync(
            lambda: has_signal(listener, "ShdPnd", signal.SIGTERM), within_s=4, why="it is stopped"
        )
        terminal.press()
        _assert_ended(terminal, 130, within_s=_AT_ONCE_S)


@_INTERRUPTS
@pytest.mark.parametrize(
    ("arguments", "ready"), [(["workers"], "ready at"), (["serve", "--port", "0"], "Ctrl-C stops")]
)
def test_commands_that_run_until_they_are_stopped(
    own_server: EmbeddedServer, arguments: list[str], ready: str, interrupt: Interrupt, code: int
) -> None:
    """`mission workers` and `mission serve` stop what they have started."""
    with Terminal([_MISSION, *arguments], environment(REDIS_URL=own_server.url)) as terminal:
        terminal.until(ready)
        interrupt(terminal)
        _assert_ended(terminal, code, within_s=_IN_TIME_S)
        assert terminal.lines[1:] == ["mission: stopped"]


def test_workers_that_carry_out_a_mission(own_server: EmbeddedServer, maps: Path) -> None:
    """They end in time, and with them the robots; the next ones undo the mission."""
    env = environment(REDIS_URL=own_server.url, MAP_DIR=str(maps), WAKE_AFTER_S="1", LEASE_S="2")
    with Terminal([_MISSION, "workers"], env) as terminal:
        terminal.until("ready at")
        run("app.cli", "start", "--area", "suite", "--robots", "1", "--id", "one", env=env)
        eventually_sync(
            lambda: _shown_step(env) == "perform_exploration", within_s=30, why="it explores"
        )
        terminal.press()
        _assert_ended(terminal, 130, within_s=_IN_TIME_S)
    with Terminal([_MISSION, "workers"], env) as terminal:
        terminal.until("ready at")
        assert run("app.cli", "watch", "one", env=env).code == 3
    assert _holders(own_server.url) == {""}


def _shown_step(env: dict[str, str]) -> str:
    return str(json.loads(run("app.cli", "list", "-o", "json", env=env).out)[0]["at"])


def test_a_mission_on_running_workers_is_undone(running: dict[str, str]) -> None:
    """`python -m app.orchestrator` undoes its mission and leaves the workers alone."""
    arguments = ["--area", "suite", "--robots", "1"]
    with Terminal([sys.executable, "-m", "app.orchestrator", *arguments], running) as terminal:
        terminal.until("m driven")
        terminal.press()
        _assert_ended(terminal, 130, within_s=_IN_TIME_S)
        assert terminal.lines == [_UNDONE]
    assert _holders(running["REDIS_URL"]) == {""}


def test_watching_a_mission(running: dict[str, str]) -> None:
    """Ctrl-C ends the command that watches, not the mission."""
    run("app.cli", "start", "--area", "suite", "--robots", "1", "--id", "watched", env=running)
    with Terminal([_MISSION, "watch", "watched"], running) as terminal:
        terminal.until("m driven")
        terminal.press()
        _assert_ended(terminal, 130, within_s=_IN_TIME_S)
        assert terminal.lines == [
            "mission: the mission continues; watch it with: mission watch watched"
        ]
    assert run("app.cli", "cancel", "watched", env=running).code == 3


def test_a_robot_process(own_server: EmbeddedServer) -> None:
    """Its robots are absent at once."""
    env = environment(REDIS_URL=own_server.url)
    with Terminal([sys.executable, "-m", "app.robots.process", "robot-1"], env) as terminal:
        with connect(own_server.url) as client:
            eventually_sync(
                lambda: client.exists("fleet:seen:robot-1"), within_s=60, why="it has checked in"
            )
            terminal.press()
            _assert_ended(terminal, 130, within_s=_IN_TIME_S)
            assert not client.exists("fleet:seen:robot-1")
        assert terminal.lines == []


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_a_listener_gives_back_what_it_cannot_finish(
    own_server: EmbeddedServer, twice: bool
) -> None:
    """The command of a handler that still runs is begun by the next listener at once."""
    env = environment(
        REDIS_URL=own_server.url, HANDLER_PACKAGE="tests.integration.slow_handlers", LEASE_S="60"
    )
    arguments = [sys.executable, "-m", "app.command_listener"]

    def handlers() -> list[int]:
        stages = [fields for _, fields in client.xrange("replies")]
        return [
            json.loads(stage["payload"])["pid"] for stage in stages if stage["status"] == "progress"
        ]

    with connect(own_server.url) as client:
        client.xadd(
            "slow:commands",
            {
                "event_type": "slow:wait",
                "payload": "{}",
                "request_id": "r",
                "correlation_id": "c",
                "reply_stream": "replies",
            },
        )
        with Terminal(arguments, env) as first:
            eventually_sync(
                lambda: handlers() == [first.process.pid], within_s=30, why="it is handled"
            )
            first.press()
            if twice:
                eventually_sync(
                    lambda: not asyncio.run(_event_types(own_server.url, "slow:commands")),
                    within_s=3,
                    why="it drains",
                )
                first.press()
            _assert_ended(first, 130, within_s=_AT_ONCE_S if twice else _IN_TIME_S)
            assert first.lines == []
        with Terminal(arguments, env) as second:
            eventually_sync(
                lambda: handlers()[1:] == [second.process.pid], within_s=15, why="it is again"
            )


async def _event_types(url: str, stream: str) -> tuple[str, ...]:
    async with Bus(url) as bus:
        return (await stream_status(bus, stream)).event_types


def test_the_script_that_runs_a_mission(tmp_path: Path) -> None:
    """`scripts/run-mission.sh` becomes the mission, and ends as it does."""
    env = environment(VENV=os.path.relpath(sys.prefix, ROOT))
    script = ROOT / "scripts" / "run-mission.sh"
    arguments: list[str | Path] = [script, "--robots", "2", "--out", tmp_path]
    with Terminal(arguments, env) as terminal:
        terminal.until("m driven")
        terminal.press()
        _assert_ended(terminal, 130, within_s=_IN_TIME_S)
        assert terminal.lines == [_UNDONE]


@_INTERRUPTS
def test_the_script_while_it_installs(tmp_path: Path, interrupt: Interrupt, code: int) -> None:
    """The step that runs is ended, and the script after it."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] || exec sleep 60\n')
    python.chmod(0o755)
    env = environment(PYTHON=str(python), VENV=str(tmp_path / "venv"))
    with Terminal([ROOT / "scripts" / "run-mission.sh"], env) as terminal:
        eventually_sync(lambda: terminal.processes("sleep"), within_s=10, why="a step runs")
        interrupt(terminal)
        _assert_ended(terminal, code, within_s=_IN_TIME_S)


def test_grandchildren_die_with_a_killed_process(own_server: EmbeddedServer) -> None:
    """SIGKILL of a process ends a Celery worker that it has started, and the worker's pool."""
    program = (
        "import subprocess, sys\nfrom sagastream.testing import child_options\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], **child_options())"
    )
    worker = ["-m", "celery", "--app", "app.celery_app", "worker", "--pool", "prefork"]
    arguments = [sys.executable, "-c", program, *worker, "--concurrency", "2"]
    with Terminal(arguments, environment(REDIS_URL=own_server.url)) as terminal:
        eventually_sync(lambda: len(terminal.processes()) >= 4, within_s=60, why="its pool runs")
        terminal.send(signal.SIGKILL)
        eventually_sync(lambda: not terminal.processes(), within_s=10, why="all have ended")
        assert terminal.process.wait() == -signal.SIGKILL
