"""Where one map might lie in another's frame: guesses, to be climbed and judged elsewhere.

By correlation over all turns and shifts (as Birk and Carpin 2006 search, but by FFT), and by
features of the maps as pictures: ORB (Rublee et al., ICCV 2011) with RANSAC, as map mergers for
ROS do it (Hörner, "Map-merging for multi-robot system", 2016).
"""

import math

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from app.exploration.grid import FREE, OCCUPIED
from app.exploration.merging.map_features import Sheet
from app.exploration.se2 import Points, Transform, apply, wrap

_COARSE = 0.2  # metres a cell of the correlation, if the maps are not too large for it
_LARGEST = 288  # cells of the correlation to a side, at most
_BLOCKED = 2.0  # what a wall on free ground costs, in walls that fit
_OPEN = 0.04  # what free ground on free ground is worth, likewise
_APART = 0.75  # metres between them

_PIXEL = 0.1  # metres a pixel of the picture that features are found in
_RIM = 20  # pixels around it
_GREY = {OCCUPIED: 0, FREE: 255}
_UNSEEN = 127
_FEATURES = 1500
_LEVELS = 2
_EDGE = 15
_CONTRAST = 10
_FEWEST = 5  # matches that make a guess
_NEAR = 0.3  # metres by which a match may be off
_SCALE = 0.1  # by which the two maps may seem to differ in size
_ROUNDS = 3  # guesses by features


def by_correlation(one: Sheet, two: Sheet, *, turns: int, peaks: int) -> list[Transform]:
    """Turn the second map step by step and correlate walls and free ground.

    Args:
        one: a map.
        two: the map that is turned.
        turns: steps of a whole turn.
        peaks: guesses for each.

    Returns:
        Guesses, (3,) of the second's frame in the first's, in the order of their turns.
    """
    middle = (two.walls.min(axis=0) + two.walls.max(axis=0)) / 2.0
    walls, ground = two.walls - middle, two.ground - middle
    radius = max(float(np.hypot(*part.T).max(initial=0.0)) for part in (walls, ground))
    low = np.minimum(one.walls.min(axis=0), one.ground.min(axis=0, initial=np.inf))
    high = np.maximum(one.walls.max(axis=0), one.ground.max(axis=0, initial=-np.inf))
    cell = max(_COARSE, (float((high - low).max()) + 2.0 * radius) / _LARGEST)
    side = 2 * math.ceil(radius / cell) + 1
    shape = [fft.next_fast_len(int(n) + side, real=True) for n in np.ceil((high - low) / cell)][
        ::-1
    ]
    walls_one = _image((one.walls - low) / cell, shape)
    ground_one = _image((one.ground - low) / cell, shape)
    near_walls = cv2.GaussianBlur(walls_one, (0, 0), 1.0) * 4.0
    for_walls = fft.rfft2(near_walls - _BLOCKED * ground_one)
    for_ground = fft.rfft2(_OPEN * ground_one - _BLOCKED * walls_one)
    found: list[Transform] = []
    for angle in np.arange(turns) * (2.0 * math.pi / turns):
        turn = np.array([0.0, 0.0, angle])
        shift = np.full(2, radius)
        turned_walls = fft.rfft2(_image((apply(turn, walls) + shift) / cell, shape))
        turned_ground = fft.rfft2(_image((apply(turn, ground) + shift) / cell, shape))
        fit = fft.irfft2(
            for_walls * np.conj(turned_walls) + for_ground * np.conj(turned_ground), s=shape
        )
        for _ in range(peaks):
            row, col = np.unravel_index(int(np.argmax(fit)), fit.shape)
            place = np.array([_signed(int(col), shape[1], side), _signed(int(row), shape[0], side)])
            moved = low + place * cell + shift - apply(turn, middle[None])[0]
            found.append(np.array([*moved, wrap(angle)]))
            reach = math.ceil(_APART / cell)
            fit[
                max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1
            ] = -np.inf
    return found


def _signed(index: int, size: int, side: int) -> int:
    """Return the shift that an index of a circular correlation stands for."""
    return index - size if index >= size - side else index


def _image(points: Points, shape: list[int]) -> npt.NDArray[np.float32]:
    """Raster points, given in cells: one where there are any."""
    image = np.zeros(shape, np.float32)
    at = points.astype(np.int32)
    image[at[:, 1], at[:, 0]] = 1.0
    return image


def by_features(one: Sheet, two: Sheet) -> list[Transform]:
    """Match corners of the maps as pictures; of what no guess explains, further ones are made."""
    (here, at_here), (there, at_there) = _features(one), _features(two)
    if at_here is None or at_there is None:
        return []
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(at_there, at_here)
    starts = there[[match.queryIdx for match in matches]]
    ends = here[[match.trainIdx for match in matches]]
    found: list[Transform] = []
    for _ in range(_ROUNDS):
        if len(starts) < _FEWEST:
            break
        motion, inliers = cv2.estimateAffinePartial2D(starts, ends, ransacReprojThreshold=_NEAR)
        if motion is None:
            break
        if abs(math.hypot(motion[0, 0], motion[1, 0]) - 1.0) < _SCALE:
            turn = math.atan2(motion[1, 0], motion[0, 0])
            middle = starts[inliers.ravel() > 0].mean(axis=0)
            place = motion[:, :2] @ middle + motion[:, 2]
            found.append(
                np.array([*(place - apply(np.array([0.0, 0.0, turn]), middle[None])[0]), turn])
            )
        starts, ends = starts[inliers.ravel() == 0], ends[inliers.ravel() == 0]
    return found


def _features(sheet: Sheet) -> tuple[Points, npt.NDArray[np.uint8] | None]:
    """Return where a map's corners are, (n, 2) metres, and how they look, None without any."""
    picture = np.full(sheet.grid.shape, _UNSEEN, np.uint8)
    for value, grey in _GREY.items():
        picture[sheet.grid == value] = grey
    scale = sheet.frame.resolution / _PIXEL
    picture = np.asarray(
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
    )
    picture = np.asarray(
        cv2.copyMakeBorder(picture, _RIM, _RIM, _RIM, _RIM, cv2.BORDER_CONSTANT, value=[_UNSEEN]),
        np.uint8,
    )
    finder = cv2.ORB_create(  # type: ignore[attr-defined]
        _FEATURES, nlevels=_LEVELS, edgeThreshold=_EDGE, fastThreshold=_CONTRAST
    )
    corners, looks = finder.detectAndCompute(picture, None)
    corner = np.array([sheet.frame.origin_x, sheet.frame.origin_y])
    at = np.array([key.pt for key in corners]).reshape(-1, 2)
    return (at - _RIM + 0.5) * _PIXEL + corner, looks
