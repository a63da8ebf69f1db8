"""The frames of one robot over time: where one frame was in another, as `tf2` answers it.

What moves is planar: of a transform of `/tf` and of odometry, x, y and the heading count, and between
two of them it is interpolated. What is mounted (`/tf_static`) counts in three dimensions, so that a
lidar may hang upside down.
"""

import bisect
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from app.exploration.se2 import Transform, between, compose

_KEPT_NS = 10_000_000_000
_BACK_NS = (
    2_000_000_000  # a message that is older than the newest by this is of a clock that went back
)
_MAX_KEPT = 4000  # of one frame
_MAX_FRAMES = 500
_MAX_CHAIN = 20
_LATE_NS = 500_000_000  # a frame may be older than what is asked for

Matrix = npt.NDArray[np.float64]
"""(4, 4) float64, metres: from one frame to another."""


class NoTransform(LookupError):
    """Where a frame was in another is not known; says which one is missing.

    Attributes:
        may_come: Whether a later message may tell it.
    """

    def __init__(self, text: str, *, may_come: bool) -> None:
        super().__init__(text)
        self.may_come = may_come


@dataclass(slots=True)
class _Moving:
    """A frame that moves in its parent."""

    parent: str
    times: deque[int] = field(default_factory=deque)
    poses: deque[Transform] = field(default_factory=deque)

    def add(self, time_ns: int, pose: Transform) -> None:
        if self.times and time_ns < self.times[-1] - _BACK_NS:
            # The clock went back: what was measured by the old one is of no use.
            self.times.clear()
            self.poses.clear()
        if self.times and time_ns <= self.times[-1]:
            return
        self.times.append(time_ns)
        self.poses.append(pose)
        while len(self.times) > _MAX_KEPT or self.times[0] < time_ns - _KEPT_NS:
            self.times.popleft()
            self.poses.popleft()

    def at(self, time_ns: int) -> Transform:
        after = bisect.bisect_left(self.times, time_ns)
        if after == 0 or after == len(self.times):
            return self.poses[min(after, len(self.poses) - 1)]
        start, end = self.poses[after - 1], self.poses[after]
        since = self.times[after - 1]
        share = (time_ns - since) / (self.times[after] - since)
        return compose(start, between(start, end) * share)


class Transforms:
    """The frames of one robot.

    Args:
        root: The frame of the map. The last pose of a frame in it counts until the next one:
            localization corrects it by little, and some publish it when the robot moves only.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._moving: dict[str, _Moving] = {}
        self._mounted: dict[str, tuple[str, Matrix]] = {}

    def add_moving(self, message: Any) -> None:
        """Take a `tf2_msgs/TFMessage` of `/tf`."""
        for each in message.transforms:
            matrix = _matrix(each.transform.rotation, each.transform.translation)
            self._add(each.header, each.child_frame_id, matrix)

    def add_odometry(self, message: Any) -> None:
        """Take a `nav_msgs/Odometry`."""
        pose = message.pose.pose
        self._add(message.header, message.child_frame_id, _matrix(pose.orientation, pose.position))

    def add_mounted(self, message: Any) -> None:
        """Take a `tf2_msgs/TFMessage` of `/tf_static`."""
        for each in message.transforms:
            child, parent = _frame(each.child_frame_id), _frame(each.header.frame_id)
            if self._is_allowed(parent, child):
                turn, shift = each.transform.rotation, each.transform.translation
                self._mounted[child] = (parent, _matrix(turn, shift))

    def _add(self, header: Any, child: str, matrix: Matrix) -> None:
        child, parent = _frame(child), _frame(header.frame_id)
        if not self._is_allowed(parent, child):
            return
        known = self._moving.get(child)
        if known is None or known.parent != parent:
            known = self._moving[child] = _Moving(parent)
        yaw = math.atan2(matrix[1, 0], matrix[0, 0])
        known.add(stamp_ns(header), np.array([matrix[0, 3], matrix[1, 3], yaw]))

    def _is_allowed(self, parent: str, child: str) -> bool:
        count = len(self._moving) + len(self._mounted)
        known = child in self._moving or child in self._mounted
        return bool(child) and child != parent and (known or count < _MAX_FRAMES)

    def lookup(self, frame: str, time_ns: int, *, newest: bool = False) -> Matrix:
        """Return where a frame was in the root.

        Args:
            frame: The frame.
            time_ns: When, nanoseconds.
            newest: Take what is half a second too old, rather than wait for what may come.

        Raises:
            NoTransform: It is not known, or not yet.
        """
        found, at = np.eye(4), _frame(frame)
        for _ in range(_MAX_CHAIN):
            if at == self._root:
                return found
            if at in self._mounted:
                at, matrix = self._mounted[at]
            elif at in self._moving:
                moving = self._moving[at]
                self._require_timely(at, moving, time_ns, newest)
                at, matrix = moving.parent, _planar(moving.at(time_ns))
            else:
                raise NoTransform(f"no transform to frame {at!r:.80} from any other", may_come=True)
            found = matrix @ found
        raise NoTransform(f"the frames above {frame!r:.80} have no end", may_come=False)

    def _require_timely(self, name: str, moving: _Moving, time_ns: int, newest: bool) -> None:
        if time_ns < moving.times[0]:
            ago_s = (moving.times[0] - time_ns) / 1e9
            text = f"a message is {ago_s:.1f} s older than the oldest transform of {name!r:.80}"
            raise NoTransform(f"{text}; do their clocks differ?", may_come=False)
        if time_ns <= moving.times[-1] or moving.parent == self._root:
            return
        late_ns = time_ns - moving.times[-1]
        if not newest or late_ns > _LATE_NS:
            text = f"the last transform of {name!r:.80} is {late_ns / 1e9:.1f} s old"
            raise NoTransform(text, may_come=True)


def stamp_ns(header: Any) -> int:
    """When a message was measured, nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _frame(name: str) -> str:
    """A frame's name: some drivers write it with a slash."""
    return name.removeprefix("/")


def _matrix(turn: Any, shift: Any) -> Matrix:
    """Make a matrix of a quaternion and a translation.

    Raises:
        ValueError: A value is not finite, or the quaternion is zero.
    """
    values = np.array([turn.x, turn.y, turn.z, turn.w, shift.x, shift.y, shift.z], np.float64)
    length = float(np.linalg.norm(values[:4]))
    if not np.isfinite(values).all() or not length:
        raise ValueError("a transform is not of finite numbers")
    x, y, z, w = values[:4] / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), values[4]],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), values[5]],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), values[6]],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _planar(pose: Transform) -> Matrix:
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    return np.array(
        [
            [cos, -sin, 0.0, pose[0]],
            [sin, cos, 0.0, pose[1]],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
