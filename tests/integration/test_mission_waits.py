"""Missions that wait their turn: for others in their area, and for robots that charge."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.workers import Workers
from app.config import choose_settings, get_settings
from app.redis_utils import get_bus
from sagastream.testing import EmbeddedServer
from tests.integration.served import Served
from tests.plain_client import connect
from tests.polling import eventually_sync

_LIMIT = "limit exploration:perform area=suite"


@pytest.fixture(scope="module")
def limited(maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Workers that let one mission explore an area at a time; robots charge quickly."""

    async def ready(workers: Workers) -> None:
        async with get_bus():
            await workers.ready()

    with EmbeddedServer() as server:
        settings = choose_settings(
            redis_url=server.url,
            map_dir=maps,
            out_dir=tmp_path_factory.mktemp("out"),
            fleet_size=3,
            missions_per_area=1,
            charge_per_s=5.0,
        )
        with Workers(settings) as workers:
            asyncio.run(ready(workers))
            yield settings.environment()
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def served(limited: dict[str, str]) -> Iterator[Served]:
    """The web server."""
    with Served(limited) as server:
        yield server


def _start(served: Served, area: str, robots: int = 1) -> str:
    answer = httpx.post(f"{served.url}/api/missions", json={"area": area, "robots": robots})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["saga_id"])


def _row(served: Served, saga_id: str) -> dict[str, Any]:
    rows = httpx.get(f"{served.url}/api/missions").json()
    return dict(next(row for row in rows if row["saga_id"] == saga_id))


def _wait_for(served: Served, saga_id: str, **told: Any) -> None:
    eventually_sync(
        lambda: told.items() <= _row(served, saga_id).items(), within_s=60, why=f"it is {told}"
    )


def _cancel(served: Served, saga_id: str) -> None:
    answer = httpx.post(f"{served.url}/api/missions/{saga_id}/cancel", json={})
    assert answer.status_code == 202


def test_a_mission_waits_until_its_area_is_free(served: Served) -> None:
    """Its page and the list say why; one in another area does not wait, and a cancel frees the area."""
    first = _start(served, "suite")
    eventually_sync(lambda: _row(served, first)["known_m2"], within_s=60, why="it explores")
    second = _start(served, "suite")
    _wait_for(served, second, waits_for=_LIMIT, at="perform_exploration")
    for path in (f"/parts/missions/{second}/status", "/parts/missions"):
        assert f"waits for {_LIMIT}" in httpx.get(f"{served.url}{path}").text, path
    other = _start(served, "rooms")
    _wait_for(served, other, status="completed", waits_for=None)
    assert _row(served, second)["known_m2"] is None
    _cancel(served, first)
    eventually_sync(lambda: _row(served, second)["known_m2"], within_s=60, why="it explores")
    assert _row(served, second)["waits_for"] is None
    _cancel(served, second)
    _wait_for(served, second, status="compensated")


def test_a_mission_waits_for_robots_that_charge(served: Served, limited: dict[str, str]) -> None:
    """Instead of failing; the journal has each attempt. More robots than there are fail at once."""
    with connect(limited["REDIS_URL"]) as client:
        for name, text in client.hgetall("fleet").items():
            robot = json.loads(text) | {"battery": 0.0, "holder": "", "since": time.time()}
            client.hset("fleet", name, json.dumps(robot, sort_keys=True))
    mission = _start(served, "rooms", robots=3)
    _wait_for(served, mission, status="completed")
    entries = httpx.get(f"{served.url}/api/missions/{mission}").json()["entries"]
    attempts = [entry for entry in entries if entry["step"] == "allocate_resources"]
    assert len(attempts) >= 2
    assert {entry["error"]["error_type"] for entry in attempts[:-1]} == {"RobotsCharging"}
    assert "low on battery" in attempts[0]["error"]["message"]
    assert attempts[-1]["status"] == "completed"
    hopeless = _start(served, "rooms", robots=4)
    _wait_for(served, hopeless, status="compensated")
    entries = httpx.get(f"{served.url}/api/missions/{hopeless}").json()["entries"]
    forward = [entry for entry in entries if entry["direction"] == "forward"]
    assert [entry["error"]["error_type"] for entry in forward] == ["TooFewRobots"]
