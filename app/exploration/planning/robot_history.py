"""Everything that one robot has reported: its evidence, its path, its last pose."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from app.exploration.driver import DriveReport, Patch, Point, Pose
from app.exploration.grid import Box, GridFrame, LogOdds


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
