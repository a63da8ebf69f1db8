"""Simultaneous localization and mapping of one robot, or of several whose maps have been joined.

Each new keyframe is matched against its robot's last ones, then against older ones nearby, a
teammate's as well; every match becomes an edge of the pose graph. When the graph moves, all poses
move with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.exploration.mapping.keyframes import Keyframe, Scan
from app.exploration.mapping.pose_graph import Edge, PoseGraph
from app.exploration.mapping.scan_matching import (
    LikelihoodField,
    Match,
    local_field,
    refine,
    search,
)
from app.exploration.se2 import Points, Transform, apply, between, compose, wrap

_FEWEST = 20  # returns without which a scan is not matched
_SURE = 0.6  # a score from which the front end does not search
_MARGIN = 0.4  # metres of field beyond the window
_SHARE = 0.3  # of a loop's information is believed, for scans of one place err alike


@dataclass(frozen=True, slots=True)
class SlamSpec:
    """How scans become a map.

    Attributes:
        recent: so many of the last keyframes make the map that a new scan is matched against.
        window_m: metres, how far the front end searches around what the odometry says.
        window_rad: radians, likewise.
        way_noise: standard deviation of the odometry, metres a root of a metre driven.
        turn_noise: radians a root of a metre driven.
        turn_share: radians a root of a radian turned.
        slack_m: standard deviation that stays for a robot that stands, metres.
        slack_rad: radians, likewise.
        loop_gap: keyframes that lie at least between the two ends of a loop.
        loop_radius: metres at most between the two ends as they are thought to be.
        loop_half: keyframes to each side of the older end that make its map.
        loop_every: one keyframe of so many looks for loops.
        loop_tries: so many older ends are tried.
        loop_window_m: metres, how far a loop is searched around where it is thought to be.
        loop_window_rad: radians, likewise.
        drift_m: metres that the window grows by, a metre driven since the older end.
        drift_rad: radians, likewise.
        loop_score: a loop needs so high a match.
        join_least: so many edges are needed between two maps that are joined.
        pending: loops that are gathered before the graph is solved.
        shift_m: a loop that is off by more has it solved at once.
    """

    recent: int = 15
    window_m: float = 0.3
    window_rad: float = 0.2
    way_noise: float = 0.05
    turn_noise: float = 0.04
    turn_share: float = 0.05
    slack_m: float = 0.01
    slack_rad: float = 0.01
    loop_gap: int = 20
    loop_radius: float = 4.0
    loop_half: int = 5
    loop_every: int = 2
    loop_tries: int = 2
    loop_window_m: float = 0.4
    loop_window_rad: float = 0.15
    drift_m: float = 0.01
    drift_rad: float = 0.002
    loop_score: float = 0.6
    join_least: int = 3
    pending: int = 8
    shift_m: float = 0.04


class SlamMap:
    """Keyframes, what they say of each other, and where they are.

    Args:
        spec: how scans become a map.

    Attributes:
        keyframes: in the order in which they came.
        graph: what they say of each other.
        poses: (n, 3) in one frame, by keyframe.
        loops: edges that are no odometry.
    """

    def __init__(self, spec: SlamSpec = SlamSpec()) -> None:
        self.spec = spec
        self.keyframes: list[Keyframe] = []
        self.graph = PoseGraph()
        self.poses: Transform = np.zeros((0, 3))
        self.loops = 0
        self._own: dict[int, list[int]] = {}
        self._pending = 0

    @property
    def robots(self) -> list[int]:
        """The robots whose keyframes these are."""
        return list(self._own)

    def begin(self, robot: int, scan: Scan, pose: Transform) -> None:
        """Begin a robot's map with a scan at a given pose, (3,)."""
        self._append(Keyframe(robot, 0.0, scan, scan.points()), pose)

    def of_robot(self, robot: int) -> list[int]:
        """Return the indices of a robot's keyframes, in order."""
        return list(self._own[robot])

    def last(self, robot: int) -> Transform:
        """Return where a robot's last keyframe lies, (3,)."""
        return np.array(self.poses[self._own[robot][-1]])

    def add(self, robot: int, scan: Scan, motion: Transform) -> Transform:
        """Take a robot's next keyframe.

        Args:
            robot: whose.
            scan: what it saw.
            motion: (3,) by odometry since its last keyframe, in that one's frame.

        Returns:
            (3,) the robot's pose in the map's frame.
        """
        own = self._own[robot]
        last = own[-1]
        way = self.keyframes[last].way + math.hypot(motion[0], motion[1])
        keyframe = Keyframe(robot, way, scan, scan.points())
        guess = compose(self.poses[last], motion)
        prior = self._prior(motion)
        pose, information = guess, prior
        if len(keyframe.points) >= _FEWEST:
            match = self._locate(keyframe.points, own[-self.spec.recent :], guess, prior)
            pose, information = match.pose, match.information + prior
        motion = between(self.poses[last], pose)
        index = self._append(keyframe, pose)
        self.graph.add(Edge(last, index, motion, information, trusted=True))
        if len(own) % self.spec.loop_every == 0 and len(keyframe.points) >= _FEWEST:
            self._close_loops(index)
        return self.last(robot)

    def join(self, other: "SlamMap", transform: Transform) -> bool:
        """Take over another map's keyframes and look for what joins them to these.

        Args:
            other: a map of other robots; it is left as it is.
            transform: (3,) of its frame in this one's.

        Returns:
            Whether edges enough between the two were found; otherwise nothing is taken over.
        """
        offset = len(self.keyframes)
        kept = self.keyframes, self.graph, self.poses, self.loops
        own = {robot: list(indices) for robot, indices in self._own.items()}
        self.keyframes = self.keyframes + other.keyframes
        self.poses = np.vstack([self.poses, compose(transform, other.poses)])
        self.graph = self.graph.copy()
        for edge in other.graph.edges:
            self.graph.add(edge.shifted(offset))
        for robot in other.robots:
            self._own[robot] = [index + offset for index in other.of_robot(robot)]
        before = self.loops
        for index in range(offset, len(self.keyframes), self.spec.loop_every):
            for end in self._nearby(index, np.arange(offset)):
                self._try_loop(index, end)
        if self.loops - before < self.spec.join_least:
            self.keyframes, self.graph, self.poses, self.loops = kept
            self._own = own
            return False
        self.solve()
        return True

    def solve(self) -> None:
        """Let the poses agree with all edges as well as they can."""
        self.poses = self.graph.solve(self.poses)
        self._pending = 0

    def _append(self, keyframe: Keyframe, pose: Transform) -> int:
        self.keyframes.append(keyframe)
        self.poses = np.vstack([self.poses, pose])
        index = len(self.keyframes) - 1
        self._own.setdefault(keyframe.robot, []).append(index)
        return index

    def _prior(self, motion: Transform) -> npt.NDArray[np.float64]:
        """Return how well a motion by odometry is known, (3, 3) information, any frame."""
        spec = self.spec
        way = math.hypot(motion[0], motion[1])
        along = spec.slack_m**2 + spec.way_noise**2 * way
        turn = spec.slack_rad**2 + spec.turn_noise**2 * way + spec.turn_share**2 * abs(motion[2])
        return np.diag([1.0 / along, 1.0 / along, 1.0 / turn])

    def _field(self, indices: Sequence[int], around: Points, margin: float) -> LikelihoodField:
        """Build the likelihood field of several keyframes around some points."""
        scans = [self.keyframes[index].points for index in indices]
        return local_field(scans, self.poses[list(indices)], around, margin=margin)

    def _locate(
        self,
        points: Points,
        known: Sequence[int],
        guess: Transform,
        prior: npt.NDArray[np.float64],
    ) -> Match:
        """Match a scan against keyframes, near where the odometry says."""
        spec = self.spec
        field = self._field(known, apply(guess, points), spec.window_m + _MARGIN)
        match = refine(field, points, guess, prior)
        if match.score < _SURE:
            wide = search(field, points, guess, window=spec.window_m, turn=spec.window_rad)
            if wide.score > match.score + 0.05:
                return wide
        return match

    def _close_loops(self, index: int) -> None:
        """Look for older keyframes that saw the same, and have the graph solved when due."""
        robot = self.keyframes[index].robot
        own = self._own[robot]
        recent = set(own[-self.spec.loop_gap :])
        others = np.array([i for i in range(index) if i not in recent], int)
        shift = 0.0
        for end in self._nearby(index, others):
            shift = max(shift, self._try_loop(index, end))
        if self._pending >= self.spec.pending or shift > self.spec.shift_m:
            self.solve()

    def _nearby(self, index: int, others: npt.NDArray[np.int64]) -> list[int]:
        """Choose a few keyframes close to one, of different robots or times."""
        if not len(others):
            return []
        spec = self.spec
        off = np.hypot(*(self.poses[others, :2] - self.poses[index, :2]).T)
        chosen: list[int] = []
        for which in np.argsort(off, kind="stable"):
            if off[which] > spec.loop_radius or len(chosen) == spec.loop_tries:
                break
            candidate = int(others[which])
            robot = self.keyframes[candidate].robot
            if all(
                self.keyframes[i].robot != robot or abs(i - candidate) > 2 * spec.loop_gap
                for i in chosen
            ):
                chosen.append(candidate)
        return chosen

    def _try_loop(self, index: int, end: int) -> float:
        """Match a keyframe against those around an older one; returns metres that it is off by."""
        spec = self.spec
        keyframe, older = self.keyframes[index], self.keyframes[end]
        family = self._own[older.robot]
        place = family.index(end)
        known = family[max(place - spec.loop_half, 0) : place + spec.loop_half + 1]
        driven = keyframe.way - older.way if keyframe.robot == older.robot else 0.0
        window = spec.loop_window_m + spec.drift_m * driven
        turn = spec.loop_window_rad + spec.drift_rad * driven
        guess = self.poses[index]
        field = self._field(known, apply(guess, keyframe.points), window + _MARGIN)
        match = search(field, keyframe.points, guess, window=window, turn=turn)
        if match.score < spec.loop_score:
            return 0.0
        motion = between(self.poses[end], match.pose)
        self.graph.add(Edge(end, index, motion, _SHARE * match.information, trusted=False))
        self.loops += 1
        self._pending += 1
        off = match.pose - guess
        return math.hypot(off[0], off[1]) + abs(wrap(off[2]))
