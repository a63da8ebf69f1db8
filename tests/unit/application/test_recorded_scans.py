"""Scans of a mission: from the robots' reports to a stream, and from there to an MCAP file."""

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from app.exploration.driver import LidarScan, Pose
from app.exploration.grid import FloorMap
from app.export.mission_files import write_files
from app.export.ros_messages import typestore
from app.missions.recording import RecordingWriter, scan_stream
from app.redis_utils import read_stream
from app.robots import fleet
from app.robots.codecs import decode_report, decode_scan, encode_report, encode_scan
from app.robots.process import deploy_simulated
from sagastream import Bus, Command
from tests.made_missions import GRID, MISSION, make_frame, record_frames, start_mission
from tests.plain_client import add_entry
from tests.vda5050_fleet import all_present, explore, running_fleet, single_order

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(120)]


def _scan(beams: int = 4, x: float = 1.0) -> LidarScan:
    ranges = np.linspace(0.5, 8.0, beams)
    ranges[0], ranges[1] = np.inf, np.nan
    return LidarScan(Pose(x, 2.0, 0.5), 0.25, 2 * math.pi / beams, 8.0, ranges)


async def _exported(path: Path) -> list[tuple[str, Any]]:
    await write_files({"mission": MISSION}, mcap=path)
    with Reader(path) as reader:
        return [
            (connection.topic, typestore().deserialize_cdr(data, connection.msgtype))
            for connection, _, data in reader.messages()
        ]


@pytest.mark.parametrize(("beams", "kept", "step"), [(4, 4, 1), (360, 360, 1), (4096, 342, 12)])
def test_a_scan_is_the_same_to_a_millimetre(beams: int, kept: int, step: int) -> None:
    """And has a kilobyte, however many beams it had."""
    scan = _scan(beams)
    encoded = json.loads(json.dumps(encode_scan(scan)))
    assert len(json.dumps(encoded)) < 1200
    found = decode_scan(encoded)
    assert len(found.ranges) == kept
    assert found.ranges == pytest.approx(scan.ranges[::step], abs=0.0011, nan_ok=True)
    assert found.angle_increment == pytest.approx(scan.angle_increment * step)
    assert (found.pose, found.angle_min, found.range_max) == (scan.pose, 0.25, 8.0)


async def test_a_report_has_the_last_scan_of_its_drive(
    app_bus: Bus, mission_floor: FloorMap
) -> None:
    """Encoded and decoded; a drive without a scan has none."""
    robot, _, first = deploy_simulated(single_order())
    report = await decode_report(await encode_report(first))
    assert report.scan is not None
    assert first.scan is not None
    assert report.scan.pose == first.pose
    assert report.scan.ranges == pytest.approx(first.scan.ranges, abs=0.0011, nan_ok=True)
    waited = await decode_report(await encode_report(robot.drive([], 1.0)))
    assert waited.scan is None


async def test_scans_of_a_stream_are_exported_with_the_frames_of_their_lidars(
    app_bus: Bus, tmp_path: Path
) -> None:
    """A malformed entry is named in the log, and hides no other one."""
    await start_mission()
    now_ms = 2_000_000_000_000
    await record_frames(app_bus, [make_frame(1)], at_ms=now_ms)
    good = encode_scan(_scan())
    bad: list[Mapping[str, Any]] = [
        {},
        {"scans": {"robot-01": {}}},
        {"scans": {"robot-01": good | {"ranges_mm": "?"}}},
        {"scans": {"robot-01": good | {"range_max": 1e999}}},
        {"scans": {"robot-01": good | {"ranges_mm": base64.b64encode(bytes(9000)).decode()}}},
    ]
    for number, payload in enumerate([*bad, {"scans": {"robot-01": good}}], 1):
        fields = {"payload": json.dumps(payload)}
        await add_entry(app_bus, scan_stream(MISSION), fields, entry_id=f"{now_ms + number}-0")
    found = await _exported(tmp_path / "mission.mcap")
    [scan] = [message for topic, message in found if topic == "/robot_01/scan"]
    assert scan.header.frame_id == "robot_01/lidar"
    assert scan.angle_min == pytest.approx(0.25 - 0.5)
    assert scan.ranges.tolist() == pytest.approx([np.inf, np.nan, 5.5, 8.0], nan_ok=True)
    transforms = [each for topic, message in found if topic == "/tf" for each in message.transforms]
    [lidar] = [each for each in transforms if each.child_frame_id == "robot_01/lidar"]
    assert (lidar.transform.translation.x, lidar.transform.translation.y) == (1.0, 2.0)
    log = [message.msg for topic, message in found if topic == "/mission/log"]
    assert len([line for line in log if "is malformed" in line]) == len(bad)


async def test_few_scans_are_written_however_many_there_are(
    app_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight robots in turn, each second, and less often the longer a mission takes."""
    now = [0.0]
    monkeypatch.setattr("app.missions.recording.time.monotonic", lambda: now[0])
    written: list[list[str]] = []

    async def note(_self: Any, _stream: str, payload: dict[str, Any]) -> None:
        written.append(list(payload["scans"]))

    monkeypatch.setattr(RecordingWriter, "_emit", note)
    command = Command(
        payload={"mission": "m1"},
        request_id="r",
        correlation_id="c",
        saga_id="",
        event_type="exploration:perform",
    )
    writer = RecordingWriter(command, GRID)
    names = [f"robot-{number:02}" for number in range(20)]
    for tick in range(40_000):
        now[0] = tick / 4
        for name in names if tick % 40 == 0 else ():
            writer.keep_scan(name, _scan())
        await writer.add_scans()
    assert written[:3] == [names[:8], names[8:16], names[16:]]
    assert 1000 < len(written) < 1500


async def test_an_exploration_writes_scans(app_bus: Bus, mission_floor: FloorMap) -> None:
    """Each beam that hit ends at a wall of the floor."""
    async with running_fleet(["acme/agv-1"], bus=app_bus) as (adapter, _):
        await all_present(adapter.names)
        await explore(app_bus, 1)
    scans = [
        decode_scan(scan)
        async for entry in read_stream(scan_stream("m1"), follow=False)
        for scan in entry["payload"]["scans"].values()
    ]
    assert scans
    assert not any(robot.holder for robot in await fleet.robots())
    frame = mission_floor.frame
    for scan in scans:
        hits = np.isfinite(scan.ranges)
        angles = scan.angle_min + scan.angle_increment * np.arange(len(scan.ranges))
        x = scan.pose.x + scan.ranges[hits] * np.cos(angles[hits])
        y = scan.pose.y + scan.ranges[hits] * np.sin(angles[hits])
        near = [
            (mission_floor.grid[row - 1 : row + 2, col - 1 : col + 2] > 0).any()
            for row, col in (frame.cell(*point) for point in zip(x, y, strict=True))
        ]
        assert np.mean(near) > 0.95
