"""A robot that replays a recorded run: CARMEN text with laser scans and odometry.

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

from app.exploration.driver import DriveReport, Point, Pose
from app.exploration.grid import GridFrame
from app.exploration.mapping.keyframes import Scan
from app.exploration.mapping.slam import SlamMap
from app.exploration.mapping.submap_grid import SubmapGrid
from app.exploration.se2 import Transform, between, of_pose, to_pose
from app.exploration.simulation.interlaced_scans import beam_directions

_FIELD_OF_VIEW = math.pi
_MIN_BEAMS = 2
_INTERLACED = (360, 361)  # beams of a scan in two sweeps
_MAX_BYTES = 64 * 1024 * 1024  # bytes of text


class LogError(ValueError):
    """An unreadable log; the message names the file, the line and the fault."""


@dataclass(frozen=True, slots=True, eq=False)
class LogRecord:
    """One scan of a log.

    Attributes:
        scan: the lidar scan.
        odometry: (3,) the robot's pose by odometry.
    """

    scan: Scan
    odometry: Transform


def read_carmen(path: Path, *, reach: float = 20.0) -> list[LogRecord]:
    """Read a CARMEN text log, plain or gzipped.

    Args:
        path: the file.
        reach: metres; a longer range marks cells as free up to there only.

    Raises:
        LogError: a line is malformed, there is no scan, or the text is too long.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file, _opened(file, packed=path.suffix == ".gz") as content:
            text = content.read(_MAX_BYTES + 1).decode("ascii", errors="replace")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LogError(f"log {path.name}: not gzip ({error})") from error
    if len(text) > _MAX_BYTES:
        raise LogError(f"log {path.name}: more than {_MAX_BYTES} bytes")
    records = [
        _parse(path, number, line.split(), reach)
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("FLASER ")
    ]
    if not records:
        raise LogError(f"log {path.name}: no FLASER line")
    return records


class LogReplay:
    """A log that acts as a robot: a `RobotDriver` that drives along the path of the log.

    Args:
        records: the log.
        frame: of the grid that the robot reports patches of, in the map's frame.
        period_s: mission seconds from record to record.

    Attributes:
        slam: the map made from the log.
    """

    def __init__(
        self, records: Sequence[LogRecord], frame: GridFrame, *, period_s: float = 1.0
    ) -> None:
        self.slam = SlamMap()
        self._records = records
        self._grid = SubmapGrid(frame)
        self._period = period_s
        self._index = 0
        self._time = 0.0

    @property
    def finished(self) -> bool:
        """Whether the log has been replayed to its end."""
        return self._index + 1 == len(self._records)

    def deploy(self, pose: Pose) -> DriveReport:
        """Begin the log; the pose is that of the first keyframe in the map."""
        self.slam.begin(self._records[0].scan, of_pose(pose))
        return self._report([pose], 0.0)

    def drive(self, path: Sequence[Point], until: float) -> DriveReport:  # noqa: ARG002, the log decides
        """Replay the log up to a mission second; the path is ignored."""
        visited = [self._pose()]
        driven = 0.0
        while not self.finished and (self._index + 1) * self._period <= until:
            before, after = self._records[self._index : self._index + 2]
            motion = between(before.odometry, after.odometry)
            self.slam.add(after.scan, motion)
            driven += math.hypot(motion[0], motion[1])
            visited.append(self._pose())
            self._index += 1
        self._time = until
        return self._report(visited, driven)

    def recall(self) -> DriveReport:
        """Stop permanently, align all scans, and report everything that the robot saw."""
        self.slam.solve()
        return replace(self._report([self._pose()], 0.0), patch=self._grid.full_patch())

    def _pose(self) -> Pose:
        return to_pose(self.slam.last)

    def _report(self, visited: Sequence[Pose], distance: float) -> DriveReport:
        return DriveReport(
            time=self._time,
            pose=self._pose(),
            distance=distance,
            path=tuple((pose.x, pose.y) for pose in visited),
            reached=0,
            arrived=self.finished,
            blocked=False,
            patch=self._grid.update(self.slam.keyframes, self.slam.poses),
        )


def _opened(file: BinaryIO, *, packed: bool) -> BinaryIO:
    """Return the file, decompressed if it is packed."""
    return cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file


def _parse(path: Path, number: int, fields: Sequence[str], reach: float) -> LogRecord:
    """Parse one line."""
    try:
        beams = int(fields[1])
        ranges = np.array(fields[2 : 2 + beams], np.float64)
        odometry = np.array(fields[5 + beams : 8 + beams], float)
    except (ValueError, IndexError) as error:
        raise LogError(f"log {path.name}, line {number}: not a FLASER line") from error
    if len(ranges) != beams or len(odometry) != len("xyt") or not np.isfinite(odometry).all():
        raise LogError(f"log {path.name}, line {number}: fewer or more than {beams} beams")
    if beams < _MIN_BEAMS:
        raise LogError(f"log {path.name}, line {number}: fewer than {_MIN_BEAMS} beams")
    spacing = _FIELD_OF_VIEW / (beams - beams % 2)
    angles = np.asarray(spacing * np.arange(beams) - _FIELD_OF_VIEW / 2, np.float64)
    if beams in _INTERLACED:
        angles = beam_directions(angles, ranges)
    valid = np.isfinite(ranges) & (ranges > 0.0)
    ranges = np.where(ranges > reach, np.inf, ranges)
    return LogRecord(Scan(angles[valid], ranges[valid], reach), odometry)
