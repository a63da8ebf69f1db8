"""A mission as MCAP, GeoJSON and g2o: read back by implementations that did not write it."""

import asyncio
import hashlib
import json
import math
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import gtsam
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from app.exploration.driver import DriveReport, Patch, Pose
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, GridFrame
from app.exploration.planning.robot_history import PlannerState
from app.export.anchor import Anchor, BadAnchor
from app.export.geojson import features_of
from app.export.mcap_file import McapFile
from app.export.mission_files import NothingRecorded, write_files
from app.export.mission_messages import MissionMessages
from app.export.pose_graph_file import graph_of
from app.missions.checkpoints import encode_state
from app.missions.frames import FrameEncoder
from app.missions.mission_saga import mission_runner
from app.robots.codecs import encode_patch
from sagastream import Bus
from tests.made_missions import (
    GRID,
    MISSION,
    add_stage,
    make_frame,
    random_cells,
    record_frames,
    start_mission,
)
from tests.node_peer import install_peer, node_tool
from tests.plain_client import add_entry

pytestmark = pytest.mark.blocking

_TYPES = get_typestore(Stores.ROS2_HUMBLE)


async def _write(**files: Any) -> None:
    await write_files((await mission_runner().journal(MISSION)).input, **files)


def _read(path: Path) -> list[tuple[int, str, Any]]:
    """Time, topic and message of all messages, by an MCAP and CDR reader that wrote neither."""
    with Reader(path) as reader:
        return [
            (time_ns, connection.topic, _TYPES.deserialize_cdr(data, connection.msgtype))
            for connection, time_ns, data in reader.messages()
        ]


def _of(path: Path, topic: str) -> list[Any]:
    return [message for _, each, message in _read(path) if each == topic]


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def _log(path: Path) -> str:
    return "\n".join(each.msg for each in _of(path, "/mission/log"))


@pytest.fixture
def now_ms() -> int:
    """A time on the server after the start of the mission."""
    return 2_000_000_000_000


async def test_every_channel_is_decoded_by_two_other_readers(
    app_bus: Bus, tmp_path: Path, now_ms: int
) -> None:
    """Given a mission, when it is exported, then all decodes, in order, and the last map is exact."""
    await start_mission()
    frames = [make_frame(number) for number in range(1, 5)]
    await record_frames(app_bus, frames, at_ms=now_ms)
    await add_stage(app_bus, "exploration:perform", "progress", {"fraction": 0.5}, at_ms=now_ms + 1)
    path = tmp_path / "mission.mcap"

    await _write(mcap=path, anchor=Anchor(52.0, 13.0))

    found = _read(path)
    times = [time_ns for time_ns, _, _ in found]
    assert times == sorted(times)
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        decoded = Counter(channel.topic for _, channel, _, _ in reader.iter_decoded_messages())
    assert decoded == Counter(topic for _, topic, _ in found)
    assert {
        *("/map", "/tf", "/anchor", "/mission/frontiers", "/mission/robots", "/mission/log"),
        *("/mission/steps", "/mission/simulated_s", "/mission/known_fraction"),
        *("/robot_01/pose", "/robot_01/path", "/robot_01/plan", "/robot_01/goal", "/robot_01/fix"),
    } <= set(decoded)
    last = _of(path, "/map")[-1]
    assert bytes(last.data) == frames[-1].cells.tobytes()
    assert (last.info.width, last.info.height) == (GRID.cols, GRID.rows)
    assert last.info.origin.position.x == GRID.origin_x
    (*_, pose) = _of(path, "/robot_02/pose")
    assert (pose.pose.position.x, pose.pose.position.y) == (4.0, 1.0)
    assert 2 * math.atan2(pose.pose.orientation.z, pose.pose.orientation.w) == pytest.approx(0.5)


async def test_the_libraries_of_foxglove_decode_it(
    app_bus: Bus, tmp_path: Path, now_ms: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Given a mission, then @mcap/core in node decodes every channel, and has the same last map."""
    node_modules = install_peer(
        Path(__file__).parents[2] / "mcap_peer", tmp_path_factory.mktemp("mcap_peer")
    )
    await start_mission()
    frames = [make_frame(number) for number in range(1, 5)]
    await record_frames(app_bus, frames, at_ms=now_ms)
    await add_stage(app_bus, "exploration:perform", "progress", {"fraction": 0.5}, at_ms=now_ms + 1)
    path = tmp_path / "mission.mcap"
    await _write(mcap=path)

    command = [node_tool("node"), str(node_modules / "read.js"), str(path)]
    found = json.loads(await asyncio.to_thread(subprocess.check_output, command, timeout=60))

    assert found["counts"] == Counter(topic for _, topic, _ in _read(path))
    assert found["monotonic"]
    assert found["done"]
    assert found["map"] == hashlib.sha256(frames[-1].cells.tobytes()).hexdigest()


async def test_a_resumed_handler_moves_no_time_back_and_doubles_no_path(
    app_bus: Bus, tmp_path: Path, now_ms: int
) -> None:
    """Given a handler that continues from an older checkpoint, then its path replaces the first's."""
    await start_mission()
    await record_frames(app_bus, [make_frame(1), make_frame(4)], at_ms=now_ms)
    await record_frames(app_bus, [make_frame(2), make_frame(3)], at_ms=now_ms + 5000)
    await add_stage(app_bus, "exploration:perform", "start", {}, at_ms=now_ms)
    await add_stage(app_bus, "exploration:perform", "start", {}, at_ms=now_ms + 5000, epoch=2)
    path = tmp_path / "mission.mcap"

    await _write(mcap=path)

    times = [time_ns for time_ns, _, _ in _read(path)]
    assert times == sorted(times)
    simulated = [message.data for message in _of(path, "/mission/simulated_s")]
    assert simulated == [10.0, 40.0, 20.0, 30.0]
    track = _of(path, "/robot_01/path")[-1].poses
    assert [each.pose.position.x for each in track] == [0.0, 1.0, 2.0, 3.0]
    assert _log(path).count("took over") == 1


def test_times_never_go_back() -> None:
    """Given a time before the last one, then its messages have the last one."""
    messages = MissionMessages()
    (first, _) = messages.stage(7, {"event_type": "e", "status": "start"})
    (second,) = messages.note(3, "late")
    assert (first.time_ns, second.time_ns) == (7, 7)


async def test_a_huge_map_is_written_less_often_and_its_last_state_always(
    app_bus: Bus, tmp_path: Path, now_ms: int
) -> None:
    """Given a map of 4 million cells that changes every 10 ms, then the first and the last are in."""
    await start_mission()
    grid = GridFrame(2000, 2000, 0.05)
    shapes = []
    for number in range(1, 6):
        cells = np.full((grid.rows, grid.cols), UNKNOWN, np.int8)
        cells[: number * 100, :50] = FREE
        shapes.append(cells)
    frames = [make_frame(number, cells=cells) for number, cells in enumerate(shapes, 1)]
    await record_frames(app_bus, frames, at_ms=now_ms, grid=grid, every_ms=10)
    path = tmp_path / "mission.mcap"

    await _write(mcap=path)

    first, last = _of(path, "/map")
    assert bytes(first.data) == shapes[0].tobytes()
    assert bytes(last.data) == shapes[-1].tobytes()
    assert len(_of(path, "/robot_01/pose")) == len(frames)


async def test_the_maps_of_the_robots_are_exported(
    app_bus: Bus, tmp_path: Path, now_ms: int
) -> None:
    """Given robots that each have a map, then each map has its frame, and the merged map places it."""
    await start_mission(known_poses=False)
    evidence = np.array([[0, 40], [-40, 0], [40, 0]], np.int8)
    encoded = await encode_patch(Patch(2, 3, evidence))
    result = {
        "frame": GRID.to_dict(),
        "robots": ["robot-01", "robot-02"],
        "maps": [encoded, encoded],
        "last_poses": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    }
    merged = {
        "parties": [["robot-01"], ["robot-02"]],
        "poses": {"robot-01": [3.0, 4.0, math.pi / 2], "robot-02": [0.0, 0.0, 0.0]},
    }
    await add_stage(app_bus, "exploration:perform", "completed", result, at_ms=now_ms)
    await add_stage(app_bus, "map:integrate", "completed", merged, at_ms=now_ms + 1)
    path = tmp_path / "mission.mcap"

    await _write(mcap=path)

    (own,) = _of(path, "/robot_01/map")
    assert own.header.frame_id == "robot_01/map"
    assert own.data.tolist() == [UNKNOWN, OCCUPIED, FREE, UNKNOWN, OCCUPIED, UNKNOWN]
    assert own.info.origin.position.x == pytest.approx(GRID.origin_x + 3 * GRID.resolution)
    ((placed,),) = [each.transforms for each in _of(path, "/tf_static")]
    assert (placed.header.frame_id, placed.child_frame_id) == ("map", "robot_01/map")
    # One metre ahead of its start, the robot is at (3, 4) and looks up.
    assert placed.transform.translation.x == pytest.approx(3.0)
    assert placed.transform.translation.y == pytest.approx(3.0)


async def test_an_undone_mission_has_the_maps_of_its_checkpoint(
    app_bus: Bus, tmp_path: Path, now_ms: int
) -> None:
    """Given a mission that was compensated, then the maps of the robots until then are exported."""
    await start_mission()
    patch = Patch(1, 1, np.full((2, 2), 40, np.int8))
    report = DriveReport(1.0, Pose(0.0, 0.0), 0.0, ((0.0, 0.0),), 0, False, False, patch)
    empty = np.zeros((GRID.rows, GRID.cols), np.uint8)
    state = PlannerState((report,), (), 1, None, empty, empty.astype(np.bool_))
    progress = {"checkpoint": await encode_state(state), "robots": {"robot-01": {}}}
    planned = {"frame": GRID.to_dict()}
    await add_stage(app_bus, "routing:plan", "completed", planned, at_ms=now_ms)
    await add_stage(app_bus, "exploration:perform", "progress", progress, at_ms=now_ms + 1)
    failure = {"error_type": "TooFewLeft", "message": "1 of 2 robots are left"}
    await add_stage(app_bus, "exploration:perform", "failed", failure, at_ms=now_ms + 2)
    await add_stage(app_bus, "resources:release", "completed", {}, at_ms=now_ms + 3)
    path = tmp_path / "mission.mcap"

    await _write(mcap=path)

    (own,) = _of(path, "/robot_01/map")
    assert own.data.tolist() == [OCCUPIED] * 4
    assert own.header.frame_id == "map"
    failed = next(each for each in _of(path, "/mission/log") if "TooFewLeft" in each.msg)
    assert failed.level == 40


_NO_NUMBER = json.dumps(FrameEncoder(GRID).encode(make_frame(1))[-1] | {"frontiers": [["x", 0]]})


async def test_what_is_malformed_or_gone_is_in_the_log_and_hides_nothing(
    app_bus: Bus, tmp_path: Path, now_ms: int
) -> None:
    """Given broken entries and a map that expired, then the rest is exported, and the log says so."""
    await start_mission()
    frame = make_frame(1)
    await record_frames(app_bus, [frame], at_ms=now_ms)
    for name, text in (("a", "no JSON"), ("b", '{"cells": 3}'), ("c", _NO_NUMBER)):
        fields = {"request_id": name, "event_type": "e", "status": "progress", "payload": text}
        entry_id = f"{2**63}-{ord(name)}"  # long after the times of ROS
        await add_entry(app_bus, f"missions:{MISSION}:frames", fields, entry_id=entry_id)
    patch = {"row0": 0, "col0": 0, "shape": [1, 1], "cells": "0" * 64}
    result = {"frame": GRID.to_dict(), "robots": ["robot-01"], "maps": [patch]}
    await add_stage(app_bus, "exploration:perform", "completed", result, at_ms=now_ms + 1)
    await add_stage(app_bus, "map:integrate", "completed", {"poses": 7}, at_ms=now_ms + 2)
    path = tmp_path / "mission.mcap"

    await _write(mcap=path, geojson=tmp_path / "map.json")

    assert '"frontier"' in (tmp_path / "map.json").read_text()

    assert bytes(_of(path, "/map")[-1].data) == frame.cells.tobytes()
    log = _log(path)
    assert log.count(f"frame {2**63}-") == 3
    assert "no longer stored" in log
    assert "cannot be read" in log


async def test_sixty_four_robots_have_their_channels(
    app_bus: Bus, tmp_path: Path, now_ms: int
) -> None:
    """Given 64 robots, some with names that ROS does not allow, then each has channels of its name."""
    await start_mission()
    names = [f"robot-{number:02d}" for number in range(61)] + ["7 of 9", "robot_01", "map"]
    await record_frames(app_bus, [make_frame(2, names)], at_ms=now_ms)
    path = tmp_path / "mission.mcap"

    await _write(mcap=path)

    topics = {topic for _, topic, _ in _read(path) if topic.endswith("/pose")}
    assert len(topics) == 64
    assert {"/robot_01/pose", "/robot_01_2/pose", "/robot_7_of_9/pose", "/robot_map/pose"} <= topics
    (transforms,) = _of(path, "/tf")
    assert len(transforms.transforms) == 64


async def test_a_mission_without_a_recording_leaves_no_file(app_bus: Bus, tmp_path: Path) -> None:
    """Given a mission that has no map yet, then no file is written, and an older one stays."""
    await start_mission()
    path = tmp_path / "mission.mcap"
    path.write_text("older")

    with pytest.raises(NothingRecorded, match="has no recording"):
        await _write(mcap=path, geojson=tmp_path / "map.json")

    assert [each.name for each in _files(tmp_path)] == ["mission.mcap"]
    assert path.read_text() == "older"


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    """Given an error while a file is written, then nothing of it is left."""
    with pytest.raises(KeyboardInterrupt), McapFile(tmp_path / "mission.mcap", {}):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def _ring_area(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_cover_exactly_the_cells(seed: int) -> None:
    """Given any cells, then the areas of the polygons less their holes are those of the cells."""
    frame = make_frame(1, cells=random_cells(seed))
    found = json.loads(features_of(frame, GRID, {"robot-01": [(0.0, 0.0), (1.0, 0.0)]}))
    for kind, value in (("free", FREE), ("wall", OCCUPIED)):
        (area,) = (
            each["geometry"]["coordinates"]
            for each in found["features"]
            if each["properties"]["kind"] == kind
        )
        total = sum(_ring_area(ring) for polygon in area for ring in polygon)
        assert total == pytest.approx(float((frame.cells == value).sum()) * GRID.resolution**2)
        assert all(_ring_area(polygon[0]) > 0 for polygon in area)
        assert all(ring[0] == ring[-1] for polygon in area for ring in polygon)
    assert "metres" in found["coordinates_are"]


def test_an_anchor_places_the_map_on_the_earth() -> None:
    """Given an anchor, then coordinates are longitude and latitude, turned by its heading."""
    frame = make_frame(1)
    found = json.loads(features_of(frame, GRID, {}, Anchor(0.0, 179.9999, 90.0)))
    assert "coordinates_are" not in found
    # The lengths of a degree at the equator are those of NIMA TR8350.2.
    latitude, longitude = Anchor(0.0, 10.0).place_of((111.3195, 110.5743))
    assert (latitude, longitude) == pytest.approx((0.001, 10.001), abs=1e-8)
    # The y axis points east: what is up on the map is east.
    latitude, longitude = Anchor(0.0, 179.9999, 90.0).place_of((0.0, 111.3195))
    assert (latitude, longitude) == pytest.approx((0.0, -179.9991), abs=1e-8)


@pytest.mark.parametrize("text", ["1", "a,b", "1,2,3,4", "nan,1", "90,0", "0,181", "1,2,inf", ","])
def test_a_bad_anchor_is_refused(text: str) -> None:
    """Given an anchor that is malformed or out of range, then the error says what to give."""
    with pytest.raises(BadAnchor, match=r"give LAT|must be from"):
        Anchor.parse(text)


def test_a_pose_graph_is_read_by_gtsam(tmp_path: Path) -> None:
    """Given two paths, then another reader of g2o has their poses, and the edges fit them."""
    paths = {"one": [(0.0, 0.0), (1.0, 0.0), (1.0, 2.0)], "two": [(5.0, 5.0)]}
    path = tmp_path / "paths.g2o"
    path.write_text(graph_of(paths))

    graph, values = gtsam.readG2o(str(path), False)

    assert values.size() == 4
    assert graph.size() == 2
    assert graph.error(values) == pytest.approx(0.0)
    last = values.atPose2(2)
    assert (last.x(), last.y(), last.theta()) == pytest.approx((1.0, 2.0, math.pi / 2))
