"""Map clusters: robots whose maps were registered, so that they share a frame and a planner.

Robots report in their own frames. This module moves their reports into the frame of their
cluster, which is that of its first robot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.exploration.driver import EMPTY_PATCH, DriveReport, Patch, Point
from app.exploration.grid import GridFrame, LogOdds
from app.exploration.lidar import CLAMP_UNITS
from app.exploration.merging.evidence import occupancy, transform_layer
from app.exploration.merging.registration import realign
from app.exploration.planning.robot_history import PlannerState, RobotHistory
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.se2 import Transform, apply, compose, of_pose, to_pose, wrap

_REALIGN_M = 0.01  # a smaller change of a transform moves hardly any cell
_REALIGN_RAD = 0.001

# Evidence of a moved layer saturates at other values than that of a layer in its own frame. Equal
# values of opposite sign would add up to 0: a wall that two maps show a cell apart would become an
# unknown cell, and a frontier that no visit resolves.
_MOVED_LIMITS = np.int8(2 - CLAMP_UNITS), np.int8(CLAMP_UNITS - 1)


@dataclass(slots=True)
class MapCluster:
    """Robots that share a frame.

    Attributes:
        slots: the robots' slots.
        transforms: (robots, 3) from each robot's own frame to the cluster's.
        planner: plans for these robots, by index in the cluster, in the cluster's frame.
        time: mission seconds of the last report.
        done: these robots have nothing left to explore.
    """

    slots: list[int]
    transforms: Transform
    planner: TeamPlanner
    time: float = 0.0
    done: bool = False


def build_cluster(
    slots: Sequence[int],
    transforms: Transform,
    robots: Sequence[RobotHistory],
    frame: GridFrame,
    settings: PlannerSettings,
    *,
    before: TeamPlanner | None = None,
) -> MapCluster:
    """Build a cluster from everything that its robots have reported.

    Args:
        slots: the robots' slots.
        transforms: (robots, 3) from each robot's own frame to the cluster's.
        robots: the histories of all robots of the mission, by slot.
        frame: frame of each robot's grid and of the cluster's.
        settings: how to explore.
        before: planner of the same robots in the same frame, whose visits and collisions stay.
    """
    reports = [
        move_report(robots[slot].combined(), robots[slot].evidence, frame, transform)
        for slot, transform in zip(slots, transforms, strict=True)
    ]
    shape = (frame.rows, frame.cols)
    state = PlannerState(
        reports=tuple(reports),
        lost=tuple(index for index, slot in enumerate(slots) if not robots[slot].active),
        rounds=0,
        retried=None,
        visits=np.zeros(shape, np.uint8),
        collision_cells=np.zeros(shape, np.bool_),
    )
    if before is not None:
        state = replace(before.state(), reports=state.reports, lost=state.lost)
    planner = TeamPlanner.recover(frame, state, {}, settings)
    return MapCluster(
        list(slots),
        transforms,
        planner,
        time=max(report.time for report in reports),
        done=not planner.active,
    )


def realign_cluster(
    cluster: MapCluster,
    robots: Sequence[RobotHistory],
    frame: GridFrame,
    settings: PlannerSettings,
) -> MapCluster:
    """Refine the transforms of a cluster by everything that its robots know by now.

    The first registration of two small maps leaves a small error of the heading, which displaces
    walls far away by much more: the maps then show frontiers and walls that are not there.

    Returns:
        The cluster itself if no transform changed by more than a fraction of a cell.
    """
    transforms = cluster.transforms.copy()
    layers = [
        transform_layer(robots[slot].evidence, frame, transform, frame).astype(np.int16)
        for slot, transform in zip(cluster.slots, transforms, strict=True)
    ]
    moved = False
    for index in range(1, len(layers)):
        evidence = robots[cluster.slots[index]].evidence
        others = occupancy(sum(layers[:index] + layers[index + 1 :], np.zeros_like(layers[0])))
        refined = realign(others, frame, occupancy(evidence), frame, transforms[index])
        off = refined - transforms[index]
        if math.hypot(off[0], off[1]) > _REALIGN_M or abs(wrap(off[2])) > _REALIGN_RAD:
            moved = True
            transforms[index] = refined
            layers[index] = transform_layer(evidence, frame, refined, frame).astype(np.int16)
    if not moved:
        return cluster
    rebuilt = build_cluster(
        cluster.slots, transforms, robots, frame, settings, before=cluster.planner
    )
    rebuilt.done = cluster.done
    return rebuilt


def move_report(
    report: DriveReport, evidence: LogOdds, frame: GridFrame, transform: Transform
) -> DriveReport:
    """Move a robot's report into its cluster's frame.

    Args:
        report: the report, in the robot's own frame.
        evidence: (rows, cols) int8, all evidence of the robot, the report's included.
        frame: frame of the robot's grid and of the cluster's.
        transform: (3,) from the robot's frame to the cluster's.
    """
    if not transform.any():
        return report
    return replace(
        report,
        pose=to_pose(compose(transform, of_pose(report.pose))),
        path=move_points(transform, report.path),
        patch=_move_patch(report.patch, evidence, frame, transform),
    )


def move_points(transform: Transform, points: Sequence[Point]) -> tuple[Point, ...]:
    """Move points by one transform, (3,)."""
    if not points:
        return ()
    return tuple((float(x), float(y)) for x, y in apply(transform, np.array(points)))


def _move_patch(patch: Patch, evidence: LogOdds, frame: GridFrame, transform: Transform) -> Patch:
    """Resample all cells of the cluster's grid that a robot's patch may have changed."""
    rows, cols = patch.cells.shape
    if not patch.cells.size:
        return patch
    x0, y0 = frame.centre(patch.row0 - 1, patch.col0 - 1)
    x1, y1 = frame.centre(patch.row0 + rows, patch.col0 + cols)
    corners = apply(transform, np.array([(x0, y0), (x0, y1), (x1, y0), (x1, y1)]))
    row0, col0 = frame.cell(*corners.min(axis=0))
    row1, col1 = frame.cell(*corners.max(axis=0))
    row0, col0 = max(row0, 0), max(col0, 0)
    row1, col1 = min(row1 + 1, frame.rows), min(col1 + 1, frame.cols)
    if row0 >= row1 or col0 >= col1:
        return EMPTY_PATCH
    part = GridFrame(
        row1 - row0,
        col1 - col0,
        frame.resolution,
        frame.origin_x + col0 * frame.resolution,
        frame.origin_y + row0 * frame.resolution,
    )
    moved = transform_layer(evidence, frame, transform, part)
    return Patch(row0, col0, np.clip(moved, *_MOVED_LIMITS))
