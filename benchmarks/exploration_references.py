"""How far the published poses of CARMEN logs can be trusted: what explains their distance to ours.

For each log it prints

- the ATE, and what is left of it with a lidar offset, a clock offset or a scale fitted too: if the
  published poses were those of another point of the robot or of another moment, it would vanish;
- how far a global alignment of all scans without odometry, from the published poses and from
  ours, moves from where it starts, and how far apart both end;
- the ATE within shorter parts of the log: noise of single poses, or bending of the whole;
- cells filled by returns on the way from our poses to the published ones (their difference,
  smoothed, so that the noise of single poses does not count): errors of either blur the walls;
- the longest straight wall of either map, and the RMS deviation of its metres from a line.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from exploration_log import mapped
from exploration_logs import corrected
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares

from app.exploration.evaluation.fidelity import alignment, trajectory_error
from app.exploration.mapping.pose_graph import Edge
from app.exploration.mapping.scan_alignment import align_scans
from app.exploration.mapping.scan_surfaces import ScanSurfaces, scan_surfaces
from app.exploration.mapping.slam import SlamMap
from app.exploration.se2 import Points, Transform, apply, between, compose
from app.exploration.simulation.log_replay import read_carmen

_CELL_M = 0.05
_NEAR_M = 15.0  # returns that count
_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SMOOTHING = 5.0  # scans, standard deviation
_NAMES = ("lidar offset", "clock offset", "scale")
_PARAMETERS = ((3, 4), (5,), (6,))

Floats = npt.NDArray[np.float64]


def fitted(ours: Transform, published: Transform, free: tuple[int, ...]) -> tuple[float, Floats]:
    """Fit a rigid transform and other parameters.

    Args:
        ours: (n, 3) poses, aligned with the published ones.
        published: (n, 3) poses of the same scans.
        free: which other parameters: lidar offset (3, 4), metres; clock offset (5), scans; logarithm
            of the scale (6).

    Returns:
        The RMS error, metres, and (7,) the parameters.
    """
    fixed = np.zeros(7)
    chosen = [0, 1, 2, *free]
    scans = np.arange(len(ours), dtype=np.float64)
    steady = np.column_stack([ours[:, :2], np.unwrap(ours[:, 2])])

    def off(values: Floats) -> Floats:
        x = fixed.copy()
        x[chosen] = values
        moved = np.column_stack([np.interp(scans + x[5], scans, axis) for axis in steady.T])
        lidar = compose(moved, np.array([x[3], x[4], 0.0]))[:, :2] * np.exp(x[6])
        return np.asarray(apply(x[:3], lidar) - published[:, :2]).ravel()

    found = least_squares(off, fixed[chosen], x_scale="jac")
    fixed[chosen] = found.x
    return float(np.sqrt(2.0 * found.cost / len(ours))), fixed


def filled_cells(scans: list[Points], poses: Transform) -> int:
    """Count the cells that hold a return."""
    drawn = [
        apply(pose, points[np.hypot(*points.T) < _NEAR_M])
        for points, pose in zip(scans, poses, strict=True)
    ]
    return len(np.unique(np.floor(np.vstack(drawn) / _CELL_M).astype(np.int64), axis=0))


class Walls:
    """The surfaces that all scans show, in the map's frame of given poses."""

    def __init__(self, surfaces: ScanSurfaces, poses: Transform) -> None:
        owner = np.repeat(np.arange(len(poses)), np.diff(surfaces.starts))
        near = np.hypot(*surfaces.points.T) < _NEAR_M
        heading = poses[owner, 2]
        turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
        self._points = (np.einsum("ijn,nj->ni", turn, surfaces.points) + poses[owner, :2])[near]
        normals = np.einsum("ijn,nj->ni", turn, surfaces.normals)[near]
        self._facing = np.arctan2(normals[:, 1], normals[:, 0])

    def longest(self) -> tuple[int, float, float, int]:
        """Find the longest wall: its metres, direction of its normal, distance, and first metre."""
        best = (0, 0.0, 0.0, 0)
        for facing in np.radians(np.arange(0.0, 360.0, 1.0)):
            across, along = self._along(facing, 4.0)
            strip, metre = np.floor(across / 0.3).astype(int), np.floor(along).astype(int)
            keys, counts = np.unique(np.column_stack([strip, metre]), axis=0, return_counts=True)
            keys = keys[counts >= 15]
            for each in np.unique(keys[:, 0]):
                metres = np.sort(keys[keys[:, 0] == each, 1])
                for part in np.split(metres, np.nonzero(np.diff(metres) > 4)[0] + 1):
                    if len(part) > best[0]:
                        best = (len(part), facing, 0.3 * (each + 0.5), int(part[0]))
        return best

    def profile(self, facing: float, distance: float, first: int, count: int) -> Floats:
        """Return how far each metre of a wall lies in front of a line; nan where it shows none."""
        across, along = self._along(facing, 6.0)
        near = np.abs(across - distance) < 0.6
        across, metre = across[near] - distance, np.floor(along[near]).astype(int) - first
        wall = np.full(count, np.nan)
        for index in range(count):
            here = across[metre == index]
            if len(here) >= 15:
                counts, edges = np.histogram(here, bins=np.arange(-0.6, 0.65, 0.05))
                peak = edges[int(np.argmax(np.convolve(counts, np.ones(3), "same")))] + 0.025
                wall[index] = np.median(here[np.abs(here - peak) < 0.1])
        return wall

    def _along(self, facing: float, degrees: float) -> tuple[Floats, Floats]:
        """Return the coordinates, along a normal and along its wall, of surfaces that face alike."""
        alike = np.abs(wrap_all(self._facing - facing)) < np.radians(degrees)
        x, y = self._points[alike].T
        cos, sin = np.cos(facing), np.sin(facing)
        return cos * x + sin * y, cos * y - sin * x


def wrap_all(angles: Floats) -> Floats:
    """Wrap angles to (-pi, pi], (n,)."""
    return np.asarray(np.remainder(angles + np.pi, 2.0 * np.pi) - np.pi)


def straightness(one: Walls, other: Walls) -> tuple[int, float, float]:
    """Return the metres of the longest wall that both show, and the RMS deviations from a line."""
    count, facing, distance, first = max(one.longest(), other.longest())
    span = int(count * 1.3)
    profiles = [walls.profile(facing, distance, first, span) for walls in (one, other)]
    metres = np.arange(span)
    both = np.isfinite(profiles[0]) & np.isfinite(profiles[1])
    for _ in range(5):  # doors and niches are no part of the wall
        lines = [np.polyfit(metres[both], wall[both], 1) for wall in profiles]
        off = [wall - np.polyval(line, metres) for wall, line in zip(profiles, lines, strict=True)]
        both &= (np.abs(off[0]) < 0.25) & (np.abs(off[1]) < 0.25)
    here, there = (float(np.sqrt(np.mean(each[both] ** 2))) for each in off)
    return int(both.sum()), here, there


def windowed(ours: Transform, published: Transform, length: int) -> float:
    """Return the RMS of the ATE of all parts of a track of some length, in scans, half overlapping."""
    parts = [slice(at, at + length) for at in range(0, len(ours) - length, length // 2)]
    errors = [trajectory_error(ours[part], published[part]) for part in parts]
    return float(np.sqrt(np.mean(np.square(errors))))


def report(path: Path) -> None:
    """Print what is known of one log."""
    records, published = read_carmen(path), corrected(path)
    slam, _ = mapped(records, records[0].odometry)
    ours = compose(alignment(slam.poses, published), slam.poses)
    scans = [keyframe.points for keyframe in slam.keyframes]
    print(f"{path.name.partition('.')[0]}: ATE {trajectory_error(ours, published):.3f} m")
    print(
        "  within 10, 30, 100 and 200 scans:",
        *(f"{windowed(ours, published, length):.3f}" for length in (10, 30, 100, 200)),
    )
    for name, free in zip(_NAMES, _PARAMETERS, strict=True):
        error, found = fitted(ours, published, free)
        print(f"  with a {name}: {error:.3f} m", *(f"{found[each]:.4f}" for each in free))
    theirs, alone = (aligned_from(slam, poses) for poses in (published, slam.poses))
    print(f"  by scans alone: from the published poses {trajectory_error(theirs, published):.3f} m from "
          f"them, from ours {trajectory_error(alone, ours):.3f} m from ours; "
          f"{trajectory_error(theirs, alone):.3f} m apart")  # fmt: skip
    off = published - ours
    off[:, 2] = wrap_all(off[:, 2])
    low, high = np.percentile(off, [1, 99], axis=0)
    off = gaussian_filter1d(np.clip(off, low, high), _SMOOTHING, axis=0, mode="nearest")
    counts = [filled_cells(scans, ours + step * off) for step in _STEPS]
    print(
        "  filled cells on the way to them:", *counts, "; with them", filled_cells(scans, published)
    )
    surfaces = scan_surfaces(scans)
    metres, here, there = straightness(Walls(surfaces, ours), Walls(surfaces, published))
    print(f"  longest wall: {metres} m, straight to {here:.3f} m, with them {there:.3f} m")


def aligned_from(slam: SlamMap, poses: Transform) -> Transform:
    """Align all scans with one another, starting at given poses, without odometry."""
    chain = [
        Edge(edge.start, edge.end, between(poses[edge.start], poses[edge.end]), edge.information,
             trusted=True)
        for edge in slam.graph.edges if edge.trusted
    ]  # fmt: skip
    return align_scans(scan_surfaces([each.points for each in slam.keyframes]), poses, chain, [])


def main() -> None:
    """Print a paragraph for each log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, nargs="+")
    for path in parser.parse_args().logs:
        report(path)


if __name__ == "__main__":
    main()
