"""Supervises the worker processes of missions on one machine: Celery, listeners, robots.

They die with the process that started them, however it ends. A Ctrl-C does not reach them: that
process stops them.
"""

import asyncio
import contextlib
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from app.cli.part_output import PartOutput
from app.config import ROOT, Settings
from app.redis_utils import get_bus
from app.robots import fleet
from app.shutdown import kill_groups, shutdown
from sagastream import SagastreamError
from sagastream.status import stream_status
from sagastream.testing import child_options

KINDS = frozenset({"celery", "listener", "robots"})
# The key where kombu's Redis transport lists the listeners of Celery's remote control.
_MAILBOX = "_kombu.binding.celery.pidbox"
_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
# How long before the end of that time a listener stops draining and gives its commands back.
_HURRY_S = 1.8
_CHECK_INTERVAL_S = 0.25
_RESTART_INTERVAL_S = 3.0
# How long robots of others are awaited: they may be switched off.
_VDA5050_WAIT_S = 10.0

logger = logging.getLogger(__name__)


class WorkersFailed(SagastreamError):
    """A worker process ended or was not ready in time; the message has its last output."""


async def missing_kinds(settings: Settings) -> set[str]:
    """Return the kinds of workers that do not run on this server yet."""
    kinds = set()
    if not await _celery_answers():
        kinds.add("celery")
    if await _unread_streams(settings):
        kinds.add("listener")
    if not any(robot.present for robot in await fleet.robots()):
        kinds.add("robots")
    return kinds


async def _celery_answers() -> bool:
    """Return whether a Celery worker runs: its mailbox exists, and it answers a ping.

    A worker that has died leaves its mailbox behind.
    """
    bus = get_bus()
    if not await bus.command("EXISTS", bus.key(_MAILBOX)):
        return False
    from app.celery_app import count_workers  # noqa: PLC0415 - slow to import, rarely needed

    return bool(await asyncio.to_thread(count_workers, 1.0))


async def _unread_streams(settings: Settings) -> list[str]:
    """Return the command streams of mission steps that no live listener reads."""
    statuses = [await stream_status(get_bus(), stream) for stream in settings.step_streams]
    return [status.stream for status in statuses if not status.event_types]


class Workers:
    """Runs Celery worker, command listeners and robots as child processes within a context.

    Args:
        settings: The settings of the children.
        kinds: The kinds of workers to start; also `page`, for `mission serve`.
        output: Prints what they write; by default it is kept until they end, for error messages.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Collection[str] = KINDS,
        *,
        output: PartOutput | None = None,
    ) -> None:
        self._output = output
        self._settings = settings
        self._kinds = kinds
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments: dict[str, Sequence[str]] = {}
        self._logs = Path(tempfile.mkdtemp(prefix="mission-"))
        self._killing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._killing.enter_context(shutdown.killing(self.kill))
        names = [f"robot-{number:02}" for number in range(1, self._settings.fleet_size + 1)]
        processes = min(self._settings.robot_processes, len(names))
        try:
            if "celery" in self._kinds:
                self._spawn("celery", [*_celery(self._settings)])
            for number in range(
                self._settings.listener_processes if "listener" in self._kinds else 0
            ):
                self._spawn(f"listener-{number + 1}", ["-m", "app.command_listener"])
            for number in range(processes if "robots" in self._kinds else 0):
                self._spawn(
                    f"robots-{number + 1}",
                    ["-m", "app.robots.process", *names[number::processes]],
                )
            if "robots" in self._kinds and self._settings.vda5050_robots:
                self._spawn("vda5050", ["-m", "app.robots.vda5050.adapter"])
            if "page" in self._kinds:
                self._spawn("page", ["-m", "app.cli", "serve"])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children, by name."""
        return {name: child.pid for name, child in self._children.items()}

    async def ready(self) -> None:
        """Wait until listeners read every command stream and every robot is present.

        Robots that speak VDA 5050 are awaited for 10 s only.

        Raises:
            WorkersFailed: A process ended, or the workers were not ready in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_TIMEOUT_S
        while missing := await self._not_ready():
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise WorkersFailed(
                        f"{name} ended with {child.returncode}: {self._last_output(name)}"
                    )
            if loop.time() > deadline:
                raise WorkersFailed(f"not ready after {_READY_TIMEOUT_S:g} s: {', '.join(missing)}")
            await asyncio.sleep(0.05)
        soon = loop.time() + _VDA5050_WAIT_S
        while absent := await self._absent_vda5050():
            if loop.time() > soon or self._children["vda5050"].poll() is not None:
                logger.warning("not heard yet over VDA 5050: %s", ", ".join(absent))
                return
            await asyncio.sleep(0.05)

    async def _absent_vda5050(self) -> list[str]:
        """Return the robots that this process's adapter serves and that are not present."""
        if "vda5050" not in self._children:
            return []
        present = {robot.name for robot in await fleet.robots() if robot.present}
        names = [each.name for each in self._settings.vda5050_identities]
        return [name for name in names if name not in present]

    async def keep(self) -> None:
        """Restart processes that end, until cancelled."""
        started = dict.fromkeys(self._children, 0.0)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            for name, child in self._children.items():
                if child.poll() is not None and loop.time() - started[name] > _RESTART_INTERVAL_S:
                    logger.warning(
                        "%s ended with %s, restarting it: %s",
                        name,
                        child.returncode,
                        self._last_output(name)[-500:],
                    )
                    started[name] = loop.time()
                    self._spawn(name, self._arguments[name])

    def stop(self) -> None:
        """Stop all children: SIGTERM, SIGTERM again for listeners that still drain, SIGKILL.

        Safe to call twice.
        """
        left_s = shutdown.left_s(_STOP_TIMEOUT_S)
        end = time.monotonic() + left_s
        hurry_s = min(_HURRY_S, left_s / 2)
        for deadline in (end - hurry_s, end - hurry_s / 3):
            for child in self._children.values():
                child.send_signal(signal.SIGTERM)
            for child in self._children.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()))
        self.kill()
        for child in self._children.values():
            child.wait()
        self._children.clear()
        self._killing.close()

    def kill(self) -> None:
        """Kill all children and delete their logs."""
        kill_groups(child.pid for child in self._children.values())
        shutil.rmtree(self._logs, ignore_errors=True)

    async def _not_ready(self) -> list[str]:
        missing = [f"a listener of {stream}" for stream in await _unread_streams(self._settings)]
        ours = {each.name for each in self._settings.vda5050_identities}
        present = sum(robot.present and robot.name not in ours for robot in await fleet.robots())
        if "robots" in self._kinds and present < self._settings.fleet_size:
            missing.append(f"{self._settings.fleet_size - present} robots")
        return missing

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        self._arguments[name] = arguments
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            child = self._children[name] = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._output else log,
                stderr=subprocess.STDOUT,
                **child_options(),
            )
        if self._output:
            self._output.follow(name, child, path)

    def _environment(self, name: str) -> dict[str, str]:
        """Return the environment of a child; children serve probes on consecutive ports."""
        env, first_port = self._settings.environment(), self._settings.http_port
        port = first_port + list(self._arguments).index(name) if first_port else 0
        return env | {"HTTP_PORT": str(port)}

    def _last_output(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(errors="replace")[-2000:]


def _celery(settings: Settings) -> list[str]:
    return [
        *("-m", "celery", "--app", "app.celery_app", "worker", "--pool", "threads"),
        *("--concurrency", str(settings.celery_concurrency), "--loglevel", settings.log_level),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
