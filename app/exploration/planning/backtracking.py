"""The way back along a robot's own track, where it fits even if its map shows no way.

Walls are drawn up to a cell too thick, and collision cells are barred, so a robot may enter a place
that its map offers no way out of. But it fits wherever it has driven before.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import dist

from app.exploration.driver import Point, Pose

_STEP_M = 0.5  # spacing of the points on its track from which a boxed-in robot searches
_LENGTH_M = 20.0  # length of the track that it searches


def backtracks(pose: Pose, track: Sequence[Point]) -> Iterator[tuple[Point, ...]]:
    """Yield paths back along a robot's track, each half a metre longer than the last.

    The first is empty. Where the track passes a point twice, the loop between is cut out.
    """
    yield ()
    path = [(pose.x, pose.y)]
    yielded = 0.0
    for point in reversed(track):
        if point in path:
            del path[path.index(point) + 1 :]
            continue
        path.append(point)
        length = path_length(path)
        if length >= yielded + _STEP_M:
            yielded = length
            yield tuple(path[1:])
        if length >= _LENGTH_M:
            return


def path_length(points: Sequence[Point]) -> float:
    """Return the length of a path, metres."""
    return sum(dist(start, end) for start, end in pairwise(points))
