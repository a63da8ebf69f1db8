from collections.abc import AsyncIterator

import pytest

from app import config
from app.config import choose_settings, get_settings
from app.redis_utils import get_bus
from sagastream import Bus
from sagastream.testing import EmbeddedServer


@pytest.fixture
async def app_bus(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bus]:
    """The application bound to the test's server, under a namespace of its own."""
    monkeypatch.setattr(config, "_chosen", {})
    choose_settings(redis_url=server.url, namespace=namespace)
    async with get_bus() as bus:
        yield bus
    get_settings.cache_clear()
