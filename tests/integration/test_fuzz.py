"""Mutations of real data while mission control is at work; `scripts/fuzz.py` is the long form."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import get_settings
from tests.fuzz import campaign, streams

pytestmark = pytest.mark.blocking

_MOST_GROWTH = 2.0


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Reset the settings afterwards."""
    yield
    get_settings.cache_clear()


@pytest.mark.invariant(14)
@pytest.mark.timeout(3000)
def test_no_mutation_harms_mission_control(
    tmp_path: Path, server_binary: str | None, request: pytest.FixtureRequest
) -> None:
    """No answer of 500, no traceback, no process lost, memory within twice; missions complete."""
    mutations = 100_000 if request.config.getoption("--long") else 1000
    found = campaign.run(tmp_path, mutations=mutations, seed=1, binary=server_binary)
    assert (found.faults, found.lost) == ([], [])
    assert found.statuses["200"] > 0
    assert max(found.growth.values()) <= _MOST_GROWTH
    assert found.completed


def test_many_event_streams_get_everything(tmp_path: Path) -> None:
    """Some of their clients read nothing; the page has a handful of connections to the server."""
    found = streams.run(tmp_path, streams=200, stuck=20)
    assert found.complete == 180
    assert found.connections <= 5
    assert found.page_mb <= 2 * found.page_before_mb
