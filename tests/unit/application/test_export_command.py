"""`mission export`: one line for what is wrong, files for what is right."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app import config
from app.cli.main import app
from app.config import get_settings
from app.missions import mission_saga
from sagastream.testing import EmbeddedServer
from tests.integration.recorded_missions import put_recording
from tests.plain_client import connect

pytestmark = pytest.mark.blocking


@pytest.fixture
def recorded(own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A mission of an earlier commit, on a server that REDIS_URL names; returns its id."""

    async def nothing(saga_id: str, step: str) -> None:
        """Send no Celery task."""

    monkeypatch.setattr(mission_saga, "dispatch", nothing)
    monkeypatch.setattr(config, "_chosen", {})
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    monkeypatch.setenv("REDIS_URL", own_server.url)
    monkeypatch.chdir(tmp_path)
    client = connect(own_server.url)
    saga_id = put_recording(client)
    client.zadd("sagas:mission:ended", {saga_id: 4e12})
    return saga_id


def _command(*arguments: str) -> Result:
    """Run a command as a new process would."""
    config._chosen.clear()
    get_settings.cache_clear()
    try:
        return CliRunner().invoke(app, ["export", *arguments])
    finally:
        get_settings.cache_clear()


def test_all_files_are_written_in_one_call(recorded: str, tmp_path: Path) -> None:
    """Given a mission that an earlier commit recorded, then all its files are written."""
    result = _command(
        *(recorded[:8], "--mcap", "a.mcap", "--geojson", "a.json", "--pose-graph", "a.g2o"),
        *("--anchor=-33.9,18.4,30", "-o", "json"),
    )
    assert result.exit_code == 0, result.output
    assert sorted(each.name for each in tmp_path.glob("a.*")) == ["a.g2o", "a.json", "a.mcap"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "name at least one file: --mcap, --geojson, --pose-graph"),
        (("--mcap", "no/such.mcap"), "--mcap: no/such.mcap cannot be written"),
        (("--pose-graph", "."), "--pose-graph: . cannot be written"),
        (("--mcap", "a.mcap", "--anchor", "91,0"), "--anchor: latitude: must be from -89 to 89"),
        (("--mcap", "a.mcap", "--anchor", "north"), "--anchor: 'north': give LAT,LON"),
    ],
)
def test_bad_options_are_refused(
    recorded: str, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    """Given a bad option, then one line names it, and nothing is written."""
    result = _command(recorded, *options)
    assert result.exit_code == 2
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
