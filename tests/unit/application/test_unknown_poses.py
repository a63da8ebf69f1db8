"""The steps of a mission with unknown poses, run one after the other."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from app.command_handlers.handlers.integrate_maps import integrate_maps
from app.command_handlers.handlers.perform_exploration import perform_exploration
from app.command_handlers.handlers.plan_route import plan_route
from app.config import choose_settings, get_settings
from app.exploration.grid import FREE, FloorMap
from app.exploration.map_files import load_map, save_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.halls_and_caves import draw_cave
from app.redis_utils import request_and_reply
from sagastream import Bus, Handler
from tests.listeners import listening
from tests.unit.application.test_robots import _allocate, robots

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(300)]

CAVE = draw_cave(5, width=12.0, height=10.0)


async def _step(
    bus: Bus, handler: Handler, event_type: str, mission: dict[str, Any]
) -> dict[str, Any]:
    """Run one step and return the payload of the next one."""
    async with listening(bus, [handler]):
        reply = await request_and_reply(handler.stream, event_type, mission, timeout=250.0)
    return dict(mission | reply["payload"])


def _report(ended: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(Path(ended["artifacts"]["report"]).read_text()))


async def _explored(bus: Bus, floor: FloorMap, place: Path, names: Sequence[str]) -> dict[str, Any]:
    """Explore a floor with unknown poses and integrate the maps."""
    save_map(place / "floor.yaml", floor.grid, floor.frame)
    choose_settings(map_dir=place, out_dir=place / "out", robot_seen_s=600, robot_timeout_s=250)
    async with robots(bus, names):
        chosen = await _allocate(bus, "m1", len(names))
        mission: dict[str, Any] = {
            "mission": "m1",
            "area": "floor",
            "seed": 1,
            "known_poses": False,
            "robots": chosen,
        }
        mission = await _step(bus, plan_route, "routing:plan", mission)
        assert mission["frame"]["rows"] > floor.frame.rows
        mission = await _step(bus, perform_exploration, "exploration:perform", mission)
    return await _step(bus, integrate_maps, "map:integrate", mission)


async def test_maps_in_different_frames_are_merged(app_bus: Bus, tmp_path: Path) -> None:
    """One accurate map results, and each robot's pose is in its free space."""
    ended = await _explored(app_bus, CAVE, tmp_path, ["r1", "r2"])

    assert ended["partial"] is False
    assert ended["parties"] == [ended["robots"]]
    assert ended["coverage"] >= 0.98
    assert ended["accuracy"] >= 0.93
    merged = load_map(Path(ended["artifacts"]["map_yaml"]))
    for x, y, _ in ended["poses"].values():
        assert merged.grid[merged.frame.cell(x, y)] == FREE
    with Reader(ended["artifacts"]["mcap"]) as reader:
        types = get_typestore(Stores.ROS2_HUMBLE)
        maps = [data for connection, _, data in reader.messages() if connection.topic == "/map"]
        last: Any = types.deserialize_cdr(maps[-1], "nav_msgs/msg/OccupancyGrid")
    assert bytes(last.data) == merged.grid.tobytes()


async def test_a_result_survives_a_recording_that_cannot_be_converted(
    app_bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map is integrated even if the file for other tools cannot be written."""

    def fail(*_: object) -> None:
        raise RuntimeError("of the test")

    monkeypatch.setattr("app.export.mission_files.McapFile", fail)
    ended = await _explored(app_bus, draw_rooms(2), tmp_path, ["r1"])

    assert "mcap" not in ended["artifacts"]
    assert load_map(tmp_path / "out" / "m1" / "map.yaml").grid.size


async def test_ambiguous_maps_are_not_merged(app_bus: Bus, tmp_path: Path) -> None:
    """Two symmetric rooms are ambiguous: nothing is merged, and the mission is partial."""
    ended = await _explored(app_bus, draw_rooms(2), tmp_path, ["r1", "r2"])

    assert ended["partial"] is True
    assert sorted(ended["parties"]) == [[name] for name in sorted(ended["robots"])]
    assert _report(ended)["partial"] is True
    assert load_map(tmp_path / "out" / "m1" / "map-2.yaml").grid.size
    assert get_settings().out_dir == tmp_path / "out"
