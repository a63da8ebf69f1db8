from collections.abc import AsyncIterator

import pytest

from app import config
from app.config import choose_settings, get_settings
from app.missions import mission_saga
from app.redis_utils import get_bus
from sagastream import Bus
from sagastream.testing import EmbeddedServer


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
