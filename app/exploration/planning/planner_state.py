"""What planners say about themselves: the state from which another continues, and activities."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.exploration.driver import DriveReport
from app.exploration.grid import Mask

Activity = Literal["exploring", "standby", "idle"]
"""A robot drives to a viewpoint; waits for what opens up there; or has nothing to do."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannerState:
    """What another planner needs to continue.

    Attributes:
        reports: all reports of each robot combined into one, by slot.
        lost: slots of the robots that no longer take part.
        rounds: barriers so far.
        retried: number of known cells at the last retry of abandoned frontiers, None before it.
        visits: (rows, cols) uint8, number of visits that left a frontier cell unchanged.
        collision_cells: (rows, cols) bool, cells that a robot could not enter.
    """

    reports: tuple[DriveReport, ...]
    lost: tuple[int, ...]
    rounds: int
    retried: int | None
    visits: NDArray[np.uint8]
    collision_cells: Mask
