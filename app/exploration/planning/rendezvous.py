"""Plan for robots with unknown relative poses: they explore separately until their maps match.

Each robot starts as a map cluster of one. At intervals the maps of two clusters are registered;
when the gate accepts the registration, both continue as one cluster in the frame of the first. Its
robots' transforms are refined as their maps grow.

Each robot keeps its own pose graph: only drive reports and orders are exchanged, so that robots
may run in other processes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from app.exploration.driver import DriveReport, Order, Point, Pose
from app.exploration.grid import Grid, GridFrame
from app.exploration.merging.registration import RegistrationGate, register
from app.exploration.planning.goals import Activity
from app.exploration.planning.map_clusters import (
    MapCluster,
    build_cluster,
    move_points,
    move_report,
    realign_cluster,
)
from app.exploration.planning.robot_history import PlannerState, RobotHistory
from app.exploration.planning.settings import UNKNOWN_POSE_SETTINGS, PlannerSettings
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.se2 import IDENTITY, Transform, compose, inverse, of_pose, to_pose

_NO_CELLS = np.zeros((1, 1), np.uint8)  # a state without visits; a stored array needs a cell


@dataclass(frozen=True, slots=True)
class RendezvousSpec:
    """When the maps of two clusters are registered.

    Attributes:
        first_s: mission seconds before the first attempt.
        every_s: mission seconds between attempts.
        growth: a pair is registered again once its known area has grown by this factor.
        gate: what a registration must show to be accepted.
    """

    first_s: float = 12.0
    every_s: float = 8.0
    growth: float = 1.25
    gate: RegistrationGate = field(default_factory=RegistrationGate)


DEFAULT_RENDEZVOUS = RendezvousSpec()


class RendezvousPlanner:
    """Explores with robots whose relative poses are unknown.

    It has the interface of `TeamPlanner`, for drivers that report in their own frames.

    Args:
        frame: frame of every robot's grid, in the robot's own frame; it must hold everything that
            a robot can see.
        robots: number of robots.
        settings: how to explore.
        rendezvous: when to register maps.

    Attributes:
        rounds: barriers so far.
    """

    def __init__(
        self,
        frame: GridFrame,
        robots: int,
        settings: PlannerSettings = UNKNOWN_POSE_SETTINGS,
        rendezvous: RendezvousSpec = DEFAULT_RENDEZVOUS,
    ) -> None:
        self.frame = frame
        self.settings = settings
        self.rounds = 0
        self._rendezvous = rendezvous
        self._due = rendezvous.first_s
        self._tried: dict[frozenset[int], float] = {}
        self._fraction = 0.0
        origin = to_pose(IDENTITY)
        self._robots = [RobotHistory.at(origin, frame) for _ in range(robots)]
        self._clusters = [
            MapCluster([slot], IDENTITY[None], TeamPlanner(frame, [origin], settings))
            for slot in range(robots)
        ]

    @classmethod
    def recover(
        cls,
        frame: GridFrame,
        state: PlannerState,
        fresh: Mapping[int, DriveReport],
        settings: PlannerSettings = UNKNOWN_POSE_SETTINGS,
        rendezvous: RendezvousSpec = DEFAULT_RENDEZVOUS,
    ) -> "RendezvousPlanner":
        """Continue from a state that may be older than the robots' own reports.

        Each robot starts as a cluster of one again; all maps are registered at once.

        Args:
            frame: the mission's frame.
            state: the saved state.
            fresh: by slot, all that a robot has to report by now; it replaces the saved report.
            settings: how to explore.
            rendezvous: when to register maps.
        """
        self = cls(frame, len(state.reports), settings, rendezvous)
        self.rounds, self._due = state.rounds, 0.0
        for slot, saved in enumerate(state.reports):
            self._robots[slot].add(fresh.get(slot, saved))
            self._clusters[slot] = self._build([slot], IDENTITY[None])
            if slot in state.lost:
                self.remove(slot)
        return self

    def state(self) -> PlannerState:
        """Return what another planner needs to continue: the robots' reports."""
        return PlannerState(
            reports=tuple(robot.combined() for robot in self._robots),
            lost=tuple(slot for slot, robot in enumerate(self._robots) if not robot.active),
            rounds=self.rounds,
            retried=None,
            visits=_NO_CELLS,
            collision_cells=_NO_CELLS.astype(np.bool_),
        )

    @property
    def active(self) -> list[int]:
        """Slots of the robots that still take part."""
        return [slot for slot, robot in enumerate(self._robots) if robot.active]

    @property
    def clusters(self) -> list[list[int]]:
        """The slots of the robots that share a frame, by cluster."""
        return [list(cluster.slots) for cluster in self._clusters]

    @property
    def transforms(self) -> list[Transform]:
        """From each robot's own frame to its cluster's, (3,), by slot."""
        found: dict[int, Transform] = {}
        for cluster in self._clusters:
            found |= zip(cluster.slots, cluster.transforms, strict=True)
        return [found[slot] for slot in range(len(self._robots))]

    @property
    def attempts(self) -> int:
        """Number of pairs of clusters that were registered."""
        return len(self._tried)

    @property
    def time(self) -> float:
        """Mission seconds at the last barrier."""
        return max(robot.time for robot in self._robots)

    @property
    def poses(self) -> list[Pose]:
        """Each robot's last reported pose in its cluster's frame, by slot."""
        return [
            to_pose(compose(transform, of_pose(robot.pose)))
            for robot, transform in zip(self._robots, self.transforms, strict=True)
        ]

    @property
    def goals(self) -> list[Point | None]:
        """Each robot's viewpoint, metres, cluster's frame, by slot; None without a goal."""
        found: dict[int, Point | None] = {}
        for cluster in self._clusters:
            found |= zip(cluster.slots, cluster.planner.goals, strict=True)
        return [found[slot] for slot in range(len(self._robots))]

    @property
    def activities(self) -> list[Activity]:
        """What each robot does, by slot."""
        found: dict[int, Activity] = {}
        for cluster in self._clusters:
            found |= zip(cluster.slots, cluster.planner.activities, strict=True)
        return [found[slot] for slot in range(len(self._robots))]

    @property
    def apart(self) -> list[int]:
        """The slots of the robots outside the cluster with the largest known area."""
        return [slot for slot in range(len(self._robots)) if slot not in self._largest.slots]

    @property
    def paths(self) -> list[list[Point]]:
        """The points that each robot drove through, by slot, in its own frame."""
        return [list(robot.path) for robot in self._robots]

    @property
    def team_paths(self) -> list[list[Point]]:
        """The points that each robot drove through, by slot, in its cluster's frame."""
        return [
            list(move_points(transform, robot.path))
            for robot, transform in zip(self._robots, self.transforms, strict=True)
        ]

    @property
    def distances(self) -> list[float]:
        """Metres driven by each robot, by slot."""
        return [robot.distance for robot in self._robots]

    @property
    def fraction_known(self) -> float:
        """Known share of a square as wide as the area that robots may reach; it never falls."""
        known = sum(cluster.planner.fraction_known for cluster in self._clusters)
        self._fraction = max(self._fraction, min(4.0 * known, 1.0))
        return self._fraction

    @property
    def frontiers_left(self) -> list[Point]:
        """A point of each frontier of the largest cluster's map, metres, in its frame."""
        return self._largest.planner.frontiers_left

    def team_grid(self) -> Grid:
        """Return the map of the largest cluster, (rows, cols) int8 occupancy."""
        return self._largest.planner.team_grid()

    def observe(self, slot: int, report: DriveReport) -> None:
        """Accept one robot's report, to be used at its cluster's next barrier.

        Raises:
            ValueError: the robot was removed or has already reported, or its patch exceeds the
                frame.
        """
        cluster = self._of(slot)
        index = cluster.slots.index(slot)
        robot = self._robots[slot]
        if not (robot.active and report.patch.lies_in(self.frame)):
            raise ValueError(
                f"robot {slot} takes no part in this mission, or its patch lies outside the frame"
            )
        robot.add(report)
        moved = move_report(report, robot.evidence, self.frame, cluster.transforms[index])
        cluster.planner.observe(index, moved)
        cluster.time = max(cluster.time, report.time)

    def remove(self, slot: int) -> None:
        """Remove a robot; its evidence stays."""
        self._robots[slot].active = False
        cluster = self._of(slot)
        cluster.planner.remove(cluster.slots.index(slot))
        cluster.done = cluster.done or not cluster.planner.active

    def decide(self) -> dict[int, Order]:
        """Close a barrier of the cluster that is furthest behind and return its next orders.

        Returns:
            Orders by slot, each in its robot's own frame; empty when the exploration is over.

        Raises:
            ValueError: a robot of that cluster has not reported.
        """
        while True:
            unfinished = [cluster for cluster in self._clusters if not cluster.done]
            time = min((cluster.time for cluster in unfinished), default=math.inf)
            if time >= self._due:
                self._due = (time if unfinished else self.time) + self._rendezvous.every_s
                while self._merge_two():
                    pass
                self._clusters = [self._realigned(cluster) for cluster in self._clusters]
                if not unfinished and all(cluster.done for cluster in self._clusters):
                    return {}
                continue
            cluster = min(unfinished, key=lambda one: (one.time, one.slots))
            orders = cluster.planner.decide()
            if orders:
                self.rounds += 1
                return {
                    cluster.slots[index]: replace(
                        order, path=move_points(inverse(cluster.transforms[index]), order.path)
                    )
                    for index, order in orders.items()
                }
            cluster.done = True

    @property
    def _largest(self) -> MapCluster:
        return max(self._clusters, key=lambda cluster: cluster.planner.fraction_known)

    def _of(self, slot: int) -> MapCluster:
        """Return a robot's cluster."""
        return next(cluster for cluster in self._clusters if slot in cluster.slots)

    def _merge_two(self) -> bool:
        """Merge the first two clusters whose maps match; return whether any did.

        A pair is registered again only when its known area has grown since the last attempt.
        """
        for one, two in combinations(self._clusters, 2):
            pair = frozenset(one.slots + two.slots)
            known = one.planner.fraction_known + two.planner.fraction_known
            if known < self._rendezvous.growth * self._tried.get(pair, 0.0):
                continue
            self._tried[pair] = known
            found = register(self._grid(one), self.frame, self._grid(two), self.frame)
            if found is None or not self._rendezvous.gate.accepts(found):
                continue
            transforms = np.vstack([one.transforms, compose(found.transform, two.transforms)])
            merged = self._build(one.slots + two.slots, transforms)
            self._clusters = [
                merged if cluster is one else cluster
                for cluster in self._clusters
                if cluster is not two
            ]
            return True
        return False

    def _realigned(self, cluster: MapCluster) -> MapCluster:
        """Refine the transforms of an unfinished cluster of several robots."""
        if cluster.done or len(cluster.slots) == 1:
            return cluster
        return realign_cluster(cluster, self._robots, self.frame, self.settings)

    def _grid(self, cluster: MapCluster) -> Grid:
        """Return a cluster's map, reports since its last barrier included."""
        return self._build(cluster.slots, cluster.transforms).planner.team_grid()

    def _build(self, slots: list[int], transforms: Transform) -> MapCluster:
        """Build a cluster from everything that its robots have reported."""
        return build_cluster(slots, transforms, self._robots, self.frame, self.settings)
