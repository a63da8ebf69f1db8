"""A campaign: harvest real missions, write mutations of them, and look at what is at work."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis

from app.cli.workers import Workers
from app.config import choose_settings
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer
from tests.fuzz.corpus import Corpus
from tests.fuzz.probes import Probes, memory_bytes
from tests.integration.served import Served

_NAMESPACE = "fuzz"
_BATCH = 100
# How often everything is brought back, so that there is something to mutate.
_BATCHES_PER_ROUND = 5
# Between two batches, so that what is at work meets them.
_PAUSE_S = 0.25
_HARVEST_S = 90.0
_LAST_MISSIONS = 3


@dataclass
class Result:
    """What a campaign has found.

    Attributes:
        mutations: How many were written.
        refused: How many of them the server refused.
        seconds: How long it took.
        statuses: How often each HTTP status was answered, and other results.
        faults: What must not be.
        lost: The processes that ended.
        growth: The largest memory of each process, as a multiple of that before.
        completed: Whether a mission completed afterwards.
    """

    mutations: int = 0
    refused: int = 0
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    growth: dict[str, float] = field(default_factory=dict)
    completed: bool = False

    def as_json(self) -> str:
        """All of it, for people and programs."""
        return json.dumps(asdict(self), indent=2)


def run(folder: Path, *, mutations: int, seed: int, binary: str | None = None) -> Result:
    """Run a campaign.

    Args:
        folder: For maps, results and spans.
        mutations: How many to write.
        seed: Of all that is random, except for the times of processes.
        binary: The server program; None for the bundled one.
    """
    with _mission_control(folder, binary) as (client, workers, served, env):
        for area, ends in (("rooms", True), ("suite", False)):
            _harvest(served.url, area, ends=ends)
        rng = random.Random(seed)
        corpus = Corpus(client, _NAMESPACE, rng)
        corpus.read()
        probes = Probes(served.url, env, corpus.missions(), rng)
        processes = workers.pids | {"page": served.pid}
        return asyncio.run(_fuzz(corpus, probes, processes, mutations))


@contextmanager
def _mission_control(folder: Path, binary: str | None) -> Iterator[Any]:
    for name, rooms in (("rooms", 1), ("suite", 100)):
        floor = draw_rooms(rooms)
        save_map(folder / f"{name}.yaml", floor.grid, floor.frame)
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(binary=binary))
        settings = choose_settings(
            redis_url=server.url,
            namespace=_NAMESPACE,
            map_dir=folder,
            out_dir=folder / "out",
            trace_dir=folder / "traces",
            fleet_size=4,
            listener_processes=2,
            call_timeout_s=5.0,
            web_requests_per_s=1000.0,
        )
        workers = stack.enter_context(Workers(settings))

        async def ready() -> None:
            async with get_bus():
                await workers.ready()

        asyncio.run(ready())
        served = stack.enter_context(Served(settings.environment()))
        client = stack.enter_context(redis.Redis.from_url(server.url))
        yield client, workers, served, settings.environment()


def _harvest(url: str, area: str, *, ends: bool) -> None:
    """Run a mission to its end, or into its exploration."""
    with httpx.Client(base_url=url, timeout=30) as page:
        body = {"area": area, "robots": 2}
        mission = page.post("/api/missions", json=body).json()["saga_id"]
        deadline = time.monotonic() + _HARVEST_S
        while time.monotonic() < deadline:
            found = page.get(f"/api/missions/{mission}").json()
            if found["status"] == "completed":
                return
            if found["status"] != "running":
                break
            listed = [] if ends else page.get("/api/missions").json()
            if any(row["saga_id"] == mission and row["driven_m"] for row in listed):
                return
            time.sleep(0.1)  # the page is polled, as a client without event streams does
    raise TimeoutError(f"the mission on {area} was not there in {_HARVEST_S:g} s: {found}")


def _wait_for_robots(url: str) -> None:
    with httpx.Client(base_url=url, timeout=30) as page:
        deadline = time.monotonic() + _HARVEST_S
        while time.monotonic() < deadline:
            free = [robot for robot in page.get("/api/fleet").json() if not robot["holder"]]
            if len(free) > 1:
                return
            time.sleep(0.1)
    raise TimeoutError(f"no robots within {_HARVEST_S:g} s")


def _completes(url: str) -> bool:
    """Whether a mission completes after all that."""
    for _ in range(_LAST_MISSIONS):  # the first may still meet what was there
        try:
            _wait_for_robots(url)
            _harvest(url, "rooms", ends=True)
        except TimeoutError as error:
            sys.stderr.write(f"{error}\n")
        else:
            return True
    return False


async def _fuzz(
    corpus: Corpus, probes: Probes, processes: dict[str, int], mutations: int
) -> Result:
    result, started, ended = Result(), time.monotonic(), asyncio.Event()
    before = {name: memory_bytes(pid) for name, pid in processes.items()}
    most = dict(before)
    probing = asyncio.create_task(probes.run(ended))
    while result.mutations < mutations and not result.lost:
        result.refused += await asyncio.to_thread(corpus.mutate, _BATCH)
        result.mutations += _BATCH
        await asyncio.sleep(_PAUSE_S)
        if result.mutations // _BATCH % _BATCHES_PER_ROUND == 0:
            await asyncio.to_thread(corpus.restore)
        for name, pid in processes.items():
            most[name] = max(most[name], memory_bytes(pid))
            if not memory_bytes(pid):
                result.lost.append(name)
    ended.set()
    await probing
    await asyncio.to_thread(corpus.forget)
    result.completed = not result.lost and await asyncio.to_thread(_completes, probes.url)
    result.statuses, result.faults = dict(probes.statuses), probes.faults
    result.growth = {name: round(most[name] / before[name], 2) for name in processes}
    result.seconds = round(time.monotonic() - started, 1)
    return result
