"""What wheels tell of a motion, and how far it is from what happened.

The odometry motion model of Thrun, Burgard and Fox, "Probabilistic Robotics" (2005), ch. 5.4: a
step is a turn, a way and a turn, each with noise that grows with all of them. On top of it stands
what a calibration leaves: a scale and a pull to one side that stay the same for a robot, see
Borenstein and Feng, "Measurement and Correction of Systematic Odometry Errors in Mobile Robots"
(1996).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class OdometrySpec:
    """How wheels err.

    Noise is given a metre and a radian of motion; its variance grows with the length of the
    motion, so that it does not matter into how many steps it is cut.

    Attributes:
        turn_per_turn: radians of turn error, per root of a radian turned.
        turn_per_metre: radians of turn error, per root of a metre driven.
        way_per_metre: metres of way error, per root of a metre driven.
        way_per_turn: metres of way error, per root of a radian turned.
        scale: standard deviation of a robot's own scale error, as a share of the way.
        pull: standard deviation of a robot's own pull, radians a metre driven.
    """

    turn_per_turn: float = 0.03
    turn_per_metre: float = 0.02
    way_per_metre: float = 0.03
    way_per_turn: float = 0.01
    scale: float = 0.01
    pull: float = 0.005


SMALL_BASE = OdometrySpec()
"""A small differential drive on a hard floor: over 10 m about 10 cm and 4 degrees by chance, and
1 % and 3 degrees that its calibration left."""


class Wheels:
    """One robot's wheels: they turn what was meant into what happened.

    Args:
        spec: how they err.
        random: the only source of chance; its first two draws are the robot's own errors.
    """

    def __init__(self, spec: OdometrySpec, random: np.random.Generator) -> None:
        self._spec = spec
        self._random = random
        self._scale = 1.0 + random.normal(0.0, spec.scale)
        self._pull = random.normal(0.0, spec.pull)

    def move(self, turn: float, way: float) -> tuple[float, float, float]:
        """Turn and drive straight as far as the odometry says so.

        Args:
            turn: radians that the odometry shows.
            way: metres that it shows.

        Returns:
            What really happened: the turn before the way, the way, and the turn after it.
        """
        spec, draw = self._spec, self._random.standard_normal(3)
        turned = np.sqrt(abs(turn))
        driven = np.sqrt(way)
        first = turn + draw[0] * spec.turn_per_turn * turned
        length = way * self._scale + draw[1] * np.hypot(
            spec.way_per_metre * driven, spec.way_per_turn * turned
        )
        last = draw[2] * spec.turn_per_metre * driven + self._pull * way
        return float(first), max(float(length), 0.0) if way > 0.0 else 0.0, float(last)
