"""Keyframes: lidar scans that are kept permanently, and the grids drawn from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.exploration.grid import Box, GridFrame, LogOdds
from app.exploration.lidar import integrate
from app.exploration.mapping.scan_matching import LikelihoodField, likelihood_field
from app.exploration.se2 import Points, Transform


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One turn of a lidar, in the robot's frame.

    Attributes:
        angles: (beams,) float64 radians from the robot's heading; failed beams are left out.
        ranges: (beams,) float64 metres, infinite for a beam without return.
        reach: metres up to which a beam without return marks cells as free.
    """

    angles: npt.NDArray[np.float64]
    ranges: npt.NDArray[np.float64]
    reach: float

    def points(self) -> Points:
        """Return the end points of the returns, (n, 2) metres in the robot's frame."""
        returned = np.isfinite(self.ranges)
        ranges, angles = self.ranges[returned], self.angles[returned]
        return np.column_stack([ranges * np.cos(angles), ranges * np.sin(angles)])


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """A scan that is kept permanently.

    Attributes:
        driven: metres that the robot had driven by its odometry.
        scan: the scan.
        points: (n, 2) metres, its returns in the robot's frame.
    """

    driven: float
    scan: Scan
    points: Points


def draw_keyframes(
    evidence: LogOdds, frame: GridFrame, keyframes: Sequence[Keyframe], poses: Transform
) -> Box | None:
    """Add keyframes to an evidence grid, in place.

    Args:
        evidence: (rows, cols) int8 log-odds units, changed in place.
        frame: the grid's frame.
        keyframes: n keyframes.
        poses: (n, 3) in the frame that the grid lies in.

    Returns:
        The bounding box of the changed cells, None if no cell changed.

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


def keyframe_field(
    keyframes: Sequence[Keyframe], poses: Transform, around: Points, *, margin: float
) -> LikelihoodField:
    """Build the likelihood field of keyframes.

    Args:
        keyframes: n keyframes.
        poses: (n, 3) in the map's frame.
        around: (m, 2) metres, map's frame; the field spans these points and a margin.
        margin: metres.
    """
    return likelihood_field(
        [keyframe.points for keyframe in keyframes], poses, around, margin=margin
    )
