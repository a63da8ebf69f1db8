"""The perceptual aliasing test: how much of the common wall would fit elsewhere equally well.

A corridor fits anywhere along itself, and a rack on the next one: such a fit proves little. So the
common part of two maps is also matched against the rest of each map. The share of wall in the best
fit there is aliased; only the remaining share is distinct.
"""

import math
from dataclasses import replace

import numpy as np

from app.exploration.merging.agreement import classify_walls, shared_free_points
from app.exploration.merging.candidates import by_correlation
from app.exploration.merging.icp import icp_refine
from app.exploration.merging.map_features import MapFeatures
from app.exploration.se2 import IDENTITY, Points, Transform, apply, inverse, wrap

_TURNS = 90
_PEAKS = 1
_REACHES = (0.6, 0.3, 0.15)  # metres
_MAX_POINTS = 300  # wall points that are refined
_MIN_POINTS = 20  # fewer common wall points are not distinct
_SAME_M = 0.75
_SAME_RAD = math.radians(5.0)


def distinct_share(one: MapFeatures, two: MapFeatures, pose: Transform) -> float:
    """Return the share of the common wall that fits nowhere else in either map, 0 to 1.

    Args:
        one: a map.
        two: the other map.
        pose: (3,) from its frame to the first's.
    """
    ours, theirs = _common(two, one, inverse(pose)), _common(one, two, pose)
    if min(len(ours.walls), len(theirs.walls)) < _MIN_POINTS:
        return 0.0
    return 1.0 - max(
        _best_share_elsewhere(one, ours, IDENTITY),
        _best_share_elsewhere(two, theirs, IDENTITY),
        _best_share_elsewhere(one, theirs, pose),
    )


def same_place(pose: Transform, other: Transform, centroid: Points) -> bool:
    """Return whether two transforms move a map to the same place, by its centroid, (1, 2)."""
    off = apply(pose, centroid) - apply(other, centroid)
    return float(np.hypot(*off[0])) < _SAME_M and abs(wrap(pose[2] - other[2])) < _SAME_RAD


def _common(here: MapFeatures, there: MapFeatures, motion: Transform) -> MapFeatures:
    """Cut a map to the walls and free points that another map shows as well."""
    walls = classify_walls(here, there, motion) > 0
    return replace(
        there,
        walls=there.walls[walls],
        normals=there.normals[walls],
        free_points=there.free_points[shared_free_points(here, there, motion)],
    )


def _best_share_elsewhere(here: MapFeatures, part: MapFeatures, own_pose: Transform) -> float:
    """Return the highest share of a part's walls that fits in a map, its own place excluded.

    Walls that would contradict the map there are subtracted.
    """
    step = max(1, len(part.walls) // _MAX_POINTS)
    thin = replace(part, walls=part.walls[::step], normals=part.normals[::step])
    centroid = part.walls.mean(axis=0, keepdims=True)
    best = 0.0
    for guess in by_correlation(here, part, turns=_TURNS, peaks=_PEAKS):
        pose = icp_refine(here, thin.walls, thin.normals, guess, reaches=_REACHES)
        if not same_place(pose, own_pose, centroid):
            best = max(best, float(classify_walls(here, thin, pose).mean()))
    return best
