"""Complete missions with unknown poses."""

import json
from pathlib import Path

import pytest

from app.exploration.map_files import load_map
from tests.integration.conftest import run

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]

_UNKNOWN = ("app.orchestrator", "--robots", "2", "--unknown-poses", "-o", "json")


def test_maps_of_two_robots_are_merged(running: dict[str, str]) -> None:
    """Two maps are merged into one accurate map, with the pose of each robot in it."""
    ended = run(*_UNKNOWN, "--area", "cave", "--seed", "1", env=running, timeout=150)

    assert ended.code == 0, ended.err
    report = ended.json
    assert report["status"] == "completed"
    assert report["partial"] is False
    assert report["coverage"] >= 0.98
    assert report["accuracy"] >= 0.93
    written = json.loads(Path(report["artifacts"]["report"]).read_text())
    assert len(written["parties"]) == 1
    merged = load_map(Path(report["artifacts"]["map_yaml"]))
    for x, y, _ in written["poses"].values():
        assert merged.grid[merged.frame.cell(x, y)] == 0


def test_ambiguous_maps_stay_separate(running: dict[str, str]) -> None:
    """Symmetric rooms are ambiguous: the maps are not merged."""
    ended = run(*_UNKNOWN, "--area", "rooms", env=running, timeout=150)

    assert ended.code == 0, ended.err
    report = ended.json
    assert report["status"] == "completed"
    assert report["partial"] is True
    place = Path(report["artifacts"]["map_yaml"]).parent
    assert load_map(place / "map-2.yaml").grid.size
    assert len(json.loads((place / "report.json").read_text())["parties"]) == 2
