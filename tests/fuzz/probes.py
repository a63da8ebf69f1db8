"""What is at work while mutations are written: pages, event streams, terminal verbs, missions."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import httpx

from app.config import ROOT

_TIMEOUT_S = 60.0
_EVENTS_S = 1.0
_PAGES = (
    *("/", "/parts/missions", "/fleet", "/parts/fleet", "/api/missions", "/api/fleet"),
    *("/api/missions?status=running", "/api/areas", "/healthz", "/login", "/api/openapi.json"),
    "/static/style.css",
)
_MISSION_PAGES = (
    *("/missions/{}", "/parts/missions/{}/steps", "/parts/missions/{}/trace"),
    *("/parts/missions/{}/deliveries", "/missions/{}/files/map.png", "/api/missions/{}"),
)
_VERBS: tuple[tuple[str, ...], ...] = (
    *(("app.cli", "list"), ("app.cli", "fleet"), ("app.cli", "doctor"), ("app.cli", "show", "{}")),
    *(("app.cli", "replay", "{}"), ("app.cli", "list", "-o", "json"), ("app.cli", "watch", "{}")),
    *(("app.cli", "resume", "{}"), ("app.cli", "compensate", "{}"), ("app.cli", "trace", "{}")),
    *(("sagastream.cli", *verb) for verb in (("memory",), ("purge", "--dry-run"))),
    *(("sagastream.cli", "dead", "list", f"{what}:commands") for what in ("map", "resources")),
)
# A verb that follows a mission is stopped: it may have no end.
_VERB_S = 15.0


class Probes:
    """Uses mission control, and counts what it answers.

    Args:
        url: The page.
        env: The environment of the verbs.
        missions: The missions to look at.
        rng: Chooses what to do.

    Attributes:
        url: The page.
        statuses: How often each HTTP status was answered, and other results.
        faults: What must not be: answers of 500, tracebacks, and what had no answer.
    """

    def __init__(
        self, url: str, env: Mapping[str, str], missions: Sequence[str], rng: random.Random
    ) -> None:
        self.url = url
        self._env = env
        self._missions = [*missions, "fuzz-1", "fuzz-2", "nobody"]
        self._rng = rng
        # The server closes what is idle for five seconds, perhaps as a request is on its way.
        limits = httpx.Limits(keepalive_expiry=2.0)
        self._client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits)
        self.statuses = Counter[str]()
        self.faults: list[str] = []

    async def run(self, until: asyncio.Event) -> None:
        """Do all of it, until the event is set."""
        async with self._client:
            await asyncio.gather(
                *(self._repeat(until, probe) for probe in (self._page,) * 3 + (self._events,) * 2),
                *(self._repeat(until, probe) for probe in (self._verb, self._verb, self._change)),
            )

    async def _repeat(self, until: asyncio.Event, probe: Callable[[], Awaitable[None]]) -> None:
        while not until.is_set():
            try:
                await probe()
            except httpx.HTTPError as error:
                self.faults.append(f"{probe.__name__}: {error!r}")
                if len(self.faults) > 100:  # the page has ended
                    return

    def _mission(self) -> str:
        return self._rng.choice(self._missions)

    async def _page(self) -> None:
        path = self._rng.choice((*_PAGES, *_MISSION_PAGES, *_MISSION_PAGES)).format(self._mission())
        browser = {"accept": "text/html"} if self._rng.random() < 0.5 else {}
        self._count(path, await self._client.get(path, headers=browser))

    async def _events(self) -> None:
        """Read an event stream for a moment, from the start or from a position."""
        path = f"/api/missions/{self._mission()}/events"
        after = self._rng.choice((None, None, "1-1,0-0,5-5", f"0-0,0-0,{2**63}-1"))
        params = {"after": after} if after else {}
        try:
            async with (
                asyncio.timeout(_EVENTS_S),
                # Another client: a stream that is left can take a request of the same client with it.
                httpx.AsyncClient(base_url=self.url) as client,
                client.stream("GET", path, params=params) as answer,
            ):
                self._count(path, answer)
                async for _ in answer.aiter_raw():
                    pass
        except TimeoutError:
            self.statuses["stream"] += 1

    async def _change(self) -> None:
        """Start a mission, or change one."""
        await asyncio.sleep(2.0)
        mission, verb = self._mission(), self._rng.choice(("cancel", "resume", "compensate"))
        if self._rng.random() < 0.5:
            body = {"area": "rooms", "robots": self._rng.choice((1, 2))}
            self._count("start", await self._client.post("/api/missions", json=body))
        else:
            path = f"/api/missions/{mission}/{verb}"
            self._count(path, await self._client.post(path, json={}))

    async def _verb(self) -> None:
        await asyncio.sleep(0.2)
        module, *arguments = (part.format(self._mission()) for part in self._rng.choice(_VERBS))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            cwd=ROOT,
            env=dict(self._env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        communicating = asyncio.ensure_future(process.communicate())
        done, _ = await asyncio.wait({communicating}, timeout=_VERB_S)
        if not done:
            process.terminate()
        _, error = await communicating
        self.statuses["verb"] += 1
        is_odd = b"\x1b" in error or process.returncode not in range(6)
        if b"Traceback" in error or (done and is_odd):
            lines = error.decode(errors="replace")[-1500:]
            self.faults.append(f"{module} {arguments}: {process.returncode}: {lines}")

    def _count(self, path: str, answer: httpx.Response) -> None:
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code == 500:
            self.faults.append(f"{path}: 500")


def memory_bytes(pid: int) -> int:
    """The resident memory of a process; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
