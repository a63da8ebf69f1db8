"""ROS 2 bags and MCAP files of others are read without trusting them, and mapped."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from app.cli.main import app
from app.exploration.driver import Pose
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridFrame
from app.exploration.lidar import cast_rays
from app.exploration.map_files import load_map
from app.exploration.se2 import Transform, compose, of_pose
from app.exploration.simulation.log_replay import LogError
from app.exploration.simulation.ros_log import read_ros_log
from app.export.mcap_file import McapFile
from app.export.ros_messages import RosMessage

pytestmark = pytest.mark.blocking

_TYPES = get_typestore(Stores.ROS2_HUMBLE)
_FRAME = GridFrame(120, 160, 0.05)
_MOUNT = of_pose(Pose(0.15, 0.05, math.pi))  # it looks back
_BEAMS = 180
_STEP_S = 0.2


@pytest.fixture(autouse=True)
def no_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the logging of the process as it is: the output of a command is closed at its end."""
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)


def _room() -> Grid:
    """A room of 8 x 6 m with a pillar that is not in its middle."""
    grid = np.full((_FRAME.rows, _FRAME.cols), FREE, np.int8)
    grid[:2], grid[-2:], grid[:, :2], grid[:, -2:] = (OCCUPIED,) * 4
    grid[50:60, 90:96] = OCCUPIED
    return grid


def _new(name: str, *fields: Any) -> Any:
    return _TYPES.types[name](*fields)


def _header(time_s: float, frame_id: str) -> Any:
    nanoseconds = round(time_s * 1e9)
    stamp = _new("builtin_interfaces/msg/Time", nanoseconds // 10**9, nanoseconds % 10**9)
    return _new("std_msgs/msg/Header", stamp, frame_id)


def _turn(yaw: float, *, flipped: bool = False) -> Any:
    sine, cosine = math.sin(yaw / 2), math.cos(yaw / 2)
    fields = (cosine, sine, 0.0, 0.0) if flipped else (0.0, 0.0, sine, cosine)
    return _new("geometry_msgs/msg/Quaternion", *fields)


def _pose_at(time_s: float) -> Transform:
    """The base drives along a line, then turns and drives up."""
    if time_s < 8:
        return np.array([1.5 + 0.5 * time_s, 1.5, 0.0])
    return np.array([5.5, 1.5 + 0.3 * (time_s - 8), min(math.pi / 2, (time_s - 8) / 2)])


def _odometry(time_s: float) -> Any:
    x, y, yaw = _pose_at(time_s)
    point = _new("geometry_msgs/msg/Point", float(x), float(y), 0.0)
    pose = _new("geometry_msgs/msg/Pose", point, _turn(float(yaw)))
    none = _new("geometry_msgs/msg/Vector3", 0.0, 0.0, 0.0)
    return _new(
        "nav_msgs/msg/Odometry",
        _header(time_s, "odom"),
        "base_link",
        _new("geometry_msgs/msg/PoseWithCovariance", pose, np.zeros(36)),
        _new(
            "geometry_msgs/msg/TwistWithCovariance",
            _new("geometry_msgs/msg/Twist", none, none),
            np.zeros(36),
        ),
    )


def _scan(time_s: float, room: Grid, *, flipped: bool = False) -> Any:
    lidar = compose(_pose_at(time_s), _MOUNT)
    angles = np.linspace(-math.pi, math.pi, _BEAMS, endpoint=False)
    seen = lidar[2] + (-angles if flipped else angles)
    at = (float(lidar[0]), float(lidar[1]))
    ranges = cast_rays(room == OCCUPIED, _FRAME, at, seen, reach=10.0)
    ranges[:3] = np.nan, 0.001, -np.inf  # failed beams
    return _new(
        "sensor_msgs/msg/LaserScan",
        _header(time_s, "laser"),
        *(-math.pi, math.pi, 2 * math.pi / _BEAMS, 0.0, 0.1, 0.05, 12.0),
        ranges.astype(np.float32),
        np.zeros(0, np.float32),
    )


def _mounts(*, flipped: bool) -> Any:
    """The lidar is on a plate, and the plate on the base."""
    found = []
    for parent, child, x, yaw, turned in (
        ("base_link", "plate", 0.15, math.pi, False),
        ("plate", "laser", 0.0, 0.0, flipped),
    ):
        shift = _new("geometry_msgs/msg/Vector3", x, -0.05 if child == "laser" else 0.0, 0.1)
        transform = _new("geometry_msgs/msg/Transform", shift, _turn(yaw, flipped=turned))
        header = _header(0.0, parent)
        found.append(_new("geometry_msgs/msg/TransformStamped", header, child, transform))
    return _new("tf2_msgs/msg/TFMessage", found)


def _write(
    folder: Path, *, plugin: StoragePlugin, flipped: bool = False, second_scan: bool = False
) -> None:
    room = _room()
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        topics: dict[str, Any] = {}

        def add(topic: str, time_s: float, message: Any) -> None:
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=_TYPES)
            data = _TYPES.serialize_cdr(message, kind)
            writer.write(topics[topic], round(time_s * 1e9) + 10**9, data)

        add("/tf_static", 0.0, _mounts(flipped=flipped))
        for number in range(80):
            time_s = number * _STEP_S
            add("/odom", time_s, _odometry(time_s))
            # It comes between two messages of the odometry.
            add("/scan", time_s + 0.1, _scan(time_s + 0.1, room, flipped=flipped))
            if second_scan:
                add("/scan_2", time_s, _scan(time_s, room))


def _agreement(grid: Grid, frame: GridFrame) -> float:
    """The share of the known cells of a map that agree with the room."""
    room = _room()
    known = np.argwhere(grid != UNKNOWN)
    same = total = 0
    for row, col in known:
        x, y = frame.centre(int(row), int(col))
        at = _FRAME.cell(x, y)
        if _FRAME.contains(*at):
            total += 1
            same += int(grid[row, col] == room[at])
    return same / total


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_bag_is_mapped(tmp_path: Path, plugin: StoragePlugin, *, flipped: bool) -> None:
    """Given a bag whose lidar looks back, or hangs upside down, then its map is that of the room."""
    _write(tmp_path / "bag", plugin=plugin, flipped=flipped)
    out = tmp_path / "map.yaml"

    result = CliRunner().invoke(app, ["map-log", str(tmp_path / "bag"), "--out", str(out)])

    assert result.exit_code == 0, result.output
    made = load_map(out)
    assert _agreement(made.grid, made.frame) > 0.97
    assert np.count_nonzero(made.grid == FREE) > 0.5 * np.count_nonzero(_room() == FREE)


def test_a_single_mcap_file_is_read(tmp_path: Path) -> None:
    """Given a file without the folder of its bag, then scans have the odometry of their time."""
    _write(tmp_path / "bag", plugin=StoragePlugin.MCAP)
    (file,) = (tmp_path / "bag").glob("*.mcap")

    records = read_ros_log(file)

    expected = compose(_pose_at(0.1), _MOUNT)
    assert records[0].odometry == pytest.approx(expected, abs=1e-6)
    assert len(records[0].scan.ranges) == _BEAMS - 3
    moved = np.diff([record.odometry[:2] for record in records[:10]], axis=0)
    assert np.hypot(*moved.T).min() > 0.24


def test_topics_are_chosen_by_name(tmp_path: Path) -> None:
    """Given two lidars, then the error lists them, and an option chooses one."""
    bag = tmp_path / "bag"
    _write(bag, plugin=StoragePlugin.MCAP, second_scan=True)
    with pytest.raises(LogError, match=r"bag: name the topic of .*LaserScan \(found: /scan, /sc"):
        read_ros_log(bag)
    with pytest.raises(LogError, match=r"bag: no topic /laser of .*found: /scan, /scan_2"):
        read_ros_log(bag, scan_topic="/laser")
    with pytest.raises(LogError, match=r"bag: no topic /scan of nav_msgs"):
        read_ros_log(bag, scan_topic="/scan", odometry_topic="/scan")
    assert read_ros_log(bag, scan_topic="/scan_2")


@pytest.mark.parametrize("damage", ["cut", "half", "empty", "flipped", "other"])
def test_a_bad_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    """Given a file that is cut, empty, altered or of another kind, then one line names it."""
    _write(tmp_path / "bag", plugin=StoragePlugin.MCAP)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    path = tmp_path / "run.mcap"
    with Reader(file) as reader, McapFile(path, {}) as packed:
        for connection, time_ns, data in reader.messages():
            packed.add([RosMessage(connection.topic, connection.msgtype, time_ns, data)])
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:-1],
            "half": content[:middle],
            "empty": b"",
            "flipped": content[:middle] + bytes(64) + content[middle + 64 :],
            "other": b"FLASER 3 1 2 3",
        }[damage]
    )

    result = CliRunner().invoke(app, ["map-log", str(path), "--out", str(tmp_path / "map.yaml")])

    assert result.exit_code == 1
    assert result.stderr.startswith("mission: log run.mcap: ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "map.yaml").exists()


def test_a_bag_without_its_file_or_data_is_refused(tmp_path: Path) -> None:
    """Given a folder that is no bag, a path that is missing, then one line names it."""
    _write(tmp_path / "bag", plugin=StoragePlugin.SQLITE3)
    (file,) = (tmp_path / "bag").glob("*.db3")
    file.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    shutil.copy(tmp_path / "bag" / "metadata.yaml", tmp_path / "empty")
    for name in ("bag", "empty", "missing.mcap", "missing.log"):
        result = CliRunner().invoke(
            app, ["map-log", str(tmp_path / name), "--out", str(tmp_path / "map.yaml")]
        )
        assert result.exit_code == 1, name
        assert name in result.stderr
        assert len(result.stderr.splitlines()) == 1
