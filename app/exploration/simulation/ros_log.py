"""Reads a robot's log from a ROS 2 bag or an MCAP file: laser scans, odometry, fixed transforms.

A file is untrusted: whatever is wrong with it becomes one line that names it. Types are those of
`sensor_msgs/LaserScan` and `nav_msgs/Odometry`; ranges are read as REP 117 has them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from app.exploration.mapping.keyframes import Scan
from app.exploration.se2 import IDENTITY, Transform, between, compose, inverse
from app.exploration.simulation.log_replay import LogError, LogRecord

_SCAN, _ODOMETRY = "sensor_msgs/msg/LaserScan", "nav_msgs/msg/Odometry"
_STATIC, _STATIC_TOPIC = "tf2_msgs/msg/TFMessage", "/tf_static"
_SUFFIXES = (".mcap", ".db3")
_STEP_M, _STEP_RAD = 0.25, math.radians(10.0)  # from one used scan to the next
_MAX_SCANS = 200_000
_MAX_BEAMS = 1 << 16
_Times = tuple[int, int]
"""When something was measured and when it was logged, nanoseconds."""

_Measured = TypeVar("_Measured")
_MAX_CHAIN = 20  # transforms between base and lidar


def is_ros_log(path: Path) -> bool:
    """Whether a path is that of a bag or of an MCAP file: by its suffix, or as it is a folder."""
    return path.is_dir() or path.suffix in _SUFFIXES


def read_ros_log(
    path: Path, *, scan_topic: str = "", odometry_topic: str = "", reach: float = 20.0
) -> list[LogRecord]:
    """Read the scans of a ROS 2 bag or an MCAP file, with the odometry at the time of each.

    Scans that follow another within 25 cm and 10 degrees are left out, and so are those before
    the first and after the last odometry. The odometry is that of the lidar: if the file says
    where the lidar is on the base (`/tf_static`), the motion of the base is converted.

    Args:
        path: The folder of a bag, or a file that ends in `.mcap` or `.db3`.
        scan_topic: The topic of the scans; '' for the only one of that type.
        odometry_topic: The topic of the odometry; '' for the only one of that type.
        reach: metres; a longer range marks cells as free up to there only.

    Raises:
        LogError: The file is malformed or cut, or a topic is missing, or no scan is left.
        OSError: The file cannot be read.
    """
    try:
        return _read(path, scan_topic, odometry_topic, reach)
    except (LogError, OSError, MemoryError):
        raise
    except Exception as error:  # the reader raises whatever a bad file makes of it
        what = str(error) or type(error).__name__
        raise LogError(
            f"log {path.name}: cannot be read: {what[:200]}; a file that is cut may be repaired "
            "with: mcap recover"
        ) from error


def _read(path: Path, scan_topic: str, odometry_topic: str, reach: float) -> list[LogRecord]:
    types = get_typestore(Stores.ROS2_HUMBLE)
    scans: list[tuple[_Times, tuple[str, Scan]]] = []
    odometry: list[tuple[_Times, Transform]] = []
    mounts: dict[str, tuple[str, Any]] = {}
    base = ""
    with Reader(path) as reader:
        found = reader.connections
        chosen = [
            *_connections(path, found, _SCAN, scan_topic),
            *_connections(path, found, _ODOMETRY, odometry_topic),
            *(each for each in found if (each.topic, each.msgtype) == (_STATIC_TOPIC, _STATIC)),
        ]
        for connection, logged_ns, data in reader.messages(chosen):
            message: Any = types.deserialize_cdr(data, connection.msgtype)
            if connection.msgtype == _STATIC:
                for each in message.transforms:
                    mounts[each.child_frame_id] = (each.header.frame_id, each.transform)
            elif connection.msgtype == _ODOMETRY:
                pose = message.pose.pose
                x, y = pose.position.x, pose.position.y
                at = np.array([x, y, _yaw(_rotation(pose.orientation))])
                if not np.isfinite(at).all():
                    raise LogError(f"log {path.name}: {connection.topic}: a pose is not finite")
                odometry.append((_times_of(message.header, logged_ns), at))
                base = message.child_frame_id
            else:
                scan = _scan(path, connection.topic, message, reach)
                times = _times_of(message.header, logged_ns)
                scans.append((times, (message.header.frame_id, scan)))
                if len(scans) > _MAX_SCANS:
                    raise LogError(f"log {path.name}: more than {_MAX_SCANS} scans")
    # Some drivers set no time: then what counts is when a message was logged.
    clock = int(not (_is_stamped(scans) and _is_stamped(odometry)))
    records = _joined(_in_order(scans, clock), _in_order(odometry, clock), mounts, base)
    if not records:
        raise LogError(
            f"log {path.name}: none of {len(scans)} scans is between the first and the last of "
            f"{len(odometry)} odometry messages"
        )
    return records


def _connections(
    path: Path, found: Sequence[Connection], kind: str, topic: str
) -> list[Connection]:
    """The connections of a topic; with '' those of the only topic that has the type."""
    names = sorted({each.topic for each in found if each.msgtype == kind})
    listed = ", ".join(names[:10]) or "none"
    if topic and topic not in names:
        raise LogError(f"log {path.name}: no topic {topic} of {kind} (found: {listed})")
    if not topic and len(names) != 1:
        raise LogError(f"log {path.name}: name the topic of {kind} (found: {listed})")
    return [each for each in found if each.topic == (topic or names[0]) and each.msgtype == kind]


def _times_of(header: Any, logged_ns: int) -> _Times:
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec), logged_ns


def _is_stamped(messages: Sequence[tuple[_Times, Any]]) -> bool:
    return any(stamp for (stamp, _), _ in messages)


def _in_order(
    messages: Sequence[tuple[_Times, _Measured]], clock: int
) -> list[tuple[int, _Measured]]:
    """Sort messages by one of their two times."""
    return sorted(((times[clock], each) for times, each in messages), key=lambda one: one[0])


def _scan(path: Path, topic: str, message: Any, reach: float) -> Scan:
    ranges = np.asarray(message.ranges, np.float64)
    if len(ranges) > _MAX_BEAMS:
        raise LogError(f"log {path.name}: {topic}: a scan has more than {_MAX_BEAMS} beams")
    angles = message.angle_min + message.angle_increment * np.arange(len(ranges))
    if not np.isfinite([message.angle_min, message.angle_increment]).all():
        raise LogError(f"log {path.name}: {topic}: an angle is not finite")
    # By REP 117 plus infinity is no return, minus infinity and NaN are failures.
    inside = (ranges >= max(message.range_min, 0.0)) & (ranges <= message.range_max) & (ranges > 0)
    valid = inside | np.isposinf(ranges)
    ranges = np.where(ranges > reach, np.inf, ranges)
    return Scan(angles[valid], ranges[valid], reach)


def _joined(
    scans: Sequence[tuple[int, tuple[str, Scan]]],
    odometry: Sequence[tuple[int, Transform]],
    mounts: Mapping[str, tuple[str, Any]],
    base: str,
) -> list[LogRecord]:
    """The scans that the robot moved between, with the pose of the lidar at each."""
    if not odometry:
        return []
    times = np.array([time_ns for time_ns, _ in odometry])
    records: list[LogRecord] = []
    for time_ns, (frame_id, scan) in scans:
        if not times[0] <= time_ns <= times[-1]:
            continue
        after = max(int(np.searchsorted(times, time_ns)), 1) if len(times) > 1 else 0
        before = max(after - 1, 0)
        start, end = odometry[before][1], odometry[after][1]
        share = (time_ns - times[before]) / max(int(times[after] - times[before]), 1)
        mount, is_flipped = _mount(mounts, base, frame_id)
        pose = compose(compose(start, between(start, end) * share), mount)
        if records:
            motion = between(records[-1].odometry, pose)
            if math.hypot(motion[0], motion[1]) < _STEP_M and abs(motion[2]) < _STEP_RAD:
                continue
        angles = -scan.angles if is_flipped else scan.angles
        records.append(LogRecord(Scan(angles, scan.ranges, scan.reach), pose))
    return records


def _mount(
    mounts: Mapping[str, tuple[str, Any]], base: str, frame_id: str
) -> tuple[Transform, bool]:
    """The pose of the lidar on the base, and whether it is upside down; the origin if not known."""
    chains = {}
    for name in (base, frame_id):
        rotation, offset, at = np.eye(3), np.zeros(3), name
        for _ in range(_MAX_CHAIN):
            if at not in mounts:
                break
            at, transform = mounts[at]
            turn, shift = _rotation(transform.rotation), transform.translation
            rotation, offset = turn @ rotation, turn @ offset + [shift.x, shift.y, shift.z]
        chains[name] = (at, rotation, offset)
    (root, turn, offset), (other, of_lidar, at_lidar) = chains[base], chains[frame_id]
    if root != other:
        return IDENTITY, False
    upright = bool(turn[2, 2] > 0)
    in_root = np.array([at_lidar[0], at_lidar[1], _yaw(of_lidar)])
    mount = compose(inverse(np.array([offset[0], offset[1], _yaw(turn)])), in_root)
    return mount, bool(of_lidar[2, 2] > 0) != upright


def _rotation(turn: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The rotation matrix of a quaternion."""
    x, y, z, w = np.array([turn.x, turn.y, turn.z, turn.w]) / (
        math.hypot(turn.x, turn.y, turn.z, turn.w) or 1.0
    )
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _yaw(rotation: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return math.atan2(rotation[1, 0], rotation[0, 0])
