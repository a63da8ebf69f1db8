"""A deployment of mission control: a server, and workers that run many missions.

In a crash test one role reaches the server through a proxy that counts its commands, and the
victim is killed at one of them. A supervisor then starts it again, without the proxy.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.crash_points import CrashPoint, command_name
from tests.faults.fork_server import ForkedProcess, ForkServer
from tests.faults.mission_invariants import (
    MissionViolations,
    check_mission,
    check_pending,
    journal_of,
)
from tests.polling import eventually_sync

LEASE_S = 0.6
CALL_TIMEOUT_S = 120.0


class Deployment:
    """Worker processes and their server, as a context manager.

    Args:
        store: The server.
        fork_server: Starts the processes.
        folder: For maps and results.
        pool: The pool of the Celery worker.
        rooms: The number of rooms of the floor.
        robots: For each robot process the names of its robots.
        side: The length of a side of a room in metres.
        repeat: How often each message to Celery is sent.
        settings: More settings of the application.
    """

    def __init__(
        self,
        store: EmbeddedServer,
        fork_server: ForkServer,
        folder: Path,
        *,
        pool: str = "threads",
        rooms: int = 2,
        side: float = 3.0,
        repeat: int = 1,
        robots: tuple[tuple[str, ...], ...] = (("r1",), ("r2",)),
        **settings: Any,
    ) -> None:
        self.store = store
        self.out_dir = folder / "out"
        self._fork_server = fork_server
        self._pool = pool
        self._robots = robots
        self._repeat = repeat
        folder.mkdir(parents=True, exist_ok=True)
        floor = draw_rooms(rooms, side=side)
        save_map(folder / "rooms.yaml", floor.grid, floor.frame)
        self.settings: dict[str, Any] = {
            "redis_url": store.url,
            "map_dir": str(folder),
            "out_dir": str(self.out_dir),
            "handler_package": "tests.faults.mission_handlers",
            "lease_s": LEASE_S,
            "wake_after_s": LEASE_S,
            "robot_seen_s": 6 * LEASE_S,
            "retry_s": 0.05,
            "progress_interval_s": 0.02,
            "checkpoint_s": 0.05,
            "battery_per_metre": 0.0,
            "log_level": "ERROR",
        } | settings
        self.running: dict[str, ForkedProcess] = {}
        self._client = redis.Redis.from_url(
            store.url, decode_responses=True, retry=Retry(NoBackoff(), 0)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
        self._client.close()

    def client(self) -> "contextlib.nullcontext[redis.Redis]":
        """Return a client that retries nothing; it lasts as long as the deployment."""
        return contextlib.nullcontext(self._client)

    def names(self) -> list[str]:
        """Return the names of all worker processes."""
        return ["celery", "listener", *(f"robots-{i}" for i in range(len(self._robots)))]

    def start(self, name: str, url: str | None = None, broker: str | None = None) -> None:
        """Start one worker process; none with that name may run."""
        settings = self.settings | {"redis_url": url or self.store.url}
        if name == "celery":
            self.running[name] = self._fork_server.spawn(
                "celery",
                settings=settings,
                repeat=self._repeat,
                broker=broker or self.store.url,
                pool=self._pool,
            )
        elif name == "listener":
            self.running[name] = self._fork_server.spawn(
                "listener", settings=settings, repeat=self._repeat
            )
        else:
            names = self._robots[int(name.partition("-")[2])]
            self.running[name] = self._fork_server.spawn("robots", settings=settings, names=names)

    def supervise(self, *, but: str = "") -> None:
        """Start all processes that do not run, except the one named `but`."""
        for name in self.names():
            is_running = name in self.running and self.running[name].is_alive
            if name != but and not is_running:
                self.start(name)

    def is_ready(self) -> bool:
        """Return whether each robot has checked in and a listener has announced itself."""
        wanted = {f"fleet:seen:{name}" for names in self._robots for name in names}
        wanted.add("listeners:map:commands")
        with self.client() as client, contextlib.suppress(redis.RedisError):
            return int(client.exists(*wanted)) == len(wanted)
        return False

    def has_ended(self, saga_id: str) -> bool:
        """Return whether a mission has ended."""
        with self.client() as client, contextlib.suppress(redis.RedisError):
            journal = journal_of(client, saga_id)
            return journal is not None and journal.status not in {"running", "compensating"}
        return False

    def is_compensating(self, saga_id: str) -> bool:
        """Return whether a mission has started compensating."""
        with self.client() as client, contextlib.suppress(redis.RedisError):
            journal = journal_of(client, saga_id)
            return journal is not None and journal.status in {"compensating", "compensated"}
        return False

    def start_mission(
        self, saga_id: str, robots: int, seed: int, url: str | None = None
    ) -> ForkedProcess:
        """Start an orchestrator for a mission."""
        settings = self.settings | {"redis_url": url or self.store.url}
        return self._fork_server.spawn(
            "orchestrator",
            settings=settings,
            repeat=self._repeat,
            saga_id=saga_id,
            robots=robots,
            seed=seed,
        )

    def wait_until_ready(self) -> None:
        """Wait until all workers are ready.

        Raises:
            NotInTime: They are not ready in time.
        """
        eventually_sync(self.is_ready, within_s=CALL_TIMEOUT_S, why="the workers are ready")

    def wait_for_end(self, *saga_ids: str) -> None:
        """Wait until missions have ended.

        Raises:
            NotInTime: One does not end in time.
        """
        eventually_sync(
            lambda: all(map(self.has_ended, saga_ids)),
            within_s=CALL_TIMEOUT_S,
            why=f"the missions {', '.join(saga_ids)} have ended",
        )

    def resume_later(self, process: ForkedProcess, delay_s: float) -> None:
        """Continue a suspended process after this many seconds."""
        alarm = threading.Timer(delay_s, process.resume)
        alarm.daemon = True
        alarm.start()

    def check(self, saga_id: str, expected: set[str]) -> MissionViolations:
        """Check a mission that has ended with one of the expected statuses."""
        violations = MissionViolations()
        with self.client() as client:
            check_pending(client, violations)
            check_mission(client, saga_id, self.out_dir, expected, violations)
        return violations


class CrashedMission:
    """One mission during which a process is killed at one crash point.

    Attributes:
        crash_command: The command of the kill; '' if the role did not reach it.
        recovery_s: Seconds from the kill to the end of the mission.

    Args:
        deployment: Where it runs.
        point: What is killed, and when.
    """

    def __init__(self, deployment: Deployment, point: CrashPoint) -> None:
        self.crash_command = ""
        self.recovery_s = 0.0
        self._deployment = deployment
        self._point = point
        self._process = {"broker": "celery", "robots": "robots-0"}.get(point.role, point.role)
        self._victim: ForkedProcess | None = None
        self._victim_is_known = threading.Event()
        self._counting = threading.Event()
        self._count = 0
        self._over = threading.Event()
        self._crashed_at = 0.0
        self._proxy = FaultProxy(deployment.store.url, self._plan, on_fault=self._kill_victim)

    @property
    def has_crashed(self) -> bool:
        """Whether the role reached its command, so that the victim was killed."""
        return bool(self._crashed_at)

    def run(self, saga_id: str, robots: int, seed: int) -> None:
        """Run the mission to its end.

        Raises:
            NotInTime: It does not end.
        """
        if self._point.while_compensating:
            threading.Thread(target=self._watch, args=(saga_id,), daemon=True).start()
        else:
            self._counting.set()
        deployment, role = self._deployment, self._point.role
        name = self._process
        with self._proxy:
            if role != "orchestrator":
                deployment.running.pop(name).kill()
                url = {"broker": self._proxy.url} if role == "broker" else {"url": self._proxy.url}
                deployment.start(name, **url)
                self._set_victim(deployment.running[name])
                self._wait(deployment.is_ready, "the workers are ready")
            orchestrator = deployment.start_mission(
                saga_id, robots, seed, self._proxy.url if not self._victim else None
            )
            self._set_victim(orchestrator)

            def has_ended() -> bool:
                nonlocal orchestrator
                if not orchestrator.is_alive and not deployment.has_ended(saga_id):
                    orchestrator = deployment.start_mission(saga_id, robots, seed)
                return deployment.has_ended(saga_id)

            self._wait(has_ended, f"mission {saga_id} has ended")
            ended_at = time.monotonic()
            self._over.set()
            orchestrator.kill()
            if role != "orchestrator":
                deployment.running.pop(name).kill()
        # The kill may come after the end of the mission.
        if self.has_crashed:
            self.recovery_s = max(0.0, ended_at - self._crashed_at)
        self._supervise()
        deployment.supervise()

    def _watch(self, saga_id: str) -> None:
        while not self._over.wait(0.005):
            if self._deployment.is_compensating(saga_id):
                self._counting.set()
                return

    def _set_victim(self, victim: ForkedProcess) -> None:
        if not self._victim:
            self._victim = victim
            self._victim_is_known.set()

    def _wait(self, condition: Callable[[], bool], why: str) -> None:
        eventually_sync(
            condition,
            within_s=CALL_TIMEOUT_S,
            why=f"{why} ({self._point})",
            meanwhile=self._supervise,
        )

    def _supervise(self) -> None:
        """Start again what has ended; the counted process only after the kill."""
        server = self._deployment.store
        if self.has_crashed and self._point.victim == "server" and not server.is_running:
            server.start()
        self._deployment.supervise(but="" if self.has_crashed else self._process)

    def _plan(self, _number: int, command: tuple[bytes, ...]) -> Fault:
        self._count += self._counting.is_set()
        if self._count != self._point.number or self.crash_command or self._over.is_set():
            return Fault.NONE
        self.crash_command = command_name(command)
        return self._point.fault

    def _kill_victim(self) -> None:
        self._victim_is_known.wait()
        assert self._victim is not None
        if self._point.victim == "server":
            self._deployment.store.kill()
        elif self._point.victim == "child":
            for pid in self._victim.children:
                os.kill(pid, signal.SIGKILL)
        else:
            self._victim.kill()
        self._crashed_at = time.monotonic()


@contextlib.contextmanager
def run_deployments(
    count: int, folder: Path, binary: str | None, **options: Any
) -> Iterator[list[Deployment]]:
    """Run deployments until the end of the context, each with its own server."""
    with contextlib.ExitStack() as stack:
        fork_server = stack.enter_context(ForkServer())
        deployments = []
        for number in range(count):
            store = stack.enter_context(EmbeddedServer(aof=True, fsync="always", binary=binary))
            deployment = Deployment(store, fork_server, folder / str(number), **options)
            deployments.append(stack.enter_context(deployment))
            deployment.supervise()
        for deployment in deployments:
            deployment.wait_until_ready()
        yield deployments


@contextlib.contextmanager
def run_deployment(
    store: EmbeddedServer, folder: Path, *, fence: bool = True, **options: Any
) -> Iterator[Deployment]:
    """Run a deployment until the end of the context.

    Args:
        store: The server.
        folder: For maps and results.
        fence: Without it any handler may write for any request, as a control.
        options: More arguments of `Deployment`.
    """
    with (
        ForkServer(fence=fence) as fork_server,
        Deployment(store, fork_server, folder, **options) as deployment,
    ):
        deployment.supervise()
        deployment.wait_until_ready()
        yield deployment
