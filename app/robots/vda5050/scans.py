"""Scans beside VDA 5050: the messages of the topic `scan`.

The standard carries no perception. A robot publishes what its lidar sees as JSON, in the form of
ROS `sensor_msgs/LaserScan`, with the pose on the map and a number, so that a lost scan is noticed:

    {"headerId": 3, "timestamp": "…", "version": "3.0.0", "manufacturer": "acme", "serialNumber": "a1",
     "sessionId": "…", "scans": [{"number": 0, "x": 1.65, "y": 1.65, "theta": 0.0, "angleMin": 2.94,
     "angleIncrement": 0.0174, "rangeMax": 8.0, "ranges": [2.31, null, -1, …]}]}

Angles are radians from the x axis of the map. A range is in metres; null is a beam without a return
within `rangeMax`, and -1 is a beam that failed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from app.exploration.driver import Pose
from app.exploration.lidar import Floats
from app.robots.vda5050.dialects import BadMessage, load_object

MAX_BEAMS = 4096
MAX_PER_MESSAGE = 32
_MAX_RANGE_M = 1000.0
_TOPIC = "scan"


@dataclass(frozen=True, slots=True, eq=False)
class NumberedScan:
    """One turn of a lidar.

    Attributes:
        number: From 0 in a session, without gaps.
        pose: Where the robot was, on the map.
        angle_min: Of the first beam, radians from the map's x axis.
        angle_increment: From beam to beam, radians.
        range_max: Metres.
        ranges: (beams,) float64 metres, infinite without return, NaN for a beam that failed.
    """

    number: int
    pose: Pose
    angle_min: float
    angle_increment: float
    range_max: float
    ranges: Floats

    @property
    def angles(self) -> Floats:
        """(beams,) float64 radians, map frame; as `app.exploration.lidar.beam_angles` has them."""
        return self.angle_min + self.angle_increment * np.arange(len(self.ranges), dtype=np.float64)

    def to_json(self) -> str:
        """Return the scan as an element of a message; every digit is kept."""
        ranges = [
            -1 if value != value else None if value == np.inf else value  # noqa: PLR0124 - NaN
            for value in self.ranges.tolist()
        ]
        return json.dumps(
            {
                "number": self.number,
                "x": self.pose.x,
                "y": self.pose.y,
                "theta": self.pose.heading,
                "angleMin": self.angle_min,
                "angleIncrement": self.angle_increment,
                "rangeMax": self.range_max,
                "ranges": ranges,
            }
        )

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read an element of a message.

        Raises:
            BadMessage: A field is missing, of another type, or out of range.
        """
        try:
            ranges = np.array(
                [np.inf if value is None else float(value) for value in fields["ranges"]]
            )
            ranges[ranges < 0] = np.nan
            x, y, theta, first, step, reach = (
                float(fields[name])
                for name in ("x", "y", "theta", "angleMin", "angleIncrement", "rangeMax")
            )
            number = fields["number"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadMessage(f"{_TOPIC}: {type(error).__name__}: {error!s:.80}") from None
        if type(number) is not int or number < 0:
            raise BadMessage(f"{_TOPIC}: number: {number!r:.40} is not a number from 0")
        if not 0 < len(ranges) <= MAX_BEAMS:
            raise BadMessage(
                f"{_TOPIC}: ranges: {len(ranges)} beams, from 1 to {MAX_BEAMS} allowed"
            )
        if (
            not np.isfinite([x, y, theta, first, step, reach]).all()
            or not 0 < reach <= _MAX_RANGE_M
        ):
            raise BadMessage(f"{_TOPIC}: a pose, an angle or rangeMax is not a sensible number")
        return cls(number, Pose(x, y, theta), first, step, reach, ranges)


def encode_scans(header: Mapping[str, Any], session: str, scans: Iterable[str]) -> bytes:
    """Return a message of scans that are encoded already."""
    head = json.dumps(dict(header) | {"sessionId": session})
    return f'{head[:-1]}, "scans": [{", ".join(scans)}]}}'.encode()


def decode_scans(payload: bytes) -> tuple[str, list[NumberedScan]]:
    """Read a message of scans.

    Returns:
        The session, and the scans.

    Raises:
        BadMessage: It is malformed, too long, or has too many scans.
    """
    message = load_object(payload, _TOPIC)
    session, scans = message.get("sessionId"), message.get("scans")
    if not isinstance(session, str) or not isinstance(scans, list):
        raise BadMessage(f"{_TOPIC}: sessionId and scans: must be a text and a list")
    if len(scans) > MAX_PER_MESSAGE or not all(isinstance(each, dict) for each in scans):
        raise BadMessage(f"{_TOPIC}: scans: must be at most {MAX_PER_MESSAGE} objects")
    return session, [NumberedScan.of_json(each) for each in scans]
