"""Loop closure: older keyframes that saw the same place, matched by correlative search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.mapping.keyframes import Keyframe, keyframe_field
from app.exploration.mapping.pose_graph import Edge
from app.exploration.mapping.scan_matching import FIELD_MARGIN_M, search
from app.exploration.se2 import Transform, apply, between, wrap


@dataclass(frozen=True, slots=True)
class LoopSpec:
    """How loops are found.

    Attributes:
        gap: minimum number of keyframes between the two ends of a loop.
        radius_m: maximum distance between the two ends by the current poses, metres.
        half: keyframes to each side of the older end that form its field.
        every: one of this many keyframes searches for loops.
        max_candidates: older ends tried for each keyframe.
        window_m: metres that a match may differ from the current pose.
        window_rad: radians that a match may differ from the current pose.
        drift_m: growth of that window, metres per metre driven since the older end.
        drift_rad: growth of that window, radians per metre driven since the older end.
        min_score: minimum score of a match.
        min_lead: by how much a match must score higher than one in another place of the window; in
            a corridor that looks alike everywhere none does.
        max_pending: number of loops after which the graph is solved.
        solve_shift: the graph is solved at once if a match is further than this from the current
            pose, metres plus radians.
    """

    gap: int = 20
    radius_m: float = 4.0
    half: int = 5
    every: int = 2
    max_candidates: int = 2
    window_m: float = 0.4
    window_rad: float = 0.15
    drift_m: float = 0.01
    drift_rad: float = 0.002
    min_score: float = 0.6
    min_lead: float = 0.05
    max_pending: int = 8
    solve_shift: float = 0.04


def loop_candidates(poses: Transform, spec: LoopSpec) -> list[int]:
    """Choose a few older keyframes close to the last one, each of a different time.

    Args:
        poses: (n, 3) of all keyframes.
        spec: how loops are found.

    Returns:
        Indices of keyframes, nearest first.
    """
    older = poses[: max(len(poses) - spec.gap, 0)]
    distances = np.hypot(*(older[:, :2] - poses[-1, :2]).T)
    chosen: list[int] = []
    for candidate in np.argsort(distances, kind="stable"):
        if distances[candidate] > spec.radius_m or len(chosen) == spec.max_candidates:
            break
        if all(abs(other - candidate) > 2 * spec.gap for other in chosen):
            chosen.append(int(candidate))
    return chosen


def close_loop(
    keyframes: Sequence[Keyframe], poses: Transform, older: int, spec: LoopSpec
) -> tuple[Edge, float] | None:
    """Match the last keyframe against those around an older one.

    Args:
        keyframes: n keyframes.
        poses: (n, 3) of the keyframes.
        older: index of the older end.
        spec: how loops are found.

    Returns:
        The edge and by how much the match differs from the current pose, metres plus radians;
        None if the match is too weak or fits in another place almost as well.
    """
    last = len(keyframes) - 1
    first, end = max(older - spec.half, 0), min(older + spec.half + 1, len(keyframes))
    driven = keyframes[last].driven - keyframes[older].driven
    window = spec.window_m + spec.drift_m * driven
    turn = spec.window_rad + spec.drift_rad * driven
    points, guess = keyframes[last].points, poses[last]
    field = keyframe_field(
        keyframes[first:end],
        poses[first:end],
        apply(guess, points),
        margin=window + FIELD_MARGIN_M,
    )
    match = search(field, points, guess, window=window, turn=turn, rival=True)
    if match.score < max(spec.min_score, match.rival + spec.min_lead):
        return None
    motion = between(poses[older], match.pose)
    edge = Edge(older, last, motion, match.information, trusted=False)
    off = match.pose - guess
    return edge, math.hypot(off[0], off[1]) + abs(wrap(off[2]))
