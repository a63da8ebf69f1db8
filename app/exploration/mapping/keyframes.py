"""Scans that are kept, and the evidence grid drawn from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.exploration.grid import Box, GridFrame, LogOdds
from app.exploration.lidar import integrate
from app.exploration.se2 import Points, Transform


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One turn of a lidar, in the robot's frame.

    Attributes:
        angles: (beams,) float64 radians from the robot's heading; failed beams are left out.
        ranges: (beams,) float64 metres, infinite for a beam without return.
        reach: metres, how far such a beam speaks for free ground.
    """

    angles: npt.NDArray[np.float64]
    ranges: npt.NDArray[np.float64]
    reach: float

    def points(self) -> Points:
        """Return the places of the returns, (n, 2) metres in the robot's frame."""
        there = np.isfinite(self.ranges)
        ranges, angles = self.ranges[there], self.angles[there]
        return np.column_stack([ranges * np.cos(angles), ranges * np.sin(angles)])


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """A scan kept for good.

    Attributes:
        robot: who took it.
        way: metres that the robot had driven by its odometry.
        scan: the scan.
        points: (n, 2) metres, its returns in the robot's frame.
    """

    robot: int
    way: float
    scan: Scan
    points: Points


def draw(
    evidence: LogOdds, frame: GridFrame, keyframes: Sequence[Keyframe], poses: Transform
) -> Box | None:
    """Add keyframes to an evidence grid, in place.

    Args:
        evidence: (rows, cols) int8 log-odds units, changed in place.
        frame: the grid's frame.
        keyframes: n of them.
        poses: (n, 3) in the frame that the grid lies in.

    Returns:
        A box around all that changed, None if nothing did.

    Raises:
        ValueError: a pose lies outside the grid.
    """
    changed: Box | None = None
    for keyframe, (x, y, heading) in zip(keyframes, poses, strict=True):
        scan = keyframe.scan
        angles = scan.angles + heading
        box = integrate(
            evidence, frame, (float(x), float(y)), angles, scan.ranges, reach=scan.reach
        )
        if box is not None:
            changed = box if changed is None else changed.union(box)
    return changed
