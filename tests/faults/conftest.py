"""A server with an append-only file for each test, and one table of the results of all tests."""

from collections.abc import Iterator

import pytest
import redis

from sagastream.testing import EmbeddedServer
from tests.faults.report import Report

_REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the table."""
    config.stash[_REPORT] = Report()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the commands at which processes were killed, and the table."""
    report = config.stash[_REPORT]
    for title, text in (("points", report.points()), ("what was tried", report.table())):
        if text:
            terminalreporter.section(title)
            terminalreporter.write_line(text)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """The table that each test adds rows to."""
    return request.config.stash[_REPORT]


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether to run the long form, which tries each point."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def store(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server for one test, which keeps its data when it is killed."""
    with EmbeddedServer(aof=True, fsync="always", binary=server_binary) as own:
        yield own


@pytest.fixture
def client(store: EmbeddedServer) -> Iterator["redis.Redis"]:
    """A connection to the server."""
    with redis.Redis.from_url(store.url) as made:
        yield made
