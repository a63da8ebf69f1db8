"""Models of radio reach: which robots of a team hear one another.

Messages pass over chains of robots, so that what counts are the connected components of the robots
that hear one another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit

from app.exploration.driver import Pose
from app.exploration.grid import FREE, FloorMap, Mask
from app.exploration.planning.radio_planner import Groups
from app.exploration.planning.radio_spec import check_radio

# IR2: received power in dB, for lengths in pixels of its floors.
_PIXEL_M = 0.1
_SENT_DB, _LOSS_DB, _LEAST_DB = -20.0, 31.0, -70.0
_WALL_DB, _FREE_DB, _FREE_PIXELS = 40.0, 20.0, 35.0
_STEP_CELLS = 0.25  # spacing of the samples on a line


class RadioModel(Protocol):
    """Decides whether two robots hear one another."""

    def reaches(self, one: Pose, other: Pose) -> bool:
        """Return whether a pair of robots hears one another."""
        ...


@dataclass(frozen=True, slots=True)
class PerfectRadio:
    """Every robot hears every other."""

    def reaches(self, _one: Pose, _other: Pose) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True, slots=True)
class DistanceRadio:
    """Robots within a distance hear one another, walls or not; 0 for robots that never do.

    Attributes:
        metres: the distance.
    """

    metres: float

    def reaches(self, one: Pose, other: Pose) -> bool:
        """Return whether a pair is near enough."""
        return math.dist((one.x, one.y), (other.x, other.y)) <= self.metres


class Ir2Radio:
    """The radio of IR2: walls between two robots count by far the most.

    After Tan et al., "IR2: Implicit Rendezvous for Robotic Exploration Teams under Sparse
    Intermittent Connectivity" (IROS 2024). A pair hears one another while the received power is
    above -70 dB: -20 dB are sent, 31 dB are lost at once, then 40 log10 of the length in walls and
    unknown ground, and 20 log10 of the length on free ground over 35. Lengths are in pixels of
    0.1 m.

    Args:
        floor: the true floor.
    """

    def __init__(self, floor: FloorMap) -> None:
        self._frame = floor.frame
        self._blocked: Mask = floor.grid != FREE

    def reaches(self, one: Pose, other: Pose) -> bool:
        """Return whether the received power of a pair is high enough."""
        return self.received_db(one, other) > _LEAST_DB

    def received_db(self, one: Pose, other: Pose) -> float:
        """Return the received power of a pair, dB."""
        start, end = self._frame.in_cells(one.x, one.y), self._frame.in_cells(other.x, other.y)
        share = float(_blocked_share(self._blocked, *start, *end))
        pixels = math.dist((one.x, one.y), (other.x, other.y)) / _PIXEL_M
        wall, free = share * pixels, (1.0 - share) * pixels
        lost = _LOSS_DB
        if wall > 1.0:
            lost += _WALL_DB * math.log10(wall)
        if free > _FREE_PIXELS:
            lost += _FREE_DB * math.log10(free / _FREE_PIXELS)
        return _SENT_DB - lost


def parse_radio(text: str, floor: FloorMap) -> RadioModel:
    """Make the radio model that a text such as `distance:15` names.

    Args:
        text: the form.
        floor: the true floor, which radio waves pass.

    Raises:
        BadRadio: the text has another form, or its number is out of range.
    """
    check_radio(text)
    if text == "perfect":
        return PerfectRadio()
    return Ir2Radio(floor) if text == "ir2" else DistanceRadio(float(text.partition(":")[2]))


def radio_groups(text: str, floor: FloorMap) -> Groups:
    """Return what tells the groups of robots that hear one another.

    Args:
        text: names the radio model.
        floor: the true floor, which radio waves pass.

    Raises:
        BadRadio: the text names none.
    """
    model = parse_radio(text, floor)

    def groups(poses: Sequence[Pose]) -> list[list[int]]:
        return components(poses, model)

    return groups


def components(poses: Sequence[Pose], radio: RadioModel) -> list[list[int]]:
    """Return the groups of robots that hear one another over chains, each sorted, by index."""
    group = list(range(len(poses)))
    for one in range(len(poses)):
        for other in range(one):
            if group[one] != group[other] and radio.reaches(poses[other], poses[one]):
                old, new = group[one], group[other]
                group = [new if each == old else each for each in group]
    return [
        [index for index, each in enumerate(group) if each == name] for name in dict.fromkeys(group)
    ]


@njit(cache=True, nogil=True)
def _blocked_share(blocked: Mask, row: float, col: float, to_row: float, to_col: float) -> float:
    """Return the share of a line that lies in blocked cells; cells outside the grid are blocked."""
    rows, cols = blocked.shape
    samples = max(1, int(np.hypot(to_row - row, to_col - col) / _STEP_CELLS))
    inside = 0
    for index in range(samples):
        share = (index + 0.5) / samples
        at_row = int(np.floor(row + share * (to_row - row)))
        at_col = int(np.floor(col + share * (to_col - col)))
        if not (0 <= at_row < rows and 0 <= at_col < cols) or blocked[at_row, at_col]:
            inside += 1
    return inside / samples
