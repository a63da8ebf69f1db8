"""How fast a team came to know a floor, and how much of its work was done twice.

T90, T99 and the overlap rate are those of Xu et al., "Explore-Bench: Data Sets, Metrics and
Evaluations for Frontier-based and Deep-reinforcement-learning-based Autonomous Exploration"
(ICRA 2022), over the cells that can be observed at all; see `quality.observable`. Its program
(`exploration_metric_for_two_robots.py`) takes the overlap rate when 99 % are known, as an
exploration ends there; ours go on until nothing is left, so that both moments can be asked for.
"""

import math

import numpy as np
import numpy.typing as npt

from app.exploration.driver import Leg
from app.exploration.grid import GridFrame, Mask

Seconds = npt.NDArray[np.float32]
"""(rows, cols) float32, the mission second at which a cell became known, infinite if never."""


class Chronicle:
    """Remembers when the team, and each robot, first knew each cell.

    Args:
        frame: the mission's frame.
        robots: how many.

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

    def note(self, slot: int, leg: Leg) -> None:
        """Take a robot's report; its cells count as known at the report's second."""
        cells = leg.patch.cells
        rows = slice(leg.patch.row0, leg.patch.row0 + cells.shape[0])
        cols = slice(leg.patch.col0, leg.patch.col0 + cells.shape[1])
        part = self.by_robot[slot][rows, cols]
        part[(cells != 0) & (part > leg.time)] = leg.time

    def overlap(self, observable: Mask, *, until: float = math.inf) -> float:
        """Return the sum of what each robot covered over what the team did, less one.

        Args:
            observable: (rows, cols) bool.
            until: the second at which it is asked for; by default the mission's end.

        Returns:
            0 when no cell was seen by two robots, robots - 1 when all saw everything.
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
