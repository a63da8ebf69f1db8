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
        layers: each robot's own evidence by slot, (rows, cols) int8 log-odds units.
        clusters: the slots of the robots that share a frame, by map cluster.
        transforms: (3,) from each robot's own frame to its cluster's, by slot.
        seconds: simulated seconds.
        attempts: pairs of map clusters that were registered.
    """

    robots: Sequence[SlamRobot]
    frame: GridFrame
    layers: list[LogOdds]
    clusters: list[list[int]]
    transforms: list[Transform]
    seconds: float
    attempts: int

    @property
    def status(self) -> str:
        """`completed`, or `partial` if several map clusters remain."""
        return "completed" if len(self.clusters) == 1 else "partial"

    def trajectory(self, slot: int) -> Transform:
        """Return a robot's keyframe poses, (n, 3), in the frame of its cluster."""
        return compose(self.transforms[slot], self.robots[slot].slam.poses)

    def joint_maps(self) -> list[JointMap]:
        """Register the whole maps jointly and merge them, as a mission does at its end."""
        return joint_maps(self.layers, self.frame)


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
    layers = []
    for robot in robots:
        patch = robot.recall().patch
        layer = np.zeros((frame.rows, frame.cols), np.int8)
        layer[patch.box.slices] = patch.cells
        layers.append(layer)
    return UnknownPoseExploration(
        robots=robots,
        frame=frame,
        layers=layers,
        clusters=planner.clusters,
        transforms=planner.transforms,
        seconds=planner.time,
        attempts=planner.attempts,
    )
