"""A small world of missions: a server, workers that live for many missions, and one victim.

The victim reaches the server by a proxy that counts its commands, and kills it, or the server, at
one of them. Then it is started again, as a supervisor would, straight to the server.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from sagastream._functions.library import LIBRARY
from sagastream.testing import EmbeddedServer, Fault, FaultProxy
from tests.faults.mission_rules import Faults, journal_of, judge, wait_quiet
from tests.faults.zygote import Spawned, Zygote
from tests.polling import comes_true

LEASE_S = 0.6
CALL_TIMEOUT_S = 120.0
_COMPOUND = {b"CLIENT", b"FCALL", b"FUNCTION", b"XGROUP"}


@dataclass(frozen=True)
class Blow:
    """What is killed, and when.

    Attributes:
        role: Whose commands are counted: `orchestrator`, `celery` (what it says to the library's
            server), `broker` (what it says to its broker), `listener` or `robots`.
        victim: The role's process, its `child` (a prefork worker's), or the `server`.
        fault: BEFORE or AFTER the command.
        number: Which command, from 1.
        going_back: Count only those since the mission turned round.
    """

    role: str
    victim: str
    fault: Fault
    number: int
    going_back: bool = False


class World:
    """Workers and a server, for as long as the context lasts.

    Args:
        store: The server.
        zygote: Where processes come from.
        place: A folder for maps and results.
        pool: Celery's.
        rooms: How large the floor is.
        robots: The processes of robots: the names in each.
        side: Of a room, metres.
        repeat: How often each message to Celery is sent.
        settings: More settings of the application.
    """

    def __init__(
        self,
        store: EmbeddedServer,
        zygote: Zygote,
        place: Path,
        *,
        pool: str = "threads",
        rooms: int = 2,
        side: float = 3.0,
        repeat: int = 1,
        robots: tuple[tuple[str, ...], ...] = (("r1",), ("r2",)),
        **settings: Any,
    ) -> None:
        self.store = store
        self.out_dir = place / "out"
        self._zygote = zygote
        self._pool = pool
        self._robots = robots
        self._repeat = repeat
        place.mkdir(parents=True, exist_ok=True)
        floor = draw_rooms(rooms, side=side)
        save_map(place / "rooms.yaml", floor.grid, floor.frame)
        self.settings: dict[str, Any] = {
            "redis_url": store.url,
            "map_dir": str(place),
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
        self.running: dict[str, Spawned] = {}
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
        """A plain client, for looking from outside; it lasts as long as the world."""
        return contextlib.nullcontext(self._client)

    def names(self) -> list[str]:
        """Every worker process that there should be."""
        return ["celery", "listener", *(f"robots-{i}" for i in range(len(self._robots)))]

    def start(self, name: str, url: str | None = None, broker: str | None = None) -> None:
        """Start one worker process; one of that name must not run."""
        settings = self.settings | {"redis_url": url or self.store.url}
        if name == "celery":
            self.running[name] = self._zygote.spawn(
                "celery",
                settings=settings,
                repeat=self._repeat,
                broker=broker or self.store.url,
                pool=self._pool,
            )
        elif name == "listener":
            self.running[name] = self._zygote.spawn(
                "listener", settings=settings, repeat=self._repeat
            )
        else:
            names = self._robots[int(name.partition("-")[2])]
            self.running[name] = self._zygote.spawn("robots", settings=settings, names=names)

    def supervise(self, *, but: str = "") -> None:
        """Start again whatever has died, but for one."""
        for name in self.names():
            is_there = name in self.running and self.running[name].is_alive
            if name != but and not is_there:
                self.start(name)

    def is_ready(self) -> bool:
        """Whether every robot has checked in and a listener is there."""
        wanted = {f"fleet:seen:{name}" for names in self._robots for name in names}
        wanted.add("listeners:map:commands")
        with self.client() as client, contextlib.suppress(redis.RedisError):
            return int(client.exists(*wanted)) == len(wanted)
        return False

    def has_ended(self, saga_id: str) -> bool:
        """Whether a mission has ended."""
        with self.client() as client, contextlib.suppress(redis.RedisError):
            journal = journal_of(client, saga_id)
            return journal is not None and journal.status not in {"running", "compensating"}
        return False

    def has_turned_round(self, saga_id: str) -> bool:
        """Whether a mission is being undone, or was."""
        with self.client() as client, contextlib.suppress(redis.RedisError):
            journal = journal_of(client, saga_id)
            return journal is not None and journal.status in {"compensating", "compensated"}
        return False

    def ask(self, saga_id: str, robots: int, seed: int, url: str | None = None) -> Spawned:
        """Start an orchestrator for a mission."""
        settings = self.settings | {"redis_url": url or self.store.url}
        return self._zygote.spawn(
            "orchestrator",
            settings=settings,
            repeat=self._repeat,
            saga_id=saga_id,
            robots=robots,
            seed=seed,
        )

    def until(self, is_so: Callable[[], bool], otherwise: str) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: It does not come to be.
        """
        if not comes_true(is_so, within_s=CALL_TIMEOUT_S):
            raise TimeoutError(otherwise)

    def resume_later(self, process: Spawned, delay_s: float) -> None:
        """Let a stopped process go on after a while."""
        alarm = threading.Timer(delay_s, process.resume)
        alarm.daemon = True
        alarm.start()

    def judge(self, saga_id: str, right: set[str]) -> Faults:
        """Judge a mission."""
        faults = Faults()
        with self.client() as client:
            if pending := wait_quiet(client):
                faults.other.append(f"{saga_id}: something stays pending on {pending}")
            judge(client, saga_id, self.out_dir, right, faults)
        return faults


class Attack:
    """One mission during which one blow falls.

    Attributes:
        struck: The command at which it fell, '' if it did not.
        recovery_s: From the blow to the end of the mission.
    """

    def __init__(self, world: World, blow: Blow) -> None:
        self.struck = ""
        self.recovery_s = 0.0
        self._world = world
        self._blow = blow
        self._attacked = {"broker": "celery", "robots": "robots-0"}.get(blow.role, blow.role)
        self._victim: Spawned | None = None
        self._victim_is_known = threading.Event()
        self._counting = threading.Event()
        self._count = 0
        self._over = threading.Event()
        self._hit_at = 0.0
        self._proxy = FaultProxy(world.store.url, self._plan, on_fault=self._strike)

    @property
    def was_hit(self) -> bool:
        """Whether the role came as far as its command."""
        return bool(self._hit_at)

    def run(self, saga_id: str, robots: int, seed: int) -> None:
        """Run the mission to its end, which it must reach.

        Raises:
            TimeoutError: It does not end.
        """
        if self._blow.going_back:
            threading.Thread(target=self._watch, args=(saga_id,), daemon=True).start()
        else:
            self._counting.set()
        world, role = self._world, self._blow.role
        name = self._attacked
        with self._proxy:
            if role != "orchestrator":
                world.running.pop(name).kill()
                way = {"broker": self._proxy.url} if role == "broker" else {"url": self._proxy.url}
                world.start(name, **way)
                self._know(world.running[name])
                self._until(world.is_ready, "the workers are not ready")
            asking = world.ask(saga_id, robots, seed, self._proxy.url if not self._victim else None)
            self._know(asking)

            def is_over() -> bool:
                nonlocal asking
                if not asking.is_alive and not world.has_ended(saga_id):
                    asking = world.ask(saga_id, robots, seed)
                return world.has_ended(saga_id)

            self._until(is_over, f"mission {saga_id} does not end")
            ended_at = time.monotonic()
            self._over.set()
            asking.kill()
            if role != "orchestrator":
                world.running.pop(name).kill()
        # The blow may have fallen just now.
        if self.was_hit:
            self.recovery_s = max(0.0, ended_at - self._hit_at)
        self._mend()
        world.supervise()

    def _watch(self, saga_id: str) -> None:
        while not self._over.wait(0.005):
            if self._world.has_turned_round(saga_id):
                self._counting.set()
                return

    def _know(self, victim: Spawned) -> None:
        if not self._victim:
            self._victim = victim
            self._victim_is_known.set()

    def _until(self, is_so: Callable[[], bool], otherwise: str) -> None:
        if not comes_true(is_so, within_s=CALL_TIMEOUT_S, meanwhile=self._mend):
            raise TimeoutError(f"{self._blow} at {self.struck}: {otherwise}")

    def _mend(self) -> None:
        """Start again what has ended; who is under attack only after the blow."""
        if self.was_hit and self._blow.victim == "server" and not self._world.store.is_running:
            self._world.store.start()
        self._world.supervise(but="" if self.was_hit else self._attacked)

    def _plan(self, _number: int, command: tuple[bytes, ...]) -> Fault:
        self._count += self._counting.is_set()
        if self._count != self._blow.number or self.struck or self._over.is_set():
            return Fault.NONE
        words = [command[0], *command[1:2]] if command[0] in _COMPOUND else command[:1]
        self.struck = b" ".join(words).decode().replace(f"{LIBRARY}_", "")
        return self._blow.fault

    def _strike(self) -> None:
        self._victim_is_known.wait()
        assert self._victim is not None
        if self._blow.victim == "server":
            self._world.store.kill()
        elif self._blow.victim == "child":
            for pid in self._victim.children:
                os.kill(pid, signal.SIGKILL)
        else:
            self._victim.kill()
        self._hit_at = time.monotonic()


@contextlib.contextmanager
def worlds_of(count: int, place: Path, binary: str | None, **options: Any) -> Iterator[list[World]]:
    """Some worlds that are ready, each with a server of its own."""
    with contextlib.ExitStack() as stack:
        zygote = stack.enter_context(Zygote())
        worlds = []
        for number in range(count):
            store = stack.enter_context(EmbeddedServer(aof=True, binary=binary))
            world = World(store, zygote, place / str(number), **options)
            worlds.append(stack.enter_context(world))
            world.supervise()
        for world in worlds:
            world.until(world.is_ready, "the workers are not ready")
        yield worlds


@contextlib.contextmanager
def world_of(
    store: EmbeddedServer, place: Path, *, fence: bool = True, **options: Any
) -> Iterator[World]:
    """A world that is ready; without its fence any handler may write for any request."""
    with Zygote(fence=fence) as zygote, World(store, zygote, place, **options) as world:
        world.supervise()
        world.until(world.is_ready, "the workers are not ready")
        yield world
