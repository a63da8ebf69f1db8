"""A `sensor_msgs/LaserScan` and the pose of its lidar as a scan of a mission."""

import math
from typing import Any

import numpy as np

from app.exploration.driver import Pose
from app.robots.vda5050.scans import MAX_BEAMS, NumberedScan
from app.ros2.transforms import Matrix

_MAX_RANGE_M = 1000.0
_MAX_TURN_RAD = 2.1 * math.pi  # some drivers send the first beams of the next turn, too
_MIN_UPRIGHT = math.cos(math.radians(15.0))


class BadScan(ValueError):
    """A scan cannot be used; says which field is wrong."""


def numbered(number: int, message: Any, lidar: Matrix) -> NumberedScan:
    """Make a scan on the map of a LaserScan.

    By REP 117 plus infinity is a beam without return, NaN and minus infinity are failed ones. A scan
    with more than `MAX_BEAMS` beams keeps every second, third and so on. That the robot moved during
    the turn is not taken out.

    Args:
        number: Its number in the session.
        message: The LaserScan.
        lidar: Where the lidar was on the map.

    Raises:
        BadScan: A field is not a sensible number, it has no beams or more than a turn of them, or the lidar is not level.
    """
    upright = float(lidar[2, 2])
    if abs(upright) < _MIN_UPRIGHT:
        raise BadScan("the lidar is not level; only a planar one can be used")
    first, step = float(message.angle_min), float(message.angle_increment)
    nearest, farthest = float(message.range_min), float(message.range_max)
    for name, value in (("angle_min", first), ("angle_increment", step), ("range_min", nearest)):
        if not math.isfinite(value):
            raise BadScan(f"{name}: {value} is not a finite number")
    if not farthest > 0:
        raise BadScan(f"range_max: {farthest} is not a positive number")
    if nearest >= farthest:
        raise BadScan(f"range_min: {nearest} is not below range_max, {farthest}")
    ranges = np.asarray(message.ranges, np.float64)
    if not ranges.size:
        raise BadScan("ranges: there are none")
    if ranges.size > 1 and not 0 < abs(step) * (ranges.size - 1) <= _MAX_TURN_RAD:
        count = f"{ranges.size} beams, {step} rad apart"
        raise BadScan(f"angle_increment: {count}, have no angle or more than a turn")
    keep = -(-ranges.size // MAX_BEAMS)
    ranges = ranges[::keep]
    none = np.isposinf(ranges) | (ranges > farthest)
    valid = (ranges >= max(nearest, 0.0)) & (ranges > 0)
    ranges = np.where(none, np.inf, np.where(valid, ranges, np.nan))
    turn = math.atan2(lidar[1, 0], lidar[0, 0])
    side = 1.0 if upright > 0 else -1.0
    return NumberedScan(
        number=number,
        pose=Pose(float(lidar[0, 3]), float(lidar[1, 3]), turn),
        angle_min=turn + side * first,
        angle_increment=side * step * keep,
        range_max=min(farthest, _MAX_RANGE_M),
        ranges=ranges,
    )
