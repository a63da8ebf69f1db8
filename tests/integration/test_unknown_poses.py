"""Whole missions of robots that do not know where they are."""

import json
from pathlib import Path

import pytest

from app.exploration.map_files import load_map
from tests.integration.conftest import run

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(180)]

_UNKNOWN = ("app.orchestrator", "--robots", "2", "--unknown-poses", "-o", "json")


def test_robots_with_maps_of_their_own_bring_back_one(running: dict[str, str]) -> None:
    """Two maps in two frames become one, which is right, and says where each robot stands in it."""
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


def test_maps_that_could_lie_two_ways_stay_apart(running: dict[str, str]) -> None:
    """Two equal rooms look the same from both sides: no merge is right for certain, and none is made."""
    ended = run(*_UNKNOWN, "--area", "rooms", env=running, timeout=150)

    assert ended.code == 0, ended.err
    report = ended.json
    assert report["status"] == "completed"
    assert report["partial"] is True
    place = Path(report["artifacts"]["map_yaml"]).parent
    assert load_map(place / "map-2.yaml").grid.size
    assert len(json.loads((place / "report.json").read_text())["parties"]) == 2
