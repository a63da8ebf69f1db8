"""A recorded run played as a robot: CARMEN text with laser scans and odometry.

The format is that of the CARMEN toolkit's `FLASER` lines: `FLASER n r1 ... rn x y theta odom_x
odom_y odom_theta time host time`, beams spread over half a turn from right to left.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from app.exploration.slam.keyframes import Scan
from app.exploration.slam.se2 import Transform

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
