"""The pose graph: what scans say of each other, and the poses that agree with it best.

Edges between successive keyframes are trusted; all others may be wrong, and carry the robust
kernel of Geman and McClure, so that a false one loses its weight instead of bending the map. A
right one may be far off before the graph is solved: then a wide kernel goes before the narrow
one, as in graduated non-convexity (Yang et al., "Graduated Non-Convexity for Robust Spatial
Perception", RA-L 2020). Solved by Levenberg-Marquardt in GTSAM (Dellaert and Kaess 2017).
"""

from dataclasses import dataclass, replace

import gtsam
import numpy as np
import numpy.typing as npt

from app.exploration.se2 import Transform, between

_KERNELS = (3.0, 40.0)  # sigmas from which an edge loses its weight
_NEWEST = 20  # edges that may be far off
_ANCHOR = 1e-6
_STEPS = 15
_ENOUGH = 1e-3  # share by which a step must lower the error
_LEAST = 1.0  # information below which a direction counts as not measured


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """A measured motion from one keyframe to another.

    Attributes:
        start: index of the first keyframe.
        end: index of the second.
        motion: (3,) of the second in the first's frame.
        information: (3, 3) float64, in the second's frame.
        trusted: it joins successive keyframes of a robot.
    """

    start: int
    end: int
    motion: Transform
    information: npt.NDArray[np.float64]
    trusted: bool

    def shifted(self, offset: int) -> "Edge":
        """Return the edge of keyframes that moved to later indices."""
        return replace(self, start=self.start + offset, end=self.end + offset)

    def disagreement(self, poses: Transform) -> float:
        """Return by how many sigmas poses, (n, 3), contradict the edge."""
        off = between(self.motion, between(poses[self.start], poses[self.end]))
        return float(np.sqrt(off @ self.information @ off))


class PoseGraph:
    """Edges between keyframes, kept in the solver's form; keyframe 0 stays where it is.

    Attributes:
        edges: all of them, in the order in which they came.
    """

    def __init__(self) -> None:
        self.edges: list[Edge] = []
        self._graphs = [gtsam.NonlinearFactorGraph() for _ in _KERNELS]
        self._kernels = [gtsam.noiseModel.mEstimator.GemanMcClure.Create(k) for k in _KERNELS]
        self._parameters = gtsam.LevenbergMarquardtParams()
        self._parameters.setMaxIterations(_STEPS)
        self._parameters.setRelativeErrorTol(_ENOUGH)

    def add(self, edge: Edge) -> None:
        """Take an edge."""
        self.edges.append(edge)
        plain = gtsam.noiseModel.Gaussian.Information(edge.information + _LEAST * np.eye(3))
        motion = gtsam.Pose2(*edge.motion)
        for graph, kernel in zip(self._graphs, self._kernels, strict=True):
            noise: gtsam.noiseModel.Base = plain
            if not edge.trusted:
                noise = gtsam.noiseModel.Robust.Create(kernel, plain)
            graph.add(gtsam.BetweenFactorPose2(edge.start, edge.end, motion, noise))

    def copy(self) -> "PoseGraph":
        """Return a graph of the same edges."""
        twin = PoseGraph()
        twin.edges = list(self.edges)
        twin._graphs = [gtsam.NonlinearFactorGraph(graph) for graph in self._graphs]
        return twin

    def solve(self, poses: Transform) -> Transform:
        """Find the poses that agree best with all edges.

        Args:
            poses: (n, 3) first guess; the edges connect all of them.

        Returns:
            (n, 3) poses.
        """
        narrow, wide = self._graphs
        loops = [edge for edge in self.edges[-_NEWEST:] if not edge.trusted]
        if any(edge.disagreement(poses) > _KERNELS[0] for edge in loops):
            poses = self._climb(wide, poses)
        return self._climb(narrow, poses)

    def _climb(self, factors: gtsam.NonlinearFactorGraph, poses: Transform) -> Transform:
        graph = gtsam.NonlinearFactorGraph(factors)
        anchor = gtsam.noiseModel.Isotropic.Sigma(3, _ANCHOR)
        graph.add(gtsam.PriorFactorPose2(0, gtsam.Pose2(*poses[0]), anchor))
        values = gtsam.Values()
        for index, pose in enumerate(poses):
            values.insert(index, gtsam.Pose2(*pose))
        solver = gtsam.LevenbergMarquardtOptimizer(graph, values, self._parameters)
        return np.asarray(gtsam.utilities.extractPose2(solver.optimize()), np.float64)
