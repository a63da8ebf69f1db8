"""A whole exploration with unknown poses in one process: the planner and merge of missions.

Robots localize themselves by SLAM. `RendezvousPlanner` plans, and `joint_maps` merges the whole
maps at the end, both as in a mission.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.driver import Pose
from app.exploration.grid import GridFrame
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
        maps: the merged maps, largest known area first; one, unless maps did not match.
        clusters: the slots of the robots that shared a frame at the end, by map cluster.
        seconds: simulated seconds.
        attempts: pairs of map clusters that were registered on the way.
    """

    robots: Sequence[SlamRobot]
    maps: list[JointMap]
    clusters: list[list[int]]
    seconds: float
    attempts: int

    @property
    def status(self) -> str:
        """`completed`, or `partial` if several maps remain."""
        return "completed" if len(self.maps) == 1 else "partial"

    def trajectory(self, slot: int) -> Transform:
        """Return a robot's keyframe poses, (n, 3), in the frame of its merged map."""
        for joint in self.maps:
            if slot in joint.members:
                transform = joint.transforms[joint.members.index(slot)]
                return compose(transform, self.robots[slot].slam.poses)
        raise ValueError(f"no robot {slot}")


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
        rendezvous: when to register maps, and the gate of the final merge.
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
    maps = joint_maps(layers, frame, rendezvous.gate)
    return UnknownPoseExploration(robots, maps, planner.clusters, planner.time, planner.attempts)
