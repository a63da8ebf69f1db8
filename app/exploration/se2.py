"""Rigid transforms of the plane as arrays: (..., 3) float64 of x, y in metres, angle in radians."""

import math
from typing import cast

import numpy as np
import numpy.typing as npt

from app.exploration.driver import Pose

Transform = npt.NDArray[np.float64]
"""(3,) or (n, 3) float64: x, y, angle; transforms points of one frame into another."""

Points = npt.NDArray[np.float64]
"""(n, 2) float64 metres."""

IDENTITY: Transform = np.zeros(3)


def wrap(angle: float) -> float:
    """Return the same angle within -pi to pi."""
    return math.remainder(angle, 2.0 * math.pi)


def compose(first: Transform, second: Transform) -> Transform:
    """Return `first` after `second`: a transform in the second frame, expressed in the first.

    Either may be (3,) or (n, 3); they are broadcast.
    """
    first, second = np.broadcast_arrays(first, second)
    cos, sin = np.cos(first[..., 2]), np.sin(first[..., 2])
    return np.stack(
        [
            first[..., 0] + cos * second[..., 0] - sin * second[..., 1],
            first[..., 1] + sin * second[..., 0] + cos * second[..., 1],
            _wrapped(first[..., 2] + second[..., 2]),
        ],
        axis=-1,
    )


def inverse(transform: Transform) -> Transform:
    """Return the inverse of a transform, (3,) or (n, 3)."""
    cos, sin = np.cos(transform[..., 2]), np.sin(transform[..., 2])
    return np.stack(
        [
            -cos * transform[..., 0] - sin * transform[..., 1],
            sin * transform[..., 0] - cos * transform[..., 1],
            _wrapped(-transform[..., 2]),
        ],
        axis=-1,
    )


def between(start: Transform, end: Transform) -> Transform:
    """Return the end as seen from the start: the relative transform."""
    return compose(inverse(start), end)


def apply(transform: Transform, points: Points) -> Points:
    """Transform points, (n, 2) metres, by one transform, (3,)."""
    cos, sin = math.cos(transform[2]), math.sin(transform[2])
    turn = np.array([[cos, sin], [-sin, cos]])
    return cast("Points", points @ turn + transform[:2])


def of_pose(pose: Pose) -> Transform:
    """Return a pose as a transform, (3,), from the robot's frame to the map's."""
    return np.array([pose.x, pose.y, pose.heading])


def to_pose(transform: Transform) -> Pose:
    """Return a transform, (3,), as a pose."""
    return Pose(float(transform[0]), float(transform[1]), float(transform[2]))


def _wrapped(angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.remainder(angle + math.pi, 2.0 * math.pi) - math.pi)
