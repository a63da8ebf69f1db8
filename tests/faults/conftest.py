"""A server with an append-only file for each test, and the table of what all of them saw."""

from collections.abc import Iterator

import pytest

from sagastream.testing import EmbeddedServer
from tests.faults.figures import Figures

_FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the table."""
    config.stash[_FIGURES] = Figures()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End with the commands that were struck, and the table."""
    figures = config.stash[_FIGURES]
    for title, text in (("points", figures.points()), ("what was tried", figures.table())):
        if text:
            terminalreporter.section(title)
            terminalreporter.write_line(text)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """The table that every test adds its row to."""
    return request.config.stash[_FIGURES]


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether every point is to be tried, not some."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def store(server_binary: str | None) -> Iterator[EmbeddedServer]:
    """A server whose data survive it."""
    with EmbeddedServer(aof=True, binary=server_binary) as running:
        yield running
