"""Fixtures: a server, running workers, and floors that are quick to explore."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app import config
from app.cli.workers import Workers
from app.config import ROOT, Settings, choose_settings, get_settings
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.halls_and_caves import draw_cave
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer
from tests.integration.proxies import Front, certificate, is_there


@dataclass(frozen=True)
class Ended:
    """The result of a program."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its standard output, parsed as one JSON object."""
        return dict(json.loads(self.out))


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with changed settings."""
    return Settings().environment() | settings


def run(*arguments: str, env: Mapping[str, str], timeout: float = 100) -> Ended:
    """Run a program of the application to its end."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the short form only a few tests of pages run behind nginx, too."""
    for item in items:
        spec = getattr(item, "callspec", None)
        if spec and spec.params.get("front") == "nginx" and not item.get_closest_marker("proxied"):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="module", params=["direct", "nginx"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """How the test reaches its page: directly, or through nginx with TLS and a subpath."""
    found: Front = request.param
    if found == "direct":
        yield found
        return
    if not is_there(found):
        pytest.skip("no nginx: apt-get install nginx-light openssl")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_CERT_FILE", str(certificate() / "cert.pem"))
        yield found


@pytest.fixture(scope="session")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of maps: two rooms, a suite of 150 rooms that takes long, and a cave."""
    place = tmp_path_factory.mktemp("maps")
    cave = draw_cave(5, width=12.0, height=10.0)
    for name, floor in (("rooms", draw_rooms(2)), ("suite", draw_rooms(150)), ("cave", cave)):
        save_map(place / f"{name}.yaml", floor.grid, floor.frame)
    return place


@pytest.fixture(scope="session")
def running(
    server: EmbeddedServer, maps: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Start workers; return the environment in which other programs find them."""
    settings = choose_settings(
        redis_url=server.url,
        map_dir=maps,
        out_dir=tmp_path_factory.mktemp("out"),
        fleet_size=3,
    )

    async def ready(workers: Workers) -> None:
        async with get_bus():
            await workers.ready()

    with Workers(settings) as workers:
        asyncio.run(ready(workers))
        yield settings.environment()
    get_settings.cache_clear()


@pytest.fixture(autouse=True)
def _own_choices() -> Iterator[None]:
    """What a test chooses of the settings does not reach the next one."""
    kept = dict(config._chosen)
    yield
    config._chosen.clear()
    config._chosen.update(kept)
    get_settings.cache_clear()
