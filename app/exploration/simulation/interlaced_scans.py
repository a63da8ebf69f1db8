"""Scans of a SICK LMS with half-degree beams, taken while the robot turns.

The mirror takes a beam each degree. For half a degree, the lidar interlaces two sweeps of
successive turns of the mirror, 13 ms apart, the second half a degree further (documentation of
Orca's Laser2d component). If the robot turns in between, the odd beams lie in other directions
than their numbers say: by 1 degree at 75 degrees a second. A log does not hold the speed of the
turn, but the scan shows it, since both sweeps see the same walls.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BEAM = math.radians(0.5)
_SHIFTS = np.linspace(-2.5, 2.5, 51)  # beams that the robot may turn between the sweeps
_SIDE = 3  # beams to each side that a compared one needs, more than the largest turn
_NEAR_M = 15.0  # ranges that are compared
_OUTLIER_M = 0.06  # a larger difference counts as this
_MIN_BEAMS = 40  # compared
_BETTER = 0.9  # share of the difference by number that a turn may leave at most


def beam_directions(angles: Floats, ranges: Floats) -> Floats:
    """Return the directions of beams in the robot's frame at the middle of the scan.

    Args:
        angles: (n,) radians from the robot's heading, half a degree apart.
        ranges: (n,) metres by beam; infinite, not positive or not a number without a return.

    Returns:
        (n,) radians; the angles, if the robot did not turn.
    """
    sweep = np.where(np.arange(len(angles)) % 2, 0.5, -0.5)
    return angles + _turn(ranges) * sweep


def _turn(ranges: Floats) -> float:
    """Return by how much the robot turned from the first sweep to the second, radians.

    The ranges of odd beams are compared with what the even ones show in the directions that a turn
    would give them. If none fits clearly better than the directions by number, it is 0.
    """
    beams = np.arange(len(ranges))
    windows = np.lib.stride_tricks.sliding_window_view(ranges, 2 * _SIDE + 1)
    odd = beams[_SIDE:-_SIDE][((windows > 0.0) & (windows < _NEAR_M)).all(axis=1)]
    odd = odd[odd % 2 == 1]
    if len(odd) < _MIN_BEAMS:
        return 0.0
    shown = np.interp(odd + _SHIFTS[:, None], beams[::2], ranges[::2])
    off = np.minimum(np.abs(shown - ranges[odd]), _OUTLIER_M).mean(axis=1)
    off = np.convolve(np.pad(off, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    best = int(np.argmin(off))
    if off[best] >= _BETTER * off[len(off) // 2]:
        return 0.0
    return float(_SHIFTS[best]) * _BEAM
