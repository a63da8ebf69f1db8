"""The processes of a mission on one machine: started, watched, and stopped together.

They die with the process that started them, however it ends.
"""

import asyncio
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from app.config import ROOT, Settings
from app.redis_utils import get_bus
from app.robots import fleet
from sagastream import SagastreamError
from sagastream.testing import die_with_parent

KINDS = frozenset({"celery", "listener", "robots"})
# Where kombu's Redis transport keeps who listens for Celery's remote control.
_MAILBOX = "_kombu.binding.celery.pidbox"
_READY_S = 120.0
_STOP_S = 10.0
_LOOK_S = 0.25
_AGAIN_S = 3.0

logger = logging.getLogger(__name__)


class WorkersFailed(SagastreamError):
    """A worker process ended or did not get ready; with its last words."""


async def absent(settings: Settings) -> set[str]:
    """Which kinds of workers do not run on this server yet."""
    kinds = set()
    if not await _celery_answers():
        kinds.add("celery")
    if await _unheard(settings):
        kinds.add("listener")
    if not any(robot.present for robot in await fleet.robots()):
        kinds.add("robots")
    return kinds


async def _celery_answers() -> bool:
    """Whether a Celery worker runs: one that is there binds its mailbox, also if it is gone since."""
    bus = get_bus()
    if not await bus.command("EXISTS", bus.key(_MAILBOX)):
        return False
    from app.celery_app import celery_app  # noqa: PLC0415 - a slow import, mostly not needed

    # Who asks all workers waits for as long as is said, whoever answers.
    return bool(await asyncio.to_thread(celery_app.control.ping, timeout=1.0))


async def _unheard(settings: Settings) -> list[str]:
    """The mission's command streams that no live listener reads."""
    bus = get_bus()
    streams = (
        settings.resources_stream,
        settings.routing_stream,
        settings.exploration_stream,
        settings.map_stream,
    )
    return [
        stream
        for stream in streams
        if not await bus.command("EXISTS", bus.key(f"listeners:{stream}"))
    ]


class Workers:
    """Celery worker, command listener and robots as child processes, for as long as the context.

    Args:
        settings: What the children get.
        kinds: Which of them to start.
    """

    def __init__(self, settings: Settings, kinds: Collection[str] = KINDS) -> None:
        self._settings = settings
        self._kinds = kinds
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments: dict[str, Sequence[str]] = {}
        self._logs = Path(tempfile.mkdtemp(prefix="mission-"))

    def __enter__(self) -> Self:
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
        """The process ids of the children, by name."""
        return {name: child.pid for name, child in self._children.items()}

    async def ready(self) -> None:
        """Wait until every command can be handled and every robot is there.

        Raises:
            WorkersFailed: A process ended, or not all were ready in time.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _READY_S
        while missing := await self._not_ready():
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise WorkersFailed(
                        f"{name} ended with {child.returncode}: {self._words(name)}"
                    )
            if loop.time() > give_up:
                raise WorkersFailed(f"not ready after {_READY_S:g} s: {', '.join(missing)}")
            await asyncio.sleep(0.05)

    async def keep(self) -> None:
        """Start again whatever dies, until cancelled."""
        started = dict.fromkeys(self._children, 0.0)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            for name, child in self._children.items():
                if child.poll() is not None and loop.time() - started[name] > _AGAIN_S:
                    logger.warning(
                        "%s ended with %s and is started again: %s",
                        name,
                        child.returncode,
                        self._words(name)[-500:],
                    )
                    started[name] = loop.time()
                    self._spawn(name, self._arguments[name])

    def stop(self) -> None:
        """Stop all, in good order first; safe to call twice."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self._children.values():
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
        for log in self._logs.glob("*.log"):
            log.unlink()
        if self._logs.exists():
            self._logs.rmdir()

    async def _not_ready(self) -> list[str]:
        waited_for = [f"a handler of {stream}" for stream in await _unheard(self._settings)]
        present = sum(robot.present for robot in await fleet.robots())
        if "robots" in self._kinds and present < self._settings.fleet_size:
            waited_for.append(f"{self._settings.fleet_size - present} robots")
        return waited_for

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        self._arguments[name] = arguments
        with (self._logs / f"{name}.log").open("wb") as log:
            self._children[name] = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - only calls prctl
            )

    def _environment(self, name: str) -> dict[str, str]:
        """The settings of a child; probes are answered on consecutive ports."""
        env, first = self._settings.environment(), self._settings.http_port
        port = first + list(self._arguments).index(name) if first else 0
        return env | {"HTTP_PORT": str(port)}

    def _words(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(errors="replace")[-2000:]


def _celery(settings: Settings) -> list[str]:
    return [
        *("-m", "celery", "--app", "app.celery_app", "worker", "--pool", "threads"),
        *("--concurrency", str(settings.celery_concurrency), "--loglevel", settings.log_level),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
