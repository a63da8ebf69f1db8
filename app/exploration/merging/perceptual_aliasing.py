"""How much of what two maps have in common could not be elsewhere just as well.

A corridor fits anywhere along itself, and a rack upon the next one; that they fit says little. So
what is common is laid upon the rest of both maps, too: what fits best there is what chance, or the
builder's habit, gives for nothing. Only the walls that it leaves over speak for the place.
"""

import math
from dataclasses import replace

import numpy as np

from app.exploration.merging.agreement import common_ground, judge
from app.exploration.merging.candidates import by_correlation
from app.exploration.merging.icp import climb
from app.exploration.merging.map_features import Sheet
from app.exploration.se2 import IDENTITY, Points, Transform, apply, inverse, wrap

_TURNS = 90
_PEAKS = 1
_REACHES = (0.6, 0.3, 0.15)  # metres
_CLIMBERS = 300  # points that climb
_FEWEST = 20  # points that can be told from others
_SAME_M = 0.75
_SAME_RAD = math.radians(5.0)


def distinct_share(one: Sheet, two: Sheet, pose: Transform) -> float:
    """Return the share of the common wall that fits nowhere else in either map, 0 to 1.

    Args:
        one: a map.
        two: the other one.
        pose: (3,) of its frame in the first's.
    """
    ours, theirs = _common(two, one, inverse(pose)), _common(one, two, pose)
    if min(len(ours.walls), len(theirs.walls)) < _FEWEST:
        return 0.0
    return 1.0 - max(
        _elsewhere(one, ours, IDENTITY),
        _elsewhere(two, theirs, IDENTITY),
        _elsewhere(one, theirs, pose),
    )


def same_place(pose: Transform, other: Transform, middle: Points) -> bool:
    """Tell whether two motions put a map, known by its middle, (1, 2), into the same place."""
    off = apply(pose, middle) - apply(other, middle)
    return float(np.hypot(*off[0])) < _SAME_M and abs(wrap(pose[2] - other[2])) < _SAME_RAD


def _common(here: Sheet, there: Sheet, motion: Transform) -> Sheet:
    """Cut a map to the walls and the ground that another shows, too."""
    walls = judge(here, there, motion) > 0
    return replace(
        there,
        walls=there.walls[walls],
        facing=there.facing[walls],
        ground=there.ground[common_ground(here, there, motion)],
    )


def _elsewhere(here: Sheet, part: Sheet, place: Transform) -> float:
    """Return the highest share of a part's walls that fits in a map but at its own place.

    Walls that would contradict the map there are taken off.
    """
    step = max(1, len(part.walls) // _CLIMBERS)
    thin = replace(part, walls=part.walls[::step], facing=part.facing[::step])
    middle = part.walls.mean(axis=0, keepdims=True)
    best = 0.0
    for guess in by_correlation(here, part, turns=_TURNS, peaks=_PEAKS):
        pose = climb(here, thin.walls, thin.facing, guess, reaches=_REACHES)
        if not same_place(pose, place, middle):
            best = max(best, float(judge(here, thin, pose).mean()))
    return best
