"""Paths as a pose graph in the text format of g2o, in two dimensions.

A vertex is a corner of a robot's path, an edge the motion to the next one. The corners are within
5 cm of the driven path, and the information of an edge follows from that. The robots' own pose
graphs, with their loop closures, stay on the robots (decision 12).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from app.exploration.driver import Point, Pose
from app.exploration.se2 import between, of_pose

_SIGMA_M = 0.05
_SIGMA_RAD = 0.1
# The upper triangle of the information matrix of (x, y, heading), as g2o has it.
_INFORMATION = (
    *(1 / _SIGMA_M**2, 0.0, 0.0),
    *(1 / _SIGMA_M**2, 0.0),
    1 / _SIGMA_RAD**2,
)


def graph_of(paths: Mapping[str, Sequence[Point]]) -> str:
    """Return paths as the text of a g2o file.

    Args:
        paths: The path of each robot, metres, map frame, by its name. The first vertex of each is
            fixed: the paths are in one frame.
    """
    vertices, edges, fixed = [], [], []
    count = 0
    for points in paths.values():
        if not points:
            continue
        poses = _poses(points)
        fixed.append(f"FIX {count}")
        vertices += [
            f"VERTEX_SE2 {number} {_numbers((pose.x, pose.y, pose.heading))}"
            for number, pose in enumerate(poses, count)
        ]
        for number, (start, end) in enumerate(pairwise(poses), count):
            motion = between(of_pose(start), of_pose(end))
            edges.append(
                f"EDGE_SE2 {number} {number + 1} {_numbers(motion)} {_numbers(_INFORMATION)}"
            )
        count += len(poses)
    # GTSAM stops reading at a line that it does not know, such as FIX: these come last.
    return "\n".join([*vertices, *edges, *fixed, ""])


def _poses(points: Sequence[Point]) -> list[Pose]:
    """The poses of a path: each looks to the next point, the last one on."""
    poses: list[Pose] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        if (x0, y0) != (x1, y1):
            poses.append(Pose(x0, y0, math.atan2(y1 - y0, x1 - x0)))
    x, y = points[-1]
    return [*poses, Pose(x, y, poses[-1].heading if poses else 0.0)]


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{float(value):.9g}" for value in values)
