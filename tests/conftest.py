"""Fixtures: a server for all tests, a namespace for each, and a check for blocked event loops."""

import logging
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import opentelemetry._logs._internal as otel_logs
import opentelemetry.metrics._internal as otel_metrics
import opentelemetry.trace as otel_trace
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings
from opentelemetry.util._once import Once
from pydantic_settings import BaseSettings

from sagastream import Bus
from sagastream.message import TERMINAL_STAGES
from sagastream.testing import EmbeddedServer
from tests.failover import Names, Pair, replicated
from tests.records import record_of

# No deadline for an example: its duration depends on the machine and on the other tests.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


class _Environment(BaseSettings):
    exploration_maps: Path | None = None


def pytest_configure() -> None:
    """Let the programs of tests be interrupted, also if this one runs in the background.

    A shell ignores interrupts in its background jobs, and children inherit that.
    """
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    parser.addoption("--server-binary", default=None, help="server program, such as redis-server")
    parser.addoption("--long", action="store_true", help="the long form: every case, not some")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is only in the long form."""
    if not config.getoption("--long"):
        reason = "nearly as another test: in the long form only (--long)"
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Restore the root logger: a program that a test runs here logs to the test's streams."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def telemetry_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the global providers: a program that a test runs here installs its own."""
    for module, kind in ((otel_trace, "TRACER"), (otel_metrics, "METER"), (otel_logs, "LOGGER")):
        monkeypatch.setattr(module, f"_{kind}_PROVIDER", vars(module)[f"_{kind}_PROVIDER"])
        monkeypatch.setattr(module, f"_{kind}_PROVIDER_SET_ONCE", Once())


@pytest.fixture(scope="session")
def server_binary(request: pytest.FixtureRequest) -> str | None:
    """The server program from `--server-binary`; None for the bundled one."""
    binary: str | None = request.config.getoption("--server-binary")
    return binary


@pytest.fixture(scope="session")
def server(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server that all tests share: use it only in the namespace of the test."""
    with EmbeddedServer(binary=server_binary) as shared:
        yield shared


@pytest.fixture
def own_server(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server for one test, which may configure, suspend or kill it."""
    with EmbeddedServer(binary=server_binary) as own:
        yield own


@pytest.fixture
def pair(server_binary: str | None) -> Iterator[Pair]:
    """A primary and its replica."""
    with replicated(server_binary) as made:
        yield made


@pytest.fixture
def names(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Names:
    """The name, which leads to the primary."""
    made = Names(pair.first_port)
    monkeypatch.setattr(socket, "getaddrinfo", made.resolve)
    return made


@pytest.fixture
def namespace() -> str:
    """A namespace for one test."""
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def bus(server: EmbeddedServer, namespace: str) -> AsyncIterator[Bus]:
    """A bus in the test's namespace; afterwards no key without a TTL may be left over."""
    async with Bus(server.url, namespace=namespace) as made:
        yield made
        await _no_key_leaks(made)


async def _no_key_leaks(bus: Bus) -> None:
    """Assert that each key has a TTL, except command streams and the state of what still runs."""
    call = bus.command
    own = bus.session().inbox.key
    leaked = []
    for raw in await call("KEYS", bus.key("*")):
        key = raw.decode()
        record = key.startswith(bus.key("request:")) and not key.endswith(":stages")
        # The records of a saga, and its journal, get their TTL when the saga ends.
        live = False
        if record:
            found = await record_of(bus, key.removeprefix(bus.key("request:")))
            live = bool(found) and (
                found["status"] not in TERMINAL_STAGES or bool(found["saga_id"])
            )
        journal = key.startswith(bus.key("saga:")) and not key.endswith(":replies")
        schedule = key.startswith(bus.key("schedule:"))
        if (
            key.endswith((":commands", ":dead", ":instance", ":open", ":stuck", ":schedules"))
            or schedule
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
    """The folder of real floor maps; None if EXPLORATION_MAPS is not set."""
    return _Environment().exploration_maps


@pytest.fixture(autouse=True)
def no_blocked_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which the library blocks the event loop: a blocked loop may lose a lease."""
    if request.node.get_closest_marker("blocking"):
        yield
        return
    with blockbuster_ctx(scanned_modules=["sagastream"]) as blocking:
        # The lock of a coverage run, for which its threads wait on a slow machine.
        blocking.functions["threading.Lock.acquire"].can_block_in(
            "coverage/collector.py", "lock_data"
        )
        yield
