"""A whole exploration with unknown poses in one process: SLAM robots and the missions' planner."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.driver import Pose
from app.exploration.grid import GridFrame, LogOdds
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.merging.joint_map import JointMap, joint_maps
from app.exploration.planning.rendezvous import (
    DEFAULT_RENDEZVOUS,
    RendezvousPlanner,
    RendezvousSpec,
)
from app.exploration.planning.settings import UNKNOWN_POSE_SETTINGS, PlannerSettings
from app.exploration.se2 import IDENTITY, Transform, compose, to_pose

_START: Pose = to_pose(IDENTITY)


@dataclass(frozen=True, slots=True, eq=False)
class UnknownPoseExploration:
    """The outcome of an exploration with unknown poses.

    Attributes:
        robots: the robots, with their own maps, by slot.
        frame: frame of each robot's grid, in the robot's own frame.
        clusters: the slots of the robots whose whole maps were merged, by joint map.
        transforms: (3,) from each robot's own frame to its joint map's, by slot.
        seconds: simulated seconds.
        attempts: pairs of map clusters that were registered.
        merged: the joint maps, largest known area first.
    """

    robots: Sequence[SlamRobot]
    frame: GridFrame
    clusters: list[list[int]]
    transforms: list[Transform]
    seconds: float
    attempts: int
    merged: list[JointMap]

    @property
    def status(self) -> str:
        """`completed`, or `partial` if several maps remain."""
        return "completed" if len(self.clusters) == 1 else "partial"

    def trajectory(self, slot: int) -> Transform:
        """Return a robot's keyframe poses, (n, 3), in the frame of its joint map."""
        return compose(self.transforms[slot], self.robots[slot].slam.poses)

    def joint_maps(self) -> list[JointMap]:
        """Return the whole maps, registered jointly and merged, as a mission does at its end."""
        return self.merged


def simulate_unknown_poses(
    robots: Sequence[SlamRobot],
    frame: GridFrame,
    *,
    settings: PlannerSettings = UNKNOWN_POSE_SETTINGS,
    rendezvous: RendezvousSpec = DEFAULT_RENDEZVOUS,
) -> UnknownPoseExploration:
    """Explore until no robot finds a frontier to explore.

    Args:
        robots: the robots at their starts, by slot.
        frame: frame of each robot's grid, in the robot's own frame.
        settings: how to explore.
        rendezvous: when to register maps.
    """
    planner = RendezvousPlanner(frame, len(robots), settings, rendezvous)
    for slot, robot in enumerate(robots):
        planner.observe(slot, robot.deploy(_START))
    while orders := planner.decide():
        for slot, order in orders.items():
            planner.observe(slot, robots[slot].drive(order.path, order.until))
    layers: list[LogOdds] = []
    for robot in robots:
        patch = robot.recall().patch
        layer = np.zeros((frame.rows, frame.cols), np.int8)
        layer[patch.box.slices] = patch.cells
        layers.append(layer)
    merged = joint_maps(layers, frame)
    placed = {
        slot: transform
        for joint in merged
        for slot, transform in zip(joint.members, joint.transforms, strict=True)
    }
    return UnknownPoseExploration(
        robots=robots,
        frame=frame,
        clusters=sorted(list(joint.members) for joint in merged),
        transforms=[placed[slot] for slot in range(len(robots))],
        seconds=planner.time,
        attempts=planner.attempts,
        merged=merged,
    )
