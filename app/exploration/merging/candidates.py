"""Candidate transforms between two maps, to be refined and ranked elsewhere.

Candidates come from correlation over all turns and shifts (as in Birk and Carpin 2006, but by
FFT), and from image features: ORB (Rublee et al., ICCV 2011) with RANSAC, as in map mergers for
ROS (Hörner, "Map-merging for multi-robot system", 2016).
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from app.exploration.grid import FREE, OCCUPIED
from app.exploration.merging.map_features import MapFeatures
from app.exploration.se2 import Points, Transform, apply, wrap

_COARSE_M = 0.2  # metres per cell of the correlation, unless the maps are too large
_MAX_CELLS = 288  # maximum side of the correlation, cells
_CONFLICT_COST = 2.0  # cost of a wall on free space, in matching walls
_FREE_GAIN = 0.04  # gain of free space on free space, in matching walls
_PEAK_SPACING_M = 0.75  # minimum distance between two peaks of one turn, metres

_PIXEL = 0.1  # metres per pixel of the image that ORB features are extracted from
_RIM = 20  # pixels around the map in that image
_GREY = {OCCUPIED: 0, FREE: 255}
_UNSEEN = 127
_FEATURES = 1500
_LEVELS = 2
_EDGE = 15
_CONTRAST = 10
_MIN_MATCHES = 5  # matches needed for a candidate
_INLIER_M = 0.3  # maximum error of an inlier, metres
_MAX_SCALE_ERROR = 0.1  # maximum difference in apparent size of the two maps
_ROUNDS = 3  # candidates by features


def by_correlation(
    one: MapFeatures, two: MapFeatures, *, turns: int, peaks: int
) -> list[Transform]:
    """Turn the second map step by step and correlate walls and free space.

    Args:
        one: a map.
        two: the map that is turned.
        turns: steps of a full turn.
        peaks: candidates for each step.

    Returns:
        Candidates, (3,) from the second's frame to the first's, in the order of their turns.
    """
    middle = (two.walls.min(axis=0) + two.walls.max(axis=0)) / 2.0
    walls, free = two.walls - middle, two.free_points - middle
    radius = max(float(np.hypot(*part.T).max(initial=0.0)) for part in (walls, free))
    low = np.minimum(one.walls.min(axis=0), one.free_points.min(axis=0, initial=np.inf))
    high = np.maximum(one.walls.max(axis=0), one.free_points.max(axis=0, initial=-np.inf))
    cell = max(_COARSE_M, (float((high - low).max()) + 2.0 * radius) / _MAX_CELLS)
    side = 2 * math.ceil(radius / cell) + 1
    shape = [fft.next_fast_len(int(n) + side, real=True) for n in np.ceil((high - low) / cell)][
        ::-1
    ]
    walls_one = _image((one.walls - low) / cell, shape)
    free_one = _image((one.free_points - low) / cell, shape)
    near_walls = cv2.GaussianBlur(walls_one, (0, 0), 1.0) * 4.0
    for_walls = fft.rfft2(near_walls - _CONFLICT_COST * free_one)
    for_free = fft.rfft2(_FREE_GAIN * free_one - _CONFLICT_COST * walls_one)
    found: list[Transform] = []
    for angle in np.arange(turns) * (2.0 * math.pi / turns):
        turn = np.array([0.0, 0.0, angle])
        shift = np.full(2, radius)
        turned_walls = fft.rfft2(_image((apply(turn, walls) + shift) / cell, shape))
        turned_free = fft.rfft2(_image((apply(turn, free) + shift) / cell, shape))
        fit = fft.irfft2(
            for_walls * np.conj(turned_walls) + for_free * np.conj(turned_free), s=shape
        )
        for _ in range(peaks):
            row, col = np.unravel_index(int(np.argmax(fit)), fit.shape)
            place = np.array([_signed(int(col), shape[1], side), _signed(int(row), shape[0], side)])
            moved = low + place * cell + shift - apply(turn, middle[None])[0]
            found.append(np.array([*moved, wrap(angle)]))
            reach = math.ceil(_PEAK_SPACING_M / cell)
            fit[
                max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1
            ] = -np.inf
    return found


def _signed(index: int, size: int, side: int) -> int:
    """Return the signed shift of an index of a circular correlation."""
    return index - size if index >= size - side else index


def _image(points: Points, shape: list[int]) -> npt.NDArray[np.float32]:
    """Rasterize points, given in cells: 1 in cells that hold any."""
    image = np.zeros(shape, np.float32)
    at = points.astype(np.int32)
    image[at[:, 1], at[:, 0]] = 1.0
    return image


def by_features(one: MapFeatures, two: MapFeatures) -> list[Transform]:
    """Match the maps' ORB features; matches that no candidate explains yield further candidates."""
    (here, at_here), (there, at_there) = _features(one), _features(two)
    if at_here is None or at_there is None:
        return []
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(at_there, at_here)
    starts = there[[match.queryIdx for match in matches]]
    ends = here[[match.trainIdx for match in matches]]
    found: list[Transform] = []
    for _ in range(_ROUNDS):
        if len(starts) < _MIN_MATCHES:
            break
        motion, inliers = cv2.estimateAffinePartial2D(starts, ends, ransacReprojThreshold=_INLIER_M)
        if motion is None:
            break
        if abs(math.hypot(motion[0, 0], motion[1, 0]) - 1.0) < _MAX_SCALE_ERROR:
            turn = math.atan2(motion[1, 0], motion[0, 0])
            middle = starts[inliers.ravel() > 0].mean(axis=0)
            place = motion[:, :2] @ middle + motion[:, 2]
            found.append(
                np.array([*(place - apply(np.array([0.0, 0.0, turn]), middle[None])[0]), turn])
            )
        starts, ends = starts[inliers.ravel() == 0], ends[inliers.ravel() == 0]
    return found


def _features(features: MapFeatures) -> tuple[Points, npt.NDArray[np.uint8] | None]:
    """Return the positions, (n, 2) metres, and descriptors, if any, of a map's ORB features."""
    picture = np.full(features.grid.shape, _UNSEEN, np.uint8)
    for value, grey in _GREY.items():
        picture[features.grid == value] = grey
    scale = features.frame.resolution / _PIXEL
    picture = np.asarray(
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
    )
    picture = np.asarray(
        cv2.copyMakeBorder(picture, _RIM, _RIM, _RIM, _RIM, cv2.BORDER_CONSTANT, value=[_UNSEEN]),
        np.uint8,
    )
    detector = cv2.ORB_create(  # type: ignore[attr-defined]
        _FEATURES, nlevels=_LEVELS, edgeThreshold=_EDGE, fastThreshold=_CONTRAST
    )
    corners, descriptors = detector.detectAndCompute(picture, None)
    corner = np.array([features.frame.origin_x, features.frame.origin_y])
    at = np.array([key.pt for key in corners]).reshape(-1, 2)
    return (at - _RIM + 0.5) * _PIXEL + corner, descriptors
