"""A server for the whole run, a namespace for each test, and a guard against blocked loops."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings
from pydantic_settings import BaseSettings

from sagastream import Bus, CommandListener, Handler
from sagastream.message import TERMINAL_STAGES
from sagastream.testing import EmbeddedServer

# How long an example takes says nothing here: machines differ, and tests share them.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


class _Environment(BaseSettings):
    exploration_maps: Path | None = None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the whole suite run against another server."""
    parser.addoption("--server-binary", default=None, help="server program, such as redis-server")
    parser.addoption("--long", action="store_true", help="fault tests: every point, not some")


@pytest.fixture(scope="session")
def server_binary(request: pytest.FixtureRequest) -> str | None:
    """The server program that the run was asked to use; None for the bundled one."""
    binary: str | None = request.config.getoption("--server-binary")
    return binary


@pytest.fixture(scope="session")
def server(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """One server for all tests."""
    with EmbeddedServer(binary=server_binary) as running:
        yield running


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def bus(server: EmbeddedServer, namespace: str) -> AsyncIterator[Bus]:
    """A bus in the test's namespace."""
    async with Bus(server.url, namespace=namespace) as made:
        yield made
        await _no_key_leaks(made)


async def _no_key_leaks(bus: Bus) -> None:
    """Every key that a test leaves has an end, but for streams of commands and what still runs."""
    call = bus.command
    own = bus.session().inbox.key
    leaked = []
    for raw in await call("KEYS", bus.key("*")):
        key = raw.decode()
        record = key.startswith(bus.key("request:")) and not key.endswith(":stages")
        # A saga's records, and its journal, get their end when it ends.
        live = record and (
            (await call("HGET", key, "status") or b"").decode() not in TERMINAL_STAGES
            or await call("HGET", key, "saga_id")
        )
        journal = key.startswith(bus.key("saga:")) and not key.endswith(":replies")
        if (
            key.endswith((":commands", ":dead", ":instance", ":open", ":stuck"))
            or key == own
            or live
            or journal
        ):
            continue
        if await call("PTTL", key) == -1:
            leaked.append(key.removeprefix(bus.key("")))
    assert leaked == [], "keys without a TTL"


@pytest.fixture
def exploration_maps() -> Path | None:
    """The folder of real floor maps, None where there is none."""
    return _Environment().exploration_maps


@pytest.fixture(autouse=True)
def no_blocked_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocked loop is a lost lease: fail a test in which the library blocks it."""
    if request.node.get_closest_marker("blocking"):
        yield
        return
    with blockbuster_ctx(scanned_modules=["sagastream"]):
        yield


@asynccontextmanager
async def listening(
    bus: Bus,
    handlers: Sequence[Handler],
    *,
    concurrency: int = 16,
    drain_s: float = 5.0,
    **options: Any,
) -> AsyncIterator[CommandListener]:
    """A listener with a bus of its own, as another process would have."""
    async with Bus(bus.url, namespace=bus.namespace) as own:
        listener = CommandListener(
            own, handlers, concurrency=concurrency, drain_s=drain_s, **options
        )
        running = asyncio.create_task(listener.run())
        try:
            yield listener
        finally:
            listener.stop()
            await asyncio.wait_for(running, 10)
