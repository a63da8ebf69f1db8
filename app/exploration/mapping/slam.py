"""Simultaneous localization and mapping (SLAM) of one robot.

Each new keyframe is matched against the last ones, and against older ones nearby to close loops;
each match becomes an edge of the pose graph. When the graph is solved, all poses move.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.exploration.mapping.keyframes import Keyframe, Scan, keyframe_field
from app.exploration.mapping.loop_closure import LoopSpec, close_loop, loop_candidates
from app.exploration.mapping.pose_graph import Edge, PoseGraph
from app.exploration.mapping.scan_matching import FIELD_MARGIN_M, Match, refine, search
from app.exploration.se2 import Points, Transform, apply, between, compose

_MIN_POINTS = 20  # a scan with fewer returns is not matched
_GOOD_SCORE = 0.6  # at this score or a higher one the front end does not search
_BETTER = 0.05  # a searched match must score higher by this to be taken


@dataclass(frozen=True, slots=True)
class SlamSpec:
    """How scans become a map.

    Attributes:
        recent: number of last keyframes that form the field that a new scan is matched against.
        window_m: metres that the front end searches around the odometry.
        window_rad: radians that the front end searches around the odometry.
        distance_noise: standard deviation of the odometry, metres per root of a metre driven.
        turn_noise: standard deviation of the heading, radians per root of a metre driven.
        turn_share: standard deviation of the heading, radians per root of a radian turned.
        rest_m: standard deviation of the position of a robot at rest, metres.
        rest_rad: standard deviation of the heading of a robot at rest, radians.
        loops: how loops are closed.
    """

    recent: int = 15
    window_m: float = 0.3
    window_rad: float = 0.2
    distance_noise: float = 0.05
    turn_noise: float = 0.04
    turn_share: float = 0.05
    rest_m: float = 0.01
    rest_rad: float = 0.01
    loops: LoopSpec = field(default_factory=LoopSpec)


class SlamMap:
    """Keyframes, their pose graph and their poses.

    Args:
        spec: how scans become a map.

    Attributes:
        keyframes: in order of time.
        graph: the edges between them.
        poses: (n, 3) in one frame, by keyframe.
    """

    def __init__(self, spec: SlamSpec = SlamSpec()) -> None:
        self.spec = spec
        self.keyframes: list[Keyframe] = []
        self.graph = PoseGraph()
        self.poses: Transform = np.zeros((0, 3))
        self._pending = 0

    @property
    def last(self) -> Transform:
        """The pose of the last keyframe, (3,)."""
        return np.array(self.poses[-1])

    def begin(self, scan: Scan, pose: Transform) -> None:
        """Begin the map with a scan at a given pose, (3,)."""
        self._append(Keyframe(0.0, scan, scan.points()), pose)

    def add(self, scan: Scan, motion: Transform) -> Transform:
        """Add the next keyframe.

        Args:
            scan: its scan.
            motion: (3,) by odometry since the last keyframe, in that keyframe's frame.

        Returns:
            (3,) the robot's pose in the map's frame.
        """
        last = len(self.keyframes) - 1
        driven = self.keyframes[last].driven + math.hypot(motion[0], motion[1])
        keyframe = Keyframe(driven, scan, scan.points())
        matched = len(keyframe.points) >= _MIN_POINTS
        pose = compose(self.poses[last], motion)
        information = prior = self._prior(motion)
        if matched:
            match = self._match_recent(keyframe.points, pose, prior)
            pose, information = match.pose, match.information + prior
        motion = between(self.poses[last], pose)
        self._append(keyframe, pose)
        self.graph.add(Edge(last, last + 1, motion, information, trusted=True))
        if matched and len(self.keyframes) % self.spec.loops.every == 0:
            self._close_loops()
        return self.last

    def solve(self) -> None:
        """Solve the pose graph and adopt its poses."""
        self.poses = self.graph.solve(self.poses)
        self._pending = 0

    def _append(self, keyframe: Keyframe, pose: Transform) -> None:
        self.keyframes.append(keyframe)
        self.poses = np.vstack([self.poses, pose])

    def _prior(self, motion: Transform) -> npt.NDArray[np.float64]:
        """Return the information of a motion by odometry, (3, 3), valid in any frame."""
        spec = self.spec
        distance = math.hypot(motion[0], motion[1])
        along = spec.rest_m**2 + spec.distance_noise**2 * distance
        turn = (
            spec.rest_rad**2 + spec.turn_noise**2 * distance + spec.turn_share**2 * abs(motion[2])
        )
        return np.diag([1.0 / along, 1.0 / along, 1.0 / turn])

    def _match_recent(
        self, points: Points, guess: Transform, prior: npt.NDArray[np.float64]
    ) -> Match:
        """Match a scan against the last keyframes, near the pose by odometry."""
        spec = self.spec
        around = keyframe_field(
            self.keyframes[-spec.recent :],
            self.poses[-spec.recent :],
            apply(guess, points),
            margin=spec.window_m + FIELD_MARGIN_M,
        )
        match = refine(around, points, guess, prior)
        if match.score < _GOOD_SCORE:
            found = search(around, points, guess, window=spec.window_m, turn=spec.window_rad)
            if found.score > match.score + _BETTER:
                return found
        return match

    def _close_loops(self) -> None:
        """Match the last keyframe against older ones, and solve the graph when that is due."""
        spec = self.spec.loops
        shift = 0.0
        for older in loop_candidates(self.poses, spec):
            loop = close_loop(self.keyframes, self.poses, older, spec)
            if loop is not None:
                edge, off = loop
                self.graph.add(edge)
                self._pending += 1
                shift = max(shift, off)
        if self._pending >= spec.max_pending or shift > spec.solve_shift:
            self.solve()
