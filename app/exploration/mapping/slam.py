"""Simultaneous localization and mapping (SLAM) of one robot.

Each new keyframe is matched against the last ones, and against older ones nearby to close loops;
each match becomes an edge of the pose graph. When the graph is solved, all poses move. At the end
all scans are aligned with one another.
"""

import math
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import numpy as np
import numpy.typing as npt

from app.exploration.mapping.keyframes import Keyframe, Scan, keyframe_field
from app.exploration.mapping.loop_closure import LoopSpec, close_loop, loop_candidates
from app.exploration.mapping.pose_graph import Edge, PoseGraph
from app.exploration.mapping.scan_alignment import align_scans
from app.exploration.mapping.scan_matching import (
    FIELD_MARGIN_M,
    LikelihoodField,
    Match,
    refine,
    search,
)
from app.exploration.mapping.scan_surfaces import scan_surfaces
from app.exploration.se2 import IDENTITY, Points, Transform, apply, between, compose

_MIN_POINTS = 20  # a scan with fewer returns is not matched
_USUAL = 50  # number of last scans whose median score is the usual one
_FIRST_SCORE = 0.75  # usual score before the first match
_DOUBTFUL = 0.9  # of the usual score: the front end searches below it
_LOST = 0.7  # of the usual score: the front end searches all headings below it
_BETTER = 0.05  # a searched match must score higher by this to be taken
_FAR_BETTER = 0.2  # and one that contradicts the odometry by this
_UNRIVALLED = 0.1  # higher than that in any other place
_DOUBTFUL_SHARE = 0.1  # of a doubtful match's information
_ODOMETRY_SHARE = 0.2  # of the odometry's information when all scans are aligned
_CORNERS = np.array([[-1.0, -1.0], [1.0, 1.0]])


@dataclass(frozen=True, slots=True)
class SlamSpec:
    """How scans become a map.

    Attributes:
        recent: number of last keyframes that form the field that a new scan is matched against.
        window_m: metres that the front end searches around the odometry.
        window_rad: radians that the front end searches around the odometry.
        window_share: growth of that, radians per radian turned since the last keyframe.
        lost_m: metres searched, with all headings, where nothing fits close to the odometry.
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
    window_share: float = 0.3
    lost_m: float = 1.0
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
        self._aligned = 0
        self._odometry: list[Edge] = []
        self._scores: list[float] = []

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
            match, near = self._match_recent(keyframe.points, pose, prior, abs(motion[2]))
            pose, information = match.pose, match.information
            if match.score < _DOUBTFUL * self._usual_score():
                information = _DOUBTFUL_SHARE * information
            if near:
                information = information + prior
                share = _ODOMETRY_SHARE * prior
                self._odometry.append(Edge(last, last + 1, motion, share, trusted=False))
            self._scores.append(match.score)
        motion = between(self.poses[last], pose)
        self._append(keyframe, pose)
        self.graph.add(Edge(last, last + 1, motion, information, trusted=True))
        if matched and len(self.keyframes) % self.spec.loops.every == 0:
            self._close_loops()
        return self.last

    def solve(self) -> None:
        """Solve the pose graph, then align all scans with one another; a second call is free.

        It takes milliseconds for each keyframe, and is meant for the end of a run.
        """
        if self._aligned == len(self.keyframes):
            return
        self._solve()
        surfaces = scan_surfaces([keyframe.points for keyframe in self.keyframes])
        chain = [edge for edge in self.graph.edges if edge.trusted]
        self.poses = align_scans(surfaces, self.poses, chain, self._odometry)
        self._aligned = len(self.keyframes)

    def _solve(self) -> None:
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
        self, points: Points, guess: Transform, prior: npt.NDArray[np.float64], turned: float
    ) -> tuple[Match, bool]:
        """Match a scan against the last keyframes, near the pose by odometry.

        If nothing fits there, the odometry may be wrong, for instance after a collision or a gap in
        a log. Then all headings are searched, and only a far better fit that has no rival counts.

        Returns:
            The match, and whether it agrees with the odometry.
        """
        spec = self.spec
        usual = self._usual_score()
        around = self._recent_field(apply(guess, points), spec.window_m)
        match = refine(around, points, guess, prior)
        if match.score < _DOUBTFUL * usual:
            turn = spec.window_rad + spec.window_share * turned
            found = search(around, points, guess, window=spec.window_m, turn=turn)
            if found.score > match.score + _BETTER:
                match = found
        if match.score < _LOST * usual:
            reach = float(np.hypot(*points.T).max())
            around = self._recent_field(guess[:2] + reach * _CORNERS, spec.lost_m)
            found = search(around, points, guess, window=spec.lost_m, turn=math.pi, rival=True)
            needed = (_DOUBTFUL * usual, match.score + _FAR_BETTER, found.rival + _UNRIVALLED)
            if found.score >= max(needed):
                return found, False
        return match, True

    def _usual_score(self) -> float:
        """Return the median score of the last matches: it depends on the lidar and the place."""
        return median(self._scores[-_USUAL:]) if self._scores else _FIRST_SCORE

    def _recent_field(self, around: Points, window: float) -> LikelihoodField:
        """Build the field of the last keyframes around points, (n, 2) metres, for a search window."""
        recent = self.spec.recent
        return keyframe_field(
            self.keyframes[-recent:], self.poses[-recent:], around, margin=window + FIELD_MARGIN_M
        )

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
            self._solve()


@cache
def warm_up() -> None:
    """Map a square room with odometry that is wrong, so that all jitted code of SLAM is compiled.

    It takes seconds on a new machine, and nothing the second time in a process.
    """
    angles = np.linspace(-math.pi, math.pi, 180, endpoint=False)
    ranges = 2.0 / np.maximum(np.abs(np.cos(angles)), np.abs(np.sin(angles)))
    scan = Scan(angles, ranges, 5.0)
    slam = SlamMap()
    slam.begin(scan, IDENTITY)
    slam.add(scan, np.array([0.0, 0.0, 0.7]))
    slam.solve()
