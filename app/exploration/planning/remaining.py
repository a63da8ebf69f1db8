"""An estimate of what is left of an exploration: seconds, and area.

Nobody knows how large an unknown floor is. What is known is where its frontiers are: the way past
all of them, the robots that share it, and what is known so far say how much is left. The exponents
were fitted to 120 simulated missions on an office, rooms, halls and caves with one to six robots;
`benchmarks/remaining.py` measures the error on others.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from app.exploration.driver import Point

# seconds = _SCALE * (metres of way) ** _WAY * (robots) ** _ROBOTS * (square metres known) ** _KNOWN
_SCALE, _WAY, _ROBOTS, _KNOWN = 4.9, 1.08, -0.6, -0.18
# The known area grows ever more slowly, on average half as fast as in the last third.
_MEAN_GROWTH = 0.5
# In eight of ten missions, what was left was this much of the estimate.
_LEAST_SHARE, _MOST_SHARE = 0.6, 2.6
# A point of a tree may not have distance 0 to another.
_TINY_M = 1e-6
# Enough for the shape of a growth curve; more would make each estimate slower.
_MAX_HISTORY = 4096


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of an exploration.

    Attributes:
        seconds: Simulated seconds.
        least_s: In nine of ten missions more seconds than these are left.
        most_s: In nine of ten missions fewer seconds than these are left.
        area_m2: Square metres that are still to be found.
    """

    seconds: float
    least_s: float
    most_s: float
    area_m2: float

    def to_dict(self) -> dict[str, float]:
        """As JSON values, rounded to what an estimate is worth."""
        return {name: round(value, 1) for name, value in asdict(self).items()}


class RemainingEstimator:
    """Estimates what is left of one exploration, from how it has gone so far."""

    def __init__(self) -> None:
        self._history: list[tuple[float, float]] = []

    def estimate(
        self,
        simulated_s: float,
        known_m2: float,
        *,
        robots: Sequence[Point],
        frontiers: Sequence[Point],
    ) -> Remaining | None:
        """Estimate what is left.

        Args:
            simulated_s: Seconds since the start.
            known_m2: The known area, square metres.
            robots: Where the robots are that still take part, metres.
            frontiers: A point of each frontier that is left, metres.

        Returns:
            None before the growth of the known area can be seen.
        """
        if not frontiers or not robots:
            return Remaining(0.0, 0.0, 0.0, 0.0)
        self._add(simulated_s, known_m2)
        growth = self._growth(simulated_s)
        if growth is None or known_m2 <= 0:
            return None
        seconds = (
            _SCALE * _way_m(robots, frontiers) ** _WAY * len(robots) ** _ROBOTS * known_m2**_KNOWN
        )
        area_m2 = _MEAN_GROWTH * max(0.0, growth) * seconds
        return Remaining(seconds, _LEAST_SHARE * seconds, _MOST_SHARE * seconds, area_m2)

    def _add(self, simulated_s: float, known_m2: float) -> None:
        # After a restart of the handler the time may go back a little.
        while self._history and self._history[-1][0] >= simulated_s:
            self._history.pop()
        self._history.append((simulated_s, known_m2))
        if len(self._history) > _MAX_HISTORY:
            self._history = self._history[::2]

    def _growth(self, simulated_s: float) -> float | None:
        """Square metres per second in the last third of the time; None if it is not known."""
        before = [each for each in self._history[:-1] if each[0] >= simulated_s * 2 / 3]
        first = before[0] if before else (self._history[-2] if len(self._history) > 1 else None)
        if first is None:
            return None
        (start_s, start_m2), (end_s, end_m2) = first, self._history[-1]
        return (end_m2 - start_m2) / (end_s - start_s)


def _way_m(robots: Sequence[Point], frontiers: Sequence[Point]) -> float:
    """The length of the shortest tree that joins all frontiers with some robot, metres."""
    points = np.array([*robots, *frontiers])
    # Here, because each command imports this module, and a fifth of its start would be for this.
    from scipy.sparse.csgraph import minimum_spanning_tree  # noqa: PLC0415

    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    for one, other in itertools.product(range(len(robots)), repeat=2):
        distances[one, other] = _TINY_M
    return float(minimum_spanning_tree(np.maximum(distances, _TINY_M)).sum())
