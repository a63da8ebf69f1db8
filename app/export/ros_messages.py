"""ROS 2 messages, serialized in CDR: what Foxglove and ROS tools open without an extension.

Functions take values of missions, in metres and radians, and return messages of ROS packages.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from app.exploration.driver import Point, Pose
from app.exploration.grid import Grid, GridFrame
from app.exploration.lidar import Floats

_NS_PER_S = 1_000_000_000
_ORIGIN = Pose(0.0, 0.0)
Colour = tuple[float, float, float, float]
"""Red, green, blue and opacity, each 0 to 1."""


@dataclass(frozen=True, slots=True)
class RosMessage:
    """A message of a channel.

    Attributes:
        topic: The channel.
        schema: The type of the message, such as `nav_msgs/msg/Path`.
        time_ns: When it was logged, nanoseconds since 1970.
        data: The message in CDR.
    """

    topic: str
    schema: str
    time_ns: int
    data: bytes


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """The message types of ROS 2, as of Humble; later releases have the same of those used here."""
    return get_typestore(Stores.ROS2_HUMBLE)


@lru_cache
def definition_of(schema: str) -> str:
    """The definition of a type and of all that it uses, in the encoding `ros2msg`."""
    return str(typestore().generate_msgdef(schema, ros_version=2)[0])


def serialized(topic: str, time_ns: int, message: Any) -> RosMessage:
    """Serialize a message for a topic."""
    schema = str(message.__msgtype__)
    data = bytes(typestore().serialize_cdr(message, schema))
    return RosMessage(topic, schema, time_ns, data)


def _new(schema: str, *fields: Any) -> Any:
    return typestore().types[schema](*fields)


def _stamp(time_ns: int) -> Any:
    return _new("builtin_interfaces/msg/Time", time_ns // _NS_PER_S, time_ns % _NS_PER_S)


def _header(time_ns: int, frame_id: str) -> Any:
    return _new("std_msgs/msg/Header", _stamp(time_ns), frame_id)


def _point(point: Point) -> Any:
    return _new("geometry_msgs/msg/Point", float(point[0]), float(point[1]), 0.0)


def _turn(heading: float) -> Any:
    half = heading / 2
    return _new("geometry_msgs/msg/Quaternion", 0.0, 0.0, math.sin(half), math.cos(half))


def _pose(pose: Pose) -> Any:
    return _new("geometry_msgs/msg/Pose", _point((pose.x, pose.y)), _turn(pose.heading))


def _vector(x: float, y: float, z: float) -> Any:
    return _new("geometry_msgs/msg/Vector3", x, y, z)


def occupancy_grid(time_ns: int, frame_id: str, grid: Grid, frame: GridFrame) -> Any:
    """A `nav_msgs/OccupancyGrid`; its data are the cells of the grid, byte for byte."""
    origin = _pose(Pose(frame.origin_x, frame.origin_y))
    info = _new(
        "nav_msgs/msg/MapMetaData",
        *(_stamp(time_ns), frame.resolution, frame.cols, frame.rows, origin),
    )
    cells = np.ascontiguousarray(grid, np.int8).ravel()
    return _new("nav_msgs/msg/OccupancyGrid", _header(time_ns, frame_id), info, cells)


def pose_stamped(time_ns: int, frame_id: str, pose: Pose) -> Any:
    """A `geometry_msgs/PoseStamped`."""
    return _new("geometry_msgs/msg/PoseStamped", _header(time_ns, frame_id), _pose(pose))


def odometry(time_ns: int, frame_id: str, child_frame_id: str, pose: Pose) -> Any:
    """A `nav_msgs/Odometry` of a robot that says nothing of its speed."""
    nowhere = _new("geometry_msgs/msg/Twist", _vector(0.0, 0.0, 0.0), _vector(0.0, 0.0, 0.0))
    return _new(
        "nav_msgs/msg/Odometry",
        *(_header(time_ns, frame_id), child_frame_id),
        _new("geometry_msgs/msg/PoseWithCovariance", _pose(pose), np.zeros(36)),
        _new("geometry_msgs/msg/TwistWithCovariance", nowhere, np.zeros(36)),
    )


def laser_scan(
    time_ns: int,
    frame_id: str,
    ranges: Floats,
    *,
    angle_min: float,
    angle_increment: float,
    range_max: float,
) -> Any:
    """A `sensor_msgs/LaserScan`.

    Args:
        time_ns: When it was measured.
        frame_id: The frame of the angles.
        ranges: (beams,) float64 metres, infinite without return, NaN for a beam that failed.
        angle_min: Of the first beam, radians.
        angle_increment: From beam to beam, radians.
        range_max: Metres.
    """
    last = angle_min + angle_increment * (len(ranges) - 1)
    return _new(
        "sensor_msgs/msg/LaserScan",
        *(_header(time_ns, frame_id), angle_min, last, angle_increment, 0.0, 0.0, 0.0, range_max),
        *(ranges.astype(np.float32), np.zeros(0, np.float32)),
    )


def path(time_ns: int, frame_id: str, points: Sequence[Point]) -> Any:
    """A `nav_msgs/Path`; each pose looks to the next point."""
    headings = [math.atan2(y1 - y0, x1 - x0) for (x0, y0), (x1, y1) in itertools.pairwise(points)]
    headings.append(headings[-1] if headings else 0.0)
    header = _header(time_ns, frame_id)
    poses = [
        _new("geometry_msgs/msg/PoseStamped", header, _pose(Pose(x, y, heading)))
        for (x, y), heading in zip(points, headings[: len(points)], strict=True)
    ]
    return _new("nav_msgs/msg/Path", header, poses)


def transforms(time_ns: int, poses: Sequence[tuple[str, str, Pose]]) -> Any:
    """A `tf2_msgs/TFMessage` of (parent frame, child frame, pose of the child in the parent)."""
    return _new(
        "tf2_msgs/msg/TFMessage",
        [
            _new(
                "geometry_msgs/msg/TransformStamped",
                _header(time_ns, parent),
                child,
                _new(
                    "geometry_msgs/msg/Transform",
                    _vector(pose.x, pose.y, 0.0),
                    _turn(pose.heading),
                ),
            )
            for parent, child, pose in poses
        ],
    )


def marker(
    time_ns: int,
    frame_id: str,
    kind: str,
    *,
    number: int = 0,
    namespace: str = "",
    pose: Pose = _ORIGIN,
    size_m: float = 0.3,
    colour: Colour,
    points: Sequence[Point] = (),
    text: str = "",
) -> Any:
    """A `visualization_msgs/Marker`, which replaces the one before with its namespace and number.

    Args:
        time_ns: When it holds.
        frame_id: The frame of the pose and the points.
        kind: A shape by the name that the ROS type has for it, such as `SPHERE_LIST`.
        number: Its number in the namespace.
        namespace: The markers that it belongs to.
        pose: Where it is.
        size_m: Its extent, metres; of a text the height of a letter.
        colour: Its colour.
        points: The points of a list; without any, such a marker is removed.
        text: The text of a text marker.
    """
    marker_type = typestore().types["visualization_msgs/msg/Marker"]
    is_removed = kind.endswith("_LIST") and not points
    return marker_type(
        header=_header(time_ns, frame_id),
        ns=namespace,
        id=number,
        type=getattr(marker_type, kind),
        action=getattr(marker_type, "DELETE" if is_removed else "ADD"),
        pose=_pose(pose),
        scale=_vector(size_m, size_m, size_m),
        color=_new("std_msgs/msg/ColorRGBA", *colour),
        lifetime=_new("builtin_interfaces/msg/Duration", 0, 0),
        frame_locked=False,
        points=[_point(each) for each in points],
        colors=[],
        texture_resource="",
        texture=_new("sensor_msgs/msg/CompressedImage", _header(0, ""), "", np.zeros(0, np.uint8)),
        uv_coordinates=[],
        text=text,
        mesh_resource="",
        mesh_file=_new("visualization_msgs/msg/MeshFile", "", np.zeros(0, np.uint8)),
        mesh_use_embedded_materials=False,
    )


def marker_array(markers: Sequence[Any]) -> Any:
    """A `visualization_msgs/MarkerArray`."""
    return _new("visualization_msgs/msg/MarkerArray", list(markers))


def log_line(time_ns: int, level: str, name: str, text: str) -> Any:
    """A `rcl_interfaces/Log`, at a level of that type, such as `WARN`."""
    log_type = typestore().types["rcl_interfaces/msg/Log"]
    return log_type(_stamp(time_ns), getattr(log_type, level), name, text, "", "", 0)


def number(value: float) -> Any:
    """A `std_msgs/Float64`."""
    return _new("std_msgs/msg/Float64", float(value))


def fix(time_ns: int, frame_id: str, latitude: float, longitude: float) -> Any:
    """A `sensor_msgs/NavSatFix`, in degrees; its accuracy is unknown."""
    status = _new("sensor_msgs/msg/NavSatStatus", 0, 0)
    return _new(
        "sensor_msgs/msg/NavSatFix",
        *(_header(time_ns, frame_id), status, latitude, longitude, 0.0, np.zeros(9), 0),
    )
