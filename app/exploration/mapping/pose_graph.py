"""The pose graph: relative motions between keyframes, and the poses that fit them best.

Edges between successive keyframes are trusted. All others may be wrong and carry the robust
kernel of Geman and McClure, so that a false edge loses its weight instead of distorting the map.
A true edge may be far off before the graph is solved; therefore a wide kernel precedes the narrow
one, as in graduated non-convexity (Yang et al., "Graduated Non-Convexity for Robust Spatial
Perception", RA-L 2020). The solver is Levenberg-Marquardt in GTSAM (Dellaert and Kaess 2017).
"""

from dataclasses import dataclass

import gtsam
import numpy as np
import numpy.typing as npt

from app.exploration.se2 import Transform, between

_KERNELS = (3.0, 40.0)  # sigmas at which an edge loses its weight
_NEWEST = 20  # edges that may be far off
_ANCHOR = 1e-6
_MAX_STEPS = 15
_MIN_DECREASE = 1e-3  # share by which a step must lower the error
_MIN_INFORMATION = 1.0  # added to each axis, so that an axis without information stays solvable


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

    def residual_sigmas(self, poses: Transform) -> float:
        """Return by how many sigmas poses, (n, 3), contradict the edge."""
        off = between(self.motion, between(poses[self.start], poses[self.end]))
        return float(np.sqrt(off @ self.information @ off))


class PoseGraph:
    """Edges between keyframes, kept in the solver's form; keyframe 0 stays fixed.

    Attributes:
        edges: all edges, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.edges: list[Edge] = []
        self._graphs = [gtsam.NonlinearFactorGraph() for _ in _KERNELS]
        self._kernels = [gtsam.noiseModel.mEstimator.GemanMcClure.Create(k) for k in _KERNELS]
        self._parameters = gtsam.LevenbergMarquardtParams()
        self._parameters.setMaxIterations(_MAX_STEPS)
        self._parameters.setRelativeErrorTol(_MIN_DECREASE)

    def add(self, edge: Edge) -> None:
        """Add an edge."""
        self.edges.append(edge)
        plain = gtsam.noiseModel.Gaussian.Information(
            edge.information + _MIN_INFORMATION * np.eye(3)
        )
        motion = gtsam.Pose2(*edge.motion)
        for graph, kernel in zip(self._graphs, self._kernels, strict=True):
            noise: gtsam.noiseModel.Base = plain
            if not edge.trusted:
                noise = gtsam.noiseModel.Robust.Create(kernel, plain)
            graph.add(gtsam.BetweenFactorPose2(edge.start, edge.end, motion, noise))

    def solve(self, poses: Transform) -> Transform:
        """Find the poses that fit all edges best.

        Args:
            poses: (n, 3) first guess; the edges connect all of them.

        Returns:
            (n, 3) poses.
        """
        narrow, wide = self._graphs
        loops = [edge for edge in self.edges[-_NEWEST:] if not edge.trusted]
        if any(edge.residual_sigmas(poses) > _KERNELS[0] for edge in loops):
            poses = self._optimize(wide, poses)
        return self._optimize(narrow, poses)

    def _optimize(self, factors: gtsam.NonlinearFactorGraph, poses: Transform) -> Transform:
        graph = gtsam.NonlinearFactorGraph(factors)
        anchor = gtsam.noiseModel.Isotropic.Sigma(3, _ANCHOR)
        graph.add(gtsam.PriorFactorPose2(0, gtsam.Pose2(*poses[0]), anchor))
        values = gtsam.Values()
        for index, pose in enumerate(poses):
            values.insert(index, gtsam.Pose2(*pose))
        solver = gtsam.LevenbergMarquardtOptimizer(graph, values, self._parameters)
        return np.ascontiguousarray(gtsam.utilities.extractPose2(solver.optimize()), np.float64)
