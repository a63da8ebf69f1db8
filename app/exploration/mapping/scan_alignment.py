"""Globally consistent alignment of all scans of a map.

The front end matches a scan against the last ones only, each as it came. Here each scan is matched
against every scan nearby in time or space, and all matches are solved together: Lu and Milios,
"Globally Consistent Range Scan Alignment for Environment Mapping" (1997), with the point-to-line
metric of Censi (ICRA 2008). Each round takes one step of each match, so that all rounds together
descend to poses that fit all pairs of scans.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.mapping.pose_graph import Edge, PoseGraph
from app.exploration.mapping.scan_surfaces import ScanSurfaces
from app.exploration.se2 import Points, Transform, between, compose

_ROUNDS = ((0.15, 0.5), (0.1, 0.4), (0.07, 0.3), (0.07, 0.3), (0.07, 0.3))
# standard deviation of a return, metres, and the distance within which returns are paired
_SETTLED_M = 0.02  # the last rounds end when no pose moves further
_SUCCESSIVE = 6  # earlier scans that each scan is matched against
_RADIUS_M = 10.0  # metres within which it is matched against older ones
_OLDER = 12  # of them at most
_GAP = 15  # scans from which one counts as older
_APART = 3  # scans between two of them
_MIN_PAIRS = 15  # returns
_MIN_OVERLAP = 0.3  # share of the returns in the other scan's view that have a partner
_SAME_SIDE = 0.8  # minimum cosine between the normals of paired returns
_MAX_BEAMS = 25  # beams to each side that are searched for a partner
_MIN_RANGE_M = 0.05
_DAMPING = 1e-3  # of the number of pairs; it keeps a pair of scans from sliding along bare walls
_INFORMATION_SHARE = 0.1  # of the curvature: returns from one surface do not err independently


def align_scans(
    surfaces: ScanSurfaces, poses: Transform, chain: Sequence[Edge], odometry: Sequence[Edge]
) -> Transform:
    """Find the poses at which all scans fit one another best.

    Args:
        surfaces: the surfaces of n scans.
        poses: (n, 3) first guess, off by less than 0.5 m between scans of one place.
        chain: n - 1 edges between successive scans, for those that do not fit one another.
        odometry: edges by odometry, not trusted.

    Returns:
        (n, 3) poses.
    """
    for number, (sigma, reach) in enumerate(_ROUNDS, 1):
        pairs = _pairs(poses)
        motions = between(poses[pairs[:, 0]], poses[pairs[:, 1]])
        information, steps, fits = _match_pairs(
            surfaces.starts,
            surfaces.directions,
            surfaces.points,
            surfaces.normals,
            pairs,
            motions,
            sigma,
            reach,
        )
        motions = compose(motions, steps)
        graph = PoseGraph()
        joined = np.zeros(len(poses), np.bool_)
        for index in np.nonzero(fits)[0]:
            start, end = int(pairs[index, 0]), int(pairs[index, 1])
            joined[end] |= end - start == 1
            share = _INFORMATION_SHARE * information[index]
            graph.add(Edge(start, end, motions[index], share, trusted=end - start == 1))
        for edge in chain:
            if not joined[edge.end]:
                graph.add(edge)
        for edge in odometry:
            graph.add(edge)
        moved = graph.solve(poses)
        settled = float(np.abs(moved - poses)[:, :2].max()) < _SETTLED_M
        poses = moved
        if settled and number >= len(_ROUNDS) - 2:
            break
    return poses


def _pairs(poses: Transform) -> npt.NDArray[np.int64]:
    """Choose pairs of scans, (m, 2) indices: successive ones, and older ones nearby."""
    pairs: list[tuple[int, int]] = []
    for end, pose in enumerate(poses):
        pairs.extend((start, end) for start in range(max(0, end - _SUCCESSIVE), end))
        older = poses[: max(0, end - _GAP + 1), :2]
        distances = np.hypot(*(older - pose[:2]).T)
        chosen: list[int] = []
        for start in np.argsort(distances, kind="stable"):
            if distances[start] > _RADIUS_M or len(chosen) == _OLDER:
                break
            if all(abs(other - start) > _APART for other in chosen):
                chosen.append(int(start))
        pairs.extend((start, end) for start in chosen)
    return np.array(pairs, np.int64).reshape(-1, 2)


@njit(cache=True, nogil=True)
def _match_pairs(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    starts: npt.NDArray[np.int64],
    directions: npt.NDArray[np.float64],
    points: Points,
    normals: Points,
    pairs: npt.NDArray[np.int64],
    motions: Transform,
    sigma: float,
    reach: float,
) -> tuple[npt.NDArray[np.float64], Transform, npt.NDArray[np.bool_]]:
    """Take one step of each match.

    Returns:
        (m, 3, 3) information of each step in the second scan's frame, (m, 3) the step in that
        frame, and (m,) whether the scans of the pair fit one another.
    """
    count = pairs.shape[0]
    information = np.zeros((count, 3, 3))
    steps = np.zeros((count, 3))
    fits = np.zeros(count, np.bool_)
    for index in range(count):
        here = slice(starts[pairs[index, 0]], starts[pairs[index, 0] + 1])
        there = slice(starts[pairs[index, 1]], starts[pairs[index, 1] + 1])
        partners, paired, seen, hessian, gradient = _match(
            directions[here],
            points[here],
            normals[here],
            points[there],
            normals[there],
            motions[index],
            sigma,
            reach,
        )
        if partners < _MIN_PAIRS or paired < _MIN_OVERLAP * seen:
            continue
        damped = hessian + _DAMPING * partners * np.eye(3)
        steps[index] = np.linalg.solve(damped, gradient)
        information[index] = hessian / (sigma * sigma)
        fits[index] = True
    return information, steps, fits


@njit(cache=True, nogil=True)
def _match(  # noqa: PLR0917, compiled: no keyword crosses cheaply
    directions: npt.NDArray[np.float64],
    walls: Points,
    wall_normals: Points,
    points: Points,
    normals: Points,
    motion: Transform,
    sigma: float,
    reach: float,
) -> tuple[int, int, int, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pair the returns of a scan with those of another that lie in the same direction.

    Returns:
        The number of returns that are partners, of those that have one, and of those in the other
        scan's view; curvature and gradient of half the squared distance between the paired
        surfaces, in the scan's frame.
    """
    hessian = np.zeros((3, 3))
    gradient = np.zeros(3)
    jacobian = np.zeros(3)
    count = walls.shape[0]
    if count < _MIN_PAIRS:
        return 0, 0, 1, hessian, gradient
    beam = (directions[-1] - directions[0]) / (count - 1)
    cos, sin = np.cos(motion[2]), np.sin(motion[2])
    partners = np.full(points.shape[0], -1)
    shared = np.zeros(count, np.int64)
    paired, seen = 0, 0
    for index in range(points.shape[0]):
        x = cos * points[index, 0] - sin * points[index, 1] + motion[0]
        y = sin * points[index, 0] + cos * points[index, 1] + motion[1]
        distance = np.hypot(x, y)
        at = np.searchsorted(directions, np.arctan2(y, x))
        if distance < _MIN_RANGE_M or at in (0, count):
            continue
        seen += 1
        to_x = cos * normals[index, 0] - sin * normals[index, 1]
        to_y = sin * normals[index, 0] + cos * normals[index, 1]
        side = min(int(reach / distance / beam) + 2, _MAX_BEAMS)
        nearest, wall = reach * reach, -1
        for other in range(max(0, at - side), min(count, at + side + 1)):
            if to_x * wall_normals[other, 0] + to_y * wall_normals[other, 1] < _SAME_SIDE:
                continue
            dx, dy = x - walls[other, 0], y - walls[other, 1]
            if dx * dx + dy * dy < nearest:
                nearest, wall = dx * dx + dy * dy, other
        if wall >= 0:
            paired += 1
            partners[index] = wall
            shared[wall] += 1
    for index in range(points.shape[0]):
        wall = partners[index]
        if wall < 0:
            continue
        x = cos * points[index, 0] - sin * points[index, 1] + motion[0]
        y = sin * points[index, 0] + cos * points[index, 1] + motion[1]
        to_x = cos * normals[index, 0] - sin * normals[index, 1] + wall_normals[wall, 0]
        to_y = sin * normals[index, 0] + cos * normals[index, 1] + wall_normals[wall, 1]
        length = np.hypot(to_x, to_y)
        to_x, to_y = to_x / length, to_y / length
        off = to_x * (x - walls[wall, 0]) + to_y * (y - walls[wall, 1])
        # A surface close to one lidar and far from the other has many returns for one partner.
        weight = np.exp(-0.5 * off * off / (sigma * sigma)) / shared[wall]
        jacobian[0], jacobian[1] = to_x * cos + to_y * sin, to_y * cos - to_x * sin
        jacobian[2] = jacobian[1] * points[index, 0] - jacobian[0] * points[index, 1]
        for first in range(3):
            gradient[first] -= weight * jacobian[first] * off
            for second in range(3):
                hessian[first, second] += weight * jacobian[first] * jacobian[second]
    return int(np.count_nonzero(shared)), paired, seen, hessian, gradient
