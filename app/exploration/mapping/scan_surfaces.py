"""The surfaces that scans show: returns with the normal of the wall that they lie on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.se2 import Points

_NEIGHBOURS = 8  # returns to each side that a normal is fitted to
_NEAR_M = 0.15  # metres within which a neighbour counts
_NEAR_BEAMS = 4.0  # or this many times the distance between two beams there
_MIN_NEIGHBOURS = 3
_MAX_ROUGHNESS = 0.15  # variance across the line over that along it

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ScanSurfaces:
    """Returns of many scans on surfaces, scan by scan, each sorted by direction.

    Attributes:
        starts: (scans + 1,) int64, index of each scan's first return, and the number of all.
        directions: (n,) radians, -pi to pi, in the frame of the return's own scan.
        points: (n, 2) metres, in that frame.
        normals: (n, 2) unit vectors towards the lidar.
    """

    starts: npt.NDArray[np.int64]
    directions: Floats
    points: Points
    normals: Points


def scan_surfaces(scans: Sequence[Points]) -> ScanSurfaces:
    """Fit a normal to each return of each scan; a return without clear normal is left out.

    Args:
        scans: each (n, 2) metres, in its own frame, as seen from its origin.
    """
    found = [_scan_surface(points) for points in scans]
    starts = np.cumsum([0, *(len(directions) for directions, _, _ in found)])
    return ScanSurfaces(
        starts.astype(np.int64), *(np.concatenate(part) for part in zip(*found, strict=True))
    )


def _scan_surface(points: Points) -> tuple[Floats, Points, Points]:
    """Return direction, place and normal of the returns of one scan that have a normal."""
    directions = np.arctan2(points[:, 1], points[:, 0])
    order = np.argsort(directions, kind="stable")
    directions, points = directions[order], np.ascontiguousarray(points[order])
    beam = float(np.median(np.diff(directions))) if len(directions) > 1 else 0.0
    normals, clear = _normals(points, _NEAR_BEAMS * beam)
    return directions[clear], points[clear], normals[clear]


@njit(cache=True, nogil=True)
def _normals(points: Points, near: float) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Fit a line to the neighbours of each return, those within `near` radians or 0.15 m."""
    count = points.shape[0]
    normals = np.zeros((count, 2))
    clear = np.zeros(count, np.bool_)
    for index in range(count):
        x, y = points[index]
        limit = max(_NEAR_M, near * np.hypot(x, y))
        number = 0
        sums = np.zeros(5)
        for other in range(max(0, index - _NEIGHBOURS), min(count, index + _NEIGHBOURS + 1)):
            dx, dy = points[other, 0] - x, points[other, 1] - y
            if dx * dx + dy * dy < limit * limit:
                number += 1
                sums += np.array([dx, dy, dx * dx, dx * dy, dy * dy])
        if number < _MIN_NEIGHBOURS:
            continue
        sums /= number
        xx, xy = sums[2] - sums[0] * sums[0], sums[3] - sums[0] * sums[1]
        yy = sums[4] - sums[1] * sums[1]
        angle = 0.5 * np.arctan2(2.0 * xy, xx - yy)
        cos, sin = np.cos(angle), np.sin(angle)
        along = xx * cos * cos + 2.0 * xy * cos * sin + yy * sin * sin
        across = xx * sin * sin - 2.0 * xy * cos * sin + yy * cos * cos
        if across > _MAX_ROUGHNESS * along:
            continue
        side = -1.0 if cos * y - sin * x > 0.0 else 1.0
        normals[index, 0], normals[index, 1] = -side * sin, side * cos
        clear[index] = True
    return normals, clear
