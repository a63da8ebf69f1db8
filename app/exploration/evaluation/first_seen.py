"""How fast a team explored a floor, and how much of its work was redundant.

T90, T99 and the overlap rate are those of Xu et al., "Explore-Bench: Data Sets, Metrics and
Evaluations for Frontier-based and Deep-reinforcement-learning-based Autonomous Exploration"
(ICRA 2022), over the observable cells; see `map_quality.observable`. Their program
(`exploration_metric_for_two_robots.py`) computes the overlap rate at 99 % known, where its
explorations end. Ours continue until no frontier is left, so that both moments can be evaluated.
"""

import math

import numpy as np
import numpy.typing as npt

from app.exploration.driver import DriveReport
from app.exploration.grid import GridFrame, Mask

Seconds = npt.NDArray[np.float32]
"""(rows, cols) float32, the mission second at which a cell became known, infinite if never."""


class FirstSeenTimes:
    """When the team, and each robot, first saw each cell.

    Args:
        frame: the mission's frame.
        robots: number of robots.

    Attributes:
        by_robot: each robot's own seconds, by slot.
    """

    def __init__(self, frame: GridFrame, robots: int) -> None:
        shape = (frame.rows, frame.cols)
        self.by_robot: list[Seconds] = [np.full(shape, np.inf, np.float32) for _ in range(robots)]

    @property
    def first_known(self) -> Seconds:
        """When the team first knew each cell."""
        return np.asarray(np.minimum.reduce(self.by_robot), np.float32)

    def record(self, slot: int, report: DriveReport) -> None:
        """Record a robot's report; its cells count as seen at the report's second."""
        cells = report.patch.cells
        rows = slice(report.patch.row0, report.patch.row0 + cells.shape[0])
        cols = slice(report.patch.col0, report.patch.col0 + cells.shape[1])
        part = self.by_robot[slot][rows, cols]
        part[(cells != 0) & (part > report.time)] = report.time

    def overlap(self, observable: Mask, *, until: float = math.inf) -> float:
        """Return the overlap rate: cells seen, summed over the robots, over the team's, less one.

        Args:
            observable: (rows, cols) bool.
            until: mission second of the evaluation; by default the mission's end.

        Returns:
            0 if no cell was seen by two robots, robots - 1 if each robot saw every cell.
        """
        seen = [(first <= until) & np.isfinite(first) & observable for first in self.by_robot]
        together = int(np.count_nonzero(np.logical_or.reduce(seen)))
        return sum(int(np.count_nonzero(own)) for own in seen) / together - 1.0 if together else 0.0


def time_to(share: float, first_known: Seconds, observable: Mask) -> float:
    """Return the second at which a share of the observable cells was known, infinite if never.

    Args:
        share: 0 to 1, such as 0.99 for T99.
        first_known: (rows, cols) float32 seconds.
        observable: (rows, cols) bool.
    """
    seconds = np.sort(first_known[observable])
    return float(seconds[max(math.ceil(share * seconds.size) - 1, 0)]) if seconds.size else 0.0
