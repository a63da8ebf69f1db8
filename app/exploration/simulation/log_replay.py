"""A recorded run played as a robot: CARMEN text with laser scans and odometry.

The format is that of the CARMEN toolkit's `FLASER` lines: `FLASER n r1 ... rn x y theta odom_x
odom_y odom_theta time host time`, beams spread over half a turn from right to left.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from app.exploration.driver import Leg, Point, Pose
from app.exploration.grid import GridFrame
from app.exploration.mapping.keyframes import Scan
from app.exploration.mapping.slam import SlamMap
from app.exploration.mapping.submap_grid import Canvas
from app.exploration.se2 import Transform, between, of_pose, to_pose

_FIELD_OF_VIEW = math.pi
_LARGEST = 64 * 1024 * 1024  # bytes of text


class LogError(ValueError):
    """A log that cannot be read; the message names the file, the line and the fault."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One scan of a log.

    Attributes:
        scan: what the lidar saw.
        odometry: (3,) where the wheels say the robot was.
    """

    scan: Scan
    odometry: Transform


def read_carmen(path: Path, *, reach: float = 20.0) -> list[Record]:
    """Read a CARMEN text log, plain or gzipped.

    Args:
        path: the file.
        reach: metres; a beam without nearer return only speaks for free ground up to there.

    Raises:
        LogError: a line is malformed, there is no scan, or the text is too long.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file, _text(file, packed=path.suffix == ".gz") as content:
            text = content.read(_LARGEST + 1).decode("ascii", errors="replace")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LogError(f"log {path.name}: not gzip ({error})") from error
    if len(text) > _LARGEST:
        raise LogError(f"log {path.name}: more than {_LARGEST} bytes")
    records = [
        _record(path, number, line.split(), reach)
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("FLASER ")
    ]
    if not records:
        raise LogError(f"log {path.name}: no FLASER line")
    return records


class LogReplay:
    """A log that plays as a robot: a `RobotDriver` that goes where it once went.

    Args:
        records: what it lived through.
        slot: the robot's index in its mission.
        period_s: mission seconds from record to record.
    """

    def __init__(self, records: Sequence[Record], *, slot: int = 0, period_s: float = 1.0) -> None:
        self._records = records
        self._slot = slot
        self._period = period_s
        self._at = 0
        self._time = 0.0

    def attach(self, slam: SlamMap, frame: GridFrame) -> None:
        """Take up a map, and the grid in its frame that patches are of."""
        self._map = slam
        self._canvas = Canvas(frame)

    @property
    def over(self) -> bool:
        """Whether the log has been played to its end."""
        return self._at + 1 == len(self._records)

    def deploy(self, pose: Pose) -> Leg:
        """Begin the log; the pose is the first of its map."""
        self._map.begin(self._slot, self._records[0].scan, of_pose(pose))
        return self._report([pose], 0.0)

    def drive(self, path: Sequence[Point], until: float) -> Leg:  # noqa: ARG002, it knows its way
        """Play the log up to a mission second, wherever it was told to go."""
        stations = [self._pose()]
        driven = 0.0
        while not self.over and (self._at + 1) * self._period <= until:
            before, after = self._records[self._at : self._at + 2]
            motion = between(before.odometry, after.odometry)
            self._map.add(self._slot, after.scan, motion)
            driven += math.hypot(motion[0], motion[1])
            stations.append(self._pose())
            self._at += 1
        self._time = until
        return self._report(stations, driven)

    def recall(self) -> Leg:
        """Stop for good and report all that the robot ever saw."""
        return replace(self._report([self._pose()], 0.0), patch=self._canvas.whole())

    def _pose(self) -> Pose:
        return to_pose(self._map.last(self._slot))

    def _report(self, stations: Sequence[Pose], distance: float) -> Leg:
        own = self._map.of_robot(self._slot)
        keyframes = [self._map.keyframes[index] for index in own]
        return Leg(
            time=self._time,
            pose=self._pose(),
            distance=distance,
            path=tuple((pose.x, pose.y) for pose in stations),
            reached=0,
            arrived=self.over,
            blocked=False,
            patch=self._canvas.follow(keyframes, self._map.poses[own]),
        )


def _text(file: BinaryIO, *, packed: bool) -> BinaryIO:
    """Return the file, or what is packed in it."""
    return cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file


def _record(path: Path, number: int, fields: Sequence[str], reach: float) -> Record:
    """Read one line."""
    try:
        beams = int(fields[1])
        ranges = np.array(fields[2 : 2 + beams], float)
        odometry = np.array(fields[5 + beams : 8 + beams], float)
    except (ValueError, IndexError) as error:
        raise LogError(f"log {path.name}, line {number}: not a FLASER line") from error
    if len(ranges) != beams or len(odometry) != len("xyt") or not np.isfinite(odometry).all():
        raise LogError(f"log {path.name}, line {number}: {beams} beams are promised, not given")
    angles = np.linspace(-_FIELD_OF_VIEW / 2, _FIELD_OF_VIEW / 2, beams)
    valid = np.isfinite(ranges) & (ranges > 0.0)
    ranges = np.where(ranges > reach, np.inf, ranges)
    return Record(Scan(angles[valid], ranges[valid], reach), odometry)
