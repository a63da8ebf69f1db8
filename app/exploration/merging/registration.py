"""Registration of two maps in unrelated frames, and the gate that accepts or rejects it.

Each candidate transform is refined, and the one that the walls of both maps support best is
returned with the figures that the gate needs: how far both maps agree there (`agreement`), and
how much of their common wall would fit nowhere else (`perceptual_aliasing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.exploration.grid import Grid, GridFrame
from app.exploration.merging.agreement import (
    longest_conflict,
    residual_rms,
    shared_free_points,
    wall_support,
)
from app.exploration.merging.candidates import by_correlation, by_features
from app.exploration.merging.icp import icp_refine
from app.exploration.merging.map_features import MapFeatures, extract_features
from app.exploration.merging.perceptual_aliasing import distinct_share, same_place
from app.exploration.se2 import Transform, inverse

_TURNS = 180
_PEAKS = 8
_REACHES = (0.8, 0.5, 0.3, 0.15)  # metres within which walls are paired, one refinement each
_FINAL_REACHES = (0.25, 0.15)
_FEW_POINTS = 500  # points of each map that candidates are refined and ranked by
_FINALISTS = 8  # distinct places that are refined and ranked by all points
_CONFLICT_COST = 12.0  # metres of common wall that a metre of conflicting wall outweighs
_LONG_CONFLICT_COST = 40.0  # the same for a metre of one connected conflict, among the finalists
_NOISE_M = 0.15  # metres of stray cells that may look like one wall
_FREE_GAIN = 0.05  # gain of a square metre of shared free space, in metres of common wall


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """Where one map lies in another's frame, and the evidence for it.

    Attributes:
        transform: (3,) from the second map's frame to the first's.
        walls: metres of wall that both maps show in the same place.
        agreement: share of the walls in the common known area that both show, 0 to 1.
        distinct: metres of the common wall that would fit nowhere else in either map.
        conflict: end-to-end metres of the longest wall of one map in the other's free space.
        residual_rms: RMS offset between pieces of common wall, metres.
    """

    transform: Transform
    walls: float
    agreement: float
    distinct: float
    conflict: float
    residual_rms: float


def register(
    first: Grid, first_frame: GridFrame, second: Grid, second_frame: GridFrame
) -> Registration | None:
    """Find where the second map lies in the first's frame.

    Args:
        first: (rows, cols) int8 occupancy.
        first_frame: where it lies.
        second: (rows, cols) int8 occupancy.
        second_frame: where it lies.

    Returns:
        The best fit, right or wrong: see `RegistrationGate`. None if a map shows no wall.
    """
    one, two = extract_features(first, first_frame), extract_features(second, second_frame)
    if one is None or two is None:
        return None
    few, others = _thinned(one), _thinned(two)
    candidates = [*by_correlation(one, two, turns=_TURNS, peaks=_PEAKS), *by_features(one, two)]
    poses = [
        icp_refine(one, others.walls, others.normals, candidate, reaches=_REACHES)
        for candidate in candidates
    ]
    poses.sort(key=lambda pose: _score(few, others, pose), reverse=True)
    pose = max(
        [
            icp_refine(one, two.walls, two.normals, pose, reaches=_FINAL_REACHES)
            for pose in _finalists(poses, two)
        ],
        key=lambda pose: (
            _score(one, two, pose)
            - _LONG_CONFLICT_COST * max(0.0, _conflict(one, two, pose) - _NOISE_M)
        ),
    )
    hits, misses = wall_support(one, two, pose)
    return Registration(
        transform=pose,
        walls=hits,
        agreement=hits / max(hits + misses, 1e-9),
        distinct=hits * distinct_share(one, two, pose),
        conflict=_conflict(one, two, pose),
        residual_rms=residual_rms(one, two, pose),
    )


def realign(
    first: Grid, first_frame: GridFrame, second: Grid, second_frame: GridFrame, guess: Transform
) -> Transform:
    """Refine the transform of two maps that are already known to match.

    Args:
        first: (rows, cols) int8 occupancy.
        first_frame: where it lies.
        second: (rows, cols) int8 occupancy.
        second_frame: where it lies.
        guess: (3,) from the second's frame to the first's.

    Returns:
        The refined transform, (3,), or the guess if the walls support that more.
    """
    one, two = extract_features(first, first_frame), extract_features(second, second_frame)
    if one is None or two is None:
        return guess
    refined = icp_refine(one, two.walls, two.normals, guess, reaches=_FINAL_REACHES)
    return max([guess, refined], key=lambda pose: _score(one, two, pose))


@dataclass(frozen=True, slots=True)
class RegistrationGate:
    """What a registration must show to be accepted.

    The defaults were fitted on floors other than the test floors, see
    `benchmarks/exploration_merging.py`.

    Attributes:
        distinct: minimum metres of common wall that would fit nowhere else.
        distinct_share: minimum share of the common wall that would fit nowhere else: even two
            similar places never look exactly the same to robots.
        agreement: minimum share of walls that agree.
        residual_rms: maximum RMS offset between pieces of common wall, metres.
        conflict: maximum end-to-end metres of a wall deep in the other map's free space.
        conflict_share: the same as a share of the common wall, since things move in a real
            building; the larger limit applies.
    """

    distinct: float = 1.0
    distinct_share: float = 0.08
    agreement: float = 0.95
    residual_rms: float = 0.045
    conflict: float = _NOISE_M
    conflict_share: float = 0.008

    def accepts(self, found: Registration) -> bool:
        """Return whether the maps may be merged by a registration."""
        return (
            found.distinct >= max(self.distinct, self.distinct_share * found.walls)
            and found.agreement >= self.agreement
            and found.residual_rms <= self.residual_rms
            and found.conflict <= max(self.conflict, self.conflict_share * found.walls)
        )


DEFAULT_GATE = RegistrationGate()


def _finalists(poses: Sequence[Transform], two: MapFeatures) -> list[Transform]:
    """Return the first poses that move the second map to distinct places."""
    centroid = two.walls.mean(axis=0, keepdims=True)
    finalists: list[Transform] = []
    for pose in poses:
        if not any(same_place(pose, other, centroid) for other in finalists):
            finalists.append(pose)
            if len(finalists) == _FINALISTS:
                break
    return finalists


def _conflict(one: MapFeatures, two: MapFeatures, pose: Transform) -> float:
    """Return the length of the longest connected conflict of either map, metres."""
    return max(longest_conflict(one, two, pose), longest_conflict(two, one, inverse(pose)))


def _score(one: MapFeatures, two: MapFeatures, pose: Transform) -> float:
    """Score a pose by its evidence, in metres of common wall."""
    hits, misses = wall_support(one, two, pose)
    free_m2 = 0.0
    if len(two.free_points):
        free_m2 = two.free_area_m2 * float(shared_free_points(one, two, pose).mean())
    return hits - _CONFLICT_COST * misses + _FREE_GAIN * free_m2


def _thinned(features: MapFeatures) -> MapFeatures:
    """Keep an even subset of a map's walls and free points."""
    wall_step, free_step = (
        max(1, len(points) // _FEW_POINTS) for points in (features.walls, features.free_points)
    )
    return replace(
        features,
        walls=features.walls[::wall_step],
        normals=features.normals[::wall_step],
        metres_per_wall=features.metres_per_wall * wall_step,
        free_points=features.free_points[::free_step],
    )
