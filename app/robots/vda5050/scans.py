"""Scans beside VDA 5050: the messages of the topic `scan`.

The standard carries no perception. A robot publishes what its lidar sees as JSON, in the form of
ROS `sensor_msgs/LaserScan`, with the pose on the map and a number, so that a lost scan is noticed:

    {"headerId": 3, "timestamp": "…", "version": "3.0.0", "manufacturer": "acme", "serialNumber": "a1",
     "sessionId": "…", "scans": [{"number": 0, "x": 1.65, "y": 1.65, "theta": 0.0, "angleMin": 2.94,
     "angleIncrement": 0.0174, "rangeMax": 8.0, "ranges": [2.31, null, -1, …]}]}

Angles are radians from the x axis of the map. A range is in metres; null is a beam without a return
within `rangeMax`, and -1 is a beam that failed.

What publishes scans for a robot that has no actions for them, such as a bridge from ROS 2, is asked
for them on the topic `scanRequest`:

    {"headerId": 1, …, "requestId": "…", "sessionId": "…", "from": 0, "to": 256}

It answers with the scans of these numbers, in one message or more. Each has the `requestId`, and in
`count` the number of scans so far. A session that it does not know begins with the next
scan, as number `from`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from app.exploration.driver import Pose
from app.exploration.lidar import Floats
from app.robots.vda5050.dialects import SCAN_TOPIC, BadMessage, load_object

MAX_BEAMS = 4096
MAX_PER_MESSAGE = 32
_MAX_RANGE_M = 1000.0
_MAX_NUMBER = 2**31
_MAX_ID = 256
_TOPIC, REQUEST_TOPIC = SCAN_TOPIC, "scanRequest"


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

    def renumbered(self, number: int) -> Self:
        """Return the scan with another number."""
        return replace(self, number=number)

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
        number = _whole(number, "number", _TOPIC)
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


@dataclass(frozen=True, slots=True)
class ScanMessage:
    """A message of the topic `scan`.

    Attributes:
        session: The session of its scans.
        scans: The scans.
        request_id: The request that it answers; '' if it was not asked for.
        count: The number of scans of the session so far; 0 if it does not say so.
    """

    session: str
    scans: list[NumberedScan]
    request_id: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """A message of the topic `scanRequest`.

    Attributes:
        request_id: Its id, which the answer has.
        session: The session.
        first: The number of the first scan that is asked for.
        end: The number behind the last one.
    """

    request_id: str
    session: str
    first: int
    end: int

    def encode(self, header: Mapping[str, Any]) -> bytes:
        """Return it as bytes, with a header by the names of the standard."""
        fields = {
            "requestId": self.request_id,
            "sessionId": self.session,
            "from": self.first,
            "to": self.end,
        }
        return json.dumps(dict(header) | fields).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read a message.

        Raises:
            BadMessage: It is malformed or too long.
        """
        message = load_object(payload, REQUEST_TOPIC)
        texts = [message.get(name) for name in ("requestId", "sessionId")]
        if not all(isinstance(each, str) and 0 < len(each) <= _MAX_ID for each in texts):
            raise BadMessage(
                f"{REQUEST_TOPIC}: requestId and sessionId: must be texts of 1 to {_MAX_ID} characters"
            )
        first, end = (_whole(message.get(name), name, REQUEST_TOPIC) for name in ("from", "to"))
        if end < first:
            raise BadMessage(f"{REQUEST_TOPIC}: to: {end} is before from, {first}")
        return cls(str(texts[0]), str(texts[1]), first, end)


def encode_scans(
    header: Mapping[str, Any],
    session: str,
    scans: Iterable[str],
    answer: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a message of scans that are encoded already.

    Args:
        header: By the names of the standard.
        session: The session of the scans.
        scans: The scans.
        answer: `requestId` and `count`, if it was asked for.
    """
    head = json.dumps(dict(header) | {"sessionId": session} | dict(answer or {}))
    return f'{head[:-1]}, "scans": [{", ".join(scans)}]}}'.encode()


def decode_scans(payload: bytes) -> ScanMessage:
    """Read a message of scans.

    Raises:
        BadMessage: It is malformed, too long, or has too many scans.
    """
    message = load_object(payload, _TOPIC)
    session, scans = message.get("sessionId"), message.get("scans")
    if not isinstance(session, str) or not isinstance(scans, list):
        raise BadMessage(f"{_TOPIC}: sessionId and scans: must be a text and a list")
    if len(scans) > MAX_PER_MESSAGE or not all(isinstance(each, dict) for each in scans):
        raise BadMessage(f"{_TOPIC}: scans: must be at most {MAX_PER_MESSAGE} objects")
    request_id = message.get("requestId", "")
    if not isinstance(request_id, str):
        raise BadMessage(f"{_TOPIC}: requestId: must be a text")
    count = _whole(message.get("count", 0), "count", _TOPIC)
    return ScanMessage(session, [NumberedScan.of_json(each) for each in scans], request_id, count)


def _whole(value: Any, name: str, topic: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
        raise BadMessage(f"{topic}: {name}: {value!r:.40} is not a number from 0 to {_MAX_NUMBER}")
    return value
