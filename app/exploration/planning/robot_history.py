"""Everything that one robot has reported: its evidence, its path, its last pose.

The state from which another planner continues is such a history of each robot, and what the team
makes of it.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.exploration.driver import DriveReport, Patch, Point, Pose
from app.exploration.grid import Box, GridFrame, LogOdds, Mask


@dataclass(slots=True)
class RobotHistory:
    """The accumulated reports of one robot.

    Attributes:
        pose: last reported pose.
        evidence: (rows, cols) int8 log-odds units, the robot's own map.
        known: bounding box of all patches.
        path: points that the robot drove through, metres.
        distance: metres driven.
        time: mission seconds of the last report.
        active: the robot still takes part in the mission.
    """

    pose: Pose
    evidence: LogOdds
    known: Box
    path: list[Point] = field(default_factory=list)
    distance: float = 0.0
    time: float = 0.0
    active: bool = True

    @classmethod
    def at(cls, pose: Pose, frame: GridFrame) -> Self:
        """Start an empty history at a pose, with evidence on a grid of the given frame."""
        empty = Box(frame.rows, frame.cols, 0, 0)
        return cls(pose, np.zeros((frame.rows, frame.cols), np.int8), empty)

    def add(self, report: DriveReport) -> None:
        """Apply a report; its patch replaces the evidence in its rectangle."""
        if report.patch.cells.size:
            box = report.patch.box
            self.evidence[box.slices] = report.patch.cells
            self.known = self.known.union(box)
        self.pose, self.time = report.pose, report.time
        self.path.extend(report.path if not self.path else report.path[1:])
        self.distance += report.distance

    def combined(self, *, box: Box | None = None, time: float | None = None) -> DriveReport:
        """Return all reports as one.

        Args:
            box: rectangle of the patch, by default the bounding box of all patches.
            time: mission seconds of the report, by default those of the last one.
        """
        return DriveReport(
            time=self.time if time is None else time,
            pose=self.pose,
            distance=self.distance,
            path=tuple(self.path),
            reached=0,
            arrived=False,
            blocked=False,
            patch=Patch.cut(self.evidence, box or self.known),
        )


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


def require_reports(active: Sequence[int], reported: Container[int]) -> None:
    """Check that all robots have reported, as a barrier needs.

    Args:
        active: slots of the robots that take part.
        reported: slots of the robots that have reported.

    Raises:
        ValueError: a robot that takes part has not reported.
    """
    missing = [slot for slot in active if slot not in reported]
    if missing:
        raise ValueError(f"robots {missing} have not reported")
