"""Missions are found after their `mission run`, by their ids or the beginning of them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app import config
from app.cli import kept_missions
from app.cli.main import app
from app.config import choose_settings, get_settings
from app.missions import mission_saga
from app.missions.mission_ids import match_id
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus
from sagastream.errors import SagaError
from sagastream.testing import EmbeddedServer
from tests.plain_client import add_entry

pytestmark = pytest.mark.blocking

_STARTED = "mission-one"


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty DATA_DIR, no server named, and nothing at the default address."""

    async def nothing(saga_id: str, step: str) -> None:
        """Send no Celery task."""

    monkeypatch.setattr(mission_saga, "dispatch", nothing)
    monkeypatch.setattr(config, "_chosen", {})
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    monkeypatch.setattr(kept_missions, "_answers", lambda: False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    get_settings.cache_clear()
    yield tmp_path / "data"
    get_settings.cache_clear()


def _command(*arguments: str) -> Result:
    """Run a command as a new process would."""
    config._chosen.clear()
    get_settings.cache_clear()
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "40"})


async def _start(saga_id: str) -> None:
    async with get_bus():
        given = {"mission": saga_id, "area": "room", "robot_count": 2, "seed": 0}
        await mission_runner().start(given, saga_id=saga_id)


async def _undo(saga_id: str) -> None:
    async with get_bus():
        await mission_runner().compensate(saga_id, "enough")


def _keep(saga_id: str, *, ended: bool = True) -> None:
    """Keep a mission as `mission run` does."""
    get_settings.cache_clear()
    with kept_missions.new_server(saga_id) as url:
        choose_settings(redis_url=url)
        asyncio.run(_start(saga_id))
        if ended:
            asyncio.run(_undo(saga_id))
    config._chosen.clear()


def test_missions_are_found_when_their_servers_have_ended() -> None:
    """`list` has all, newest first, with whole ids on a narrow terminal; `show` takes a beginning."""
    _keep(_STARTED)
    _keep("other-mission-with-an-id-of-a-length-of-48-chars")
    for _ in range(2):  # read from the server, then from what was noted
        listed = json.loads(_command("list", "-o", "json").stdout)
        assert [(one["saga_id"], one["status"]) for one in listed] == [
            ("other-mission-with-an-id-of-a-length-of-48-chars", "compensated"),
            (_STARTED, "compensated"),
        ]
        assert 0 <= listed[1]["age_s"] < 60
    table = _command("list").stdout
    assert _STARTED in table
    assert "other-mission-with-an-id-of-a-length-of-48-chars" in table
    assert json.loads(_command("show", "miss", "-o", "json").stdout)["saga_id"] == _STARTED
    replayed = _command("replay", "other")
    assert "mission other-mission-with-an-id-of-a-length-of-48-chars has no rec" in replayed.stderr


def test_a_mission_is_found_while_its_server_runs() -> None:
    """Another terminal uses the server of the running `mission run`."""
    with kept_missions.new_server(_STARTED) as url:
        choose_settings(redis_url=url)
        asyncio.run(_start(_STARTED))
        (listed,) = json.loads(_command("list", "-o", "json").stdout)
        assert (listed["saga_id"], listed["status"]) == (_STARTED, "running")
        cancelled = _command("show", _STARTED[:3], "-o", "json")
        assert json.loads(cancelled.stdout)["status"] == "running"


def test_a_mission_that_was_killed_is_shown_as_interrupted(data_dir: Path) -> None:
    """Nothing can be done to it, and each verb says so."""
    _keep(_STARTED, ended=False)
    (data_dir / _STARTED / "url").write_text("unix:///nowhere")  # SIGKILL leaves it behind
    (listed,) = json.loads(_command("list", "-o", "json").stdout)
    assert listed["status"] == "interrupted"
    for verb in ("cancel", "resume", "compensate"):
        result = _command(verb, _STARTED)
        assert result.exit_code == 1
        assert "have ended with their `mission run`; nothing was done" in result.stderr


@pytest.mark.parametrize("verb", ["cancel", "resume", "compensate"])
def test_an_ended_mission_is_not_changed(verb: str) -> None:
    """Exit code 1, a line that says that nothing was done, and the report as JSON."""
    _keep(_STARTED)
    result = _command(verb, _STARTED, "-o", "json")
    assert result.exit_code == 1
    assert (
        result.stderr == f"mission: mission {_STARTED} has already been undone; nothing was done\n"
    )
    assert json.loads(result.stdout)["status"] == "compensated"


def test_a_beginning_of_several_ids_is_refused() -> None:
    """The error lists them; a whole id is never ambiguous."""
    assert match_id("ab", ["abc", "xyz"]) == "abc"
    assert match_id("ab", ["ab", "abc"]) == "ab"
    assert match_id("b", ["abc"]) is None
    assert match_id("", ["abc"]) is None
    with pytest.raises(SagaError, match="2 missions begin with a: abc, axy; give more of the id"):
        match_id("a", ["axy", "abc", "b"])


@pytest.mark.parametrize("verb", ["show", "watch", "cancel", "resume", "compensate", "replay"])
def test_verbs_take_the_beginning_of_an_id(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """On a server of REDIS_URL too: ambiguous and unknown ones are refused."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("NAMESPACE", namespace)
    get_settings.cache_clear()
    for saga_id in ("abc", "axy"):
        asyncio.run(_start(saga_id))
        asyncio.run(_undo(saga_id))
    assert "2 missions begin with a: abc, axy" in _command(verb, "a").stderr
    assert "no saga nobody" in _command(verb, "nobody").stderr
    found = _command(verb, "ax")
    assert "axy" in found.stdout + found.stderr


def test_a_data_dir_that_cannot_be_written_keeps_nothing(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mission runs, and a line says that it will not be found."""
    data_dir.write_text("a file")
    with kept_missions.new_server(_STARTED) as url:
        assert url.startswith("unix://")
    assert "DATA_DIR: cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("option", [True, False])
def test_results_that_cannot_be_written_are_refused_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: bool
) -> None:
    """Exit code 2 and the option, or the variable, that named the folder."""
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "out")
    monkeypatch.setenv("OUT_DIR", folder)
    result = _command("run", *(("--out", folder) if option else ()))
    assert result.exit_code == 2
    name = "--out" if option else "OUT_DIR"
    assert result.stderr == f"mission: {name}: cannot write in {folder}: Not a directory\n"


def test_a_mission_without_workers_is_started_with_a_warning(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning names the kinds of workers that are missing, on standard error."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("NAMESPACE", namespace)
    result = _command("start", "--area", "office", "--id", _STARTED, "-o", "json")
    assert json.loads(result.stdout) == {"saga_id": _STARTED}
    assert "no workers of this kind: celery, listener, robots" in result.stderr


async def _tell(saga_id: str) -> float:
    async with get_bus() as bus:
        journal = await mission_runner().journal(saga_id)
        for status, after_s in (("start", 3), ("completed", 65.5)):
            fields = {
                "event_type": "map:integrate",
                "status": status,
                "correlation_id": "c",
                "request_id": "r",
                "payload": "{}",
                "timestamp": str(int((journal.started + after_s) * 1000)),
            }
            await add_entry(bus, f"saga:{saga_id}:replies", fields)
        return journal.started


def test_times_of_an_ended_mission_are_those_of_its_steps(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`watch` shows when each stage was written, not when it is read."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("NAMESPACE", namespace)
    get_settings.cache_clear()
    asyncio.run(_start(_STARTED))
    asyncio.run(_tell(_STARTED))
    asyncio.run(_undo(_STARTED))
    lines = [line.split() for line in _command("watch", _STARTED).stderr.splitlines()]
    assert ["3.0s", "integrate_maps:", "running"] in lines
    assert ["65.5s", "integrate_maps:", "completed"] in lines
