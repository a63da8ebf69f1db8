"""`mission dev`: how its output reads, and how other commands find its server."""

import json
from pathlib import Path

import pytest

from app import config
from app.cli.dev_server import announced, folder_of, running_dev_server, use_dev_server
from app.cli.kept_missions import kept_server
from app.cli.part_output import readable
from app.config import choose_settings


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("", ""),
        ("plain text", "plain text"),
        (" -------------- celery@host v5.7.0", ""),
        ('{"a": 1}', '{"a": 1}'),
        (
            json.dumps(
                {"event": "request completed", "level": "info", "event_type": "map:integrate"}
            ),
            "request completed  map:integrate",
        ),
        (
            json.dumps({"event": "request started", "level": "info", "event_type": "robot:drive"}),
            "",
        ),
        (
            json.dumps({"event": "lost", "level": "warning", "event_type": "robot:drive"}),
            "WARNING lost  robot:drive",
        ),
        (json.dumps({"event": "Started", "level": "info", "logger": "uvicorn.error"}), ""),
        (
            json.dumps(
                {"event": "failed", "level": "error", "saga_id": "m1", "exception": "E: no"}
            ),
            "ERROR failed  saga_id m1  E: no",
        ),
    ],
)
def test_lines_of_logs_read_well(line: str, shown: str) -> None:
    """Those of missions in words, warnings always, and the many of robots not at all."""
    assert readable(line) == shown


def test_other_commands_use_the_server_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless REDIS_URL names another, or the folders of the workers are others."""
    monkeypatch.setattr(config, "_chosen", {})
    monkeypatch.delenv("REDIS_URL", raising=False)
    folders = {"data_dir": tmp_path, "map_dir": tmp_path / "maps", "out_dir": tmp_path / "out"}
    settings = choose_settings(**folders)
    assert running_dev_server(settings) is None
    assert use_dev_server(settings) == settings
    with kept_server(folder_of(settings)) as url:
        monkeypatch.setattr(config, "_chosen", {})
        with announced(choose_settings(**folders, redis_url=url)):
            monkeypatch.setattr(config, "_chosen", {})
            settings = choose_settings(**folders)
            found = running_dev_server(settings)
            assert found is not None
            assert found.url == url
            assert use_dev_server(settings, same_folders=True).redis_url == url
            monkeypatch.setattr(config, "_chosen", {})
            other = choose_settings(**folders | {"map_dir": tmp_path / "others"})
            assert use_dev_server(other, same_folders=True) == other
            monkeypatch.setattr(config, "_chosen", {})
            named = choose_settings(**folders, redis_url="redis://127.0.0.1:1/0")
            assert use_dev_server(named) == named
    monkeypatch.setattr(config, "_chosen", {})
    assert running_dev_server(choose_settings(**folders)) is None
