from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app import config
from app.config import choose_settings, get_settings
from app.exploration.grid import FloorMap
from app.exploration.map_files import save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions import mission_saga
from app.redis_utils import get_bus
from sagastream import Bus
from sagastream.testing import EmbeddedServer
from tests.mosquitto import Mosquitto, running_mosquitto


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The Celery tasks that would have been sent, as (saga id, step)."""
    messages: list[tuple[str, str]] = []

    async def note(saga_id: str, step: str) -> None:
        messages.append((saga_id, step))

    monkeypatch.setattr(mission_saga, "dispatch", note)
    return messages


@pytest.fixture
async def app_bus(
    server: EmbeddedServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    sent: list[tuple[str, str]],
) -> AsyncIterator[Bus]:
    """The application bound to the test's server, in the test's own namespace."""
    monkeypatch.setattr(config, "_chosen", {})
    choose_settings(redis_url=server.url, namespace=namespace)
    async with get_bus() as bus:
        yield bus
    get_settings.cache_clear()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that the test may kill."""
    with running_mosquitto(tmp_path) as made:
        yield made


@pytest.fixture
def mission_floor(app_bus: Bus, mosquitto: Mosquitto, tmp_path: Path) -> FloorMap:
    """A floor that missions may name as `room`."""
    drawn = draw_rooms(6)
    save_map(tmp_path / "room.yaml", drawn.grid, drawn.frame)
    choose_settings(
        map_dir=tmp_path,
        vda5050_broker_url=mosquitto.url,
        vda5050_resend_s=0.5,
        robot_seen_s=3.0,
        progress_interval_s=0.05,
    )
    return drawn
