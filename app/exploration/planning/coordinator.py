"""The mission's mind: what the team knows, and who drives where next.

A plain state machine without clock or I/O. Whoever runs a mission feeds it each robot's leg with
`observe` and, once all have reported, asks `decide` for the next orders, which all end at one
common second. Legs may be observed in any order: they are taken in that of (time, slot).

A frontier cell is given up only after robots stood before it and it stayed; no area ever is.
What was given up is tried again at the end, until that teaches nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from app.exploration.driver import Leg, Order, Patch, Point, Pose
from app.exploration.grid import Box, Grid, GridFrame, LogOdds, Mask
from app.exploration.merging.evidence import occupancy
from app.exploration.planning.assignment import divide
from app.exploration.planning.frontiers import Frontier, cluster
from app.exploration.planning.goals import Goal, Seeker, choose, stands
from app.exploration.planning.paths import clear_length
from app.exploration.planning.planning_map import Survey, survey
from app.exploration.planning.settings import DEFAULTS, Settings

_NOTHING = Patch(0, 0, np.zeros((0, 0), np.int8))
_INTO = 0.5  # cells ahead of a robot that refused to go on, where it did not fit


@dataclass(slots=True)
class _Robot:
    """What the mission knows of one robot; `ended` tells that its goal was reached or barred."""

    pose: Pose
    evidence: LogOdds
    bearing: float | None
    path: list[Point]
    distance: float = 0.0
    goal: Goal | None = None
    ended: bool = False
    active: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What another coordinator needs to go on.

    Attributes:
        legs: all that each robot has reported, as one leg by slot.
        lost: slots of the robots that take no more part.
        rounds: barriers so far.
        retried: cells known when what was given up was last tried again, None before.
        visits: (rows, cols) uint8, how often robots stood before a frontier cell that stayed.
        bumped: (rows, cols) bool, where a robot did not fit.
    """

    legs: tuple[Leg, ...]
    lost: tuple[int, ...]
    rounds: int
    retried: int | None
    visits: NDArray[np.uint8]
    bumped: Mask


class Coordinator:
    """Explores one frame with a team of robots.

    Args:
        frame: the mission's frame.
        poses: where the robots are deployed, by slot.
        settings: how to explore.
        bearings: a direction for each robot's first goal, radians; `divide` gives the default.

    Attributes:
        rounds: barriers so far.
        time: mission seconds at the last barrier.
        done: nothing is left that a robot could reach and would resolve.
    """

    def __init__(
        self,
        frame: GridFrame,
        poses: Sequence[Pose],
        settings: Settings = DEFAULTS,
        *,
        bearings: Sequence[float] | None = None,
    ) -> None:
        self.frame = frame
        self.settings = settings
        self.rounds = 0
        self.time = 0.0
        self.done = False
        shape = (frame.rows, frame.cols)
        directions = divide(poses) if bearings is None else bearings
        self._robots = [
            _Robot(pose, np.zeros(shape, np.int8), bearing if len(poses) > 1 else None, [])
            for pose, bearing in zip(poses, directions, strict=True)
        ]
        self._evidence = np.zeros(shape, np.int16)
        self._visits = np.zeros(shape, np.uint8)
        self._bumped = np.zeros(shape, np.bool_)
        self._known = Box(frame.rows, frame.cols, 0, 0)
        self._pending: dict[int, Leg] = {}
        self._weighed = -math.inf
        self._retried_at: int | None = None
        self._view: Survey | None = None

    @classmethod
    def recover(
        cls,
        frame: GridFrame,
        state: State,
        fresh: Mapping[int, Leg],
        settings: Settings = DEFAULTS,
    ) -> "Coordinator":
        """Go on from a state that may be older than what the robots have done since.

        Args:
            frame: the mission's.
            state: what was saved.
            fresh: by slot, all that a robot has to report by now; it replaces what was saved.
            settings: how to explore.

        Returns:
            A coordinator for which every robot that still takes part has reported.
        """
        legs = [fresh.get(slot, leg) for slot, leg in enumerate(state.legs)]
        self = cls(frame, [leg.pose for leg in legs], settings, bearings=[0.0] * len(legs))
        self.rounds, self._retried_at = state.rounds, state.retried
        self._visits, self._bumped = state.visits.copy(), state.bumped.copy()
        for slot, leg in enumerate(legs):
            self._robots[slot].bearing = None
            self._take(self._robots[slot], leg)
            if slot in state.lost:
                self.remove(slot)
            else:
                self._pending[slot] = replace(leg, patch=_NOTHING, path=leg.path[-1:], distance=0.0)
        return self

    def state(self) -> State:
        """Return what another coordinator needs to go on from the last barrier."""
        return State(
            legs=tuple(self._whole_leg(robot) for robot in self._robots),
            lost=tuple(slot for slot, robot in enumerate(self._robots) if not robot.active),
            rounds=self.rounds,
            retried=self._retried_at,
            visits=self._visits.copy(),
            bumped=self._bumped.copy(),
        )

    def _whole_leg(self, robot: _Robot) -> Leg:
        box = self._known
        cells = robot.evidence[box.row0 : box.row1, box.col0 : box.col1].copy()
        return Leg(
            time=self.time,
            pose=robot.pose,
            distance=robot.distance,
            path=tuple(robot.path),
            reached=0,
            arrived=False,
            blocked=False,
            patch=Patch(box.row0, box.col0, cells) if cells.size else _NOTHING,
        )

    @property
    def active(self) -> list[int]:
        """Slots of the robots that still take part."""
        return [slot for slot, robot in enumerate(self._robots) if robot.active]

    @property
    def poses(self) -> list[Pose]:
        """Each robot's last reported pose, by slot."""
        return [robot.pose for robot in self._robots]

    @property
    def goals(self) -> list[Point | None]:
        """Where each robot is sent, metres, map frame, by slot; None where it waits."""
        return [
            self.frame.centre(*robot.goal.target) if robot.goal else None for robot in self._robots
        ]

    @property
    def paths(self) -> list[list[Point]]:
        """The points that each robot drove through, by slot."""
        return [list(robot.path) for robot in self._robots]

    @property
    def distances(self) -> list[float]:
        """Metres driven by each robot, by slot."""
        return [robot.distance for robot in self._robots]

    @property
    def fraction_known(self) -> float:
        """Share of the frame's cells that are known; most maps have cells that nobody can see."""
        box = self._known
        known = np.count_nonzero(self._evidence[box.row0 : box.row1, box.col0 : box.col1])
        return int(known) / self._evidence.size

    @property
    def frontiers_left(self) -> list[Point]:
        """A point of each frontier on the team's map, given up or not, metres, map frame."""
        if self._known.row0 >= self._known.row1:
            return []
        view = survey(self._evidence, self._bumped, self._known, self.frame)
        return [
            self.frame.centre(view.row0 + int(cell[0]), view.col0 + int(cell[1]))
            for cell in (piece.cells[0] for piece in self._clusters(view.border))
        ]

    def team_grid(self) -> Grid:
        """Return what the team knows, (rows, cols) int8 occupancy."""
        return occupancy(self._evidence)

    def layers(self) -> list[LogOdds]:
        """Return each robot's own evidence by slot, (rows, cols) int8 log-odds units."""
        return [robot.evidence.copy() for robot in self._robots]

    def observe(self, slot: int, leg: Leg) -> None:
        """Take one robot's report, to be used at the next barrier.

        Raises:
            ValueError: the robot has left the mission or has reported before, or its patch does
                not lie in the frame.
        """
        if slot not in self.active:
            raise ValueError(f"robot {slot} takes no part")
        if slot in self._pending:
            raise ValueError(f"robot {slot} has reported already")
        if not self._holds(leg.patch):
            raise ValueError(f"robot {slot}: patch lies outside the frame")
        self._pending[slot] = leg

    def remove(self, slot: int) -> None:
        """Take a robot out; what it saw stays, and its frontier goes to the others."""
        robot = self._robots[slot]
        robot.active = False
        robot.goal = None
        self._pending.pop(slot, None)

    def decide(self) -> dict[int, Order]:
        """Close a barrier: use all reports and order what comes next.

        Returns:
            One order for each active robot, or nothing when the exploration is over.

        Raises:
            ValueError: an active robot has not reported.
        """
        missing = [slot for slot in self.active if slot not in self._pending]
        if missing:
            raise ValueError(f"robots {missing} have not reported")
        if self.done or not self.active:
            return {}
        for slot in sorted(self._pending, key=lambda slot: (self._pending[slot].time, slot)):
            self._take(self._robots[slot], self._pending[slot])
        self._pending.clear()
        self.rounds += 1
        view = survey(self._evidence, self._bumped, self._known, self.frame, before=self._view)
        self._view = view
        self._count_visits(view)
        self._choose(view)
        team = self._team()
        if all(robot.goal is None for robot in team) and self._worth_retrying():
            np.minimum(self._visits, self.settings.visits - 1, out=self._visits)
            self._choose(view)
        if all(robot.goal is None for robot in team):
            self.done = True
            return {}
        until = self._barrier(team)
        return {
            slot: Order(robot.goal.path if robot.goal else (), until)
            for slot, robot in zip(self.active, team, strict=True)
        }

    def _holds(self, patch: Patch) -> bool:
        """Tell whether a patch lies in the frame."""
        rows, cols = patch.cells.shape
        return (
            min(patch.row0, patch.col0) >= 0
            and patch.row0 + rows <= self.frame.rows
            and patch.col0 + cols <= self.frame.cols
        )

    def _take(self, robot: _Robot, leg: Leg) -> None:
        """Lay a report over what was known of a robot."""
        cells = leg.patch.cells
        if cells.size:
            row0, col0 = leg.patch.row0, leg.patch.col0
            box = Box(row0, col0, row0 + cells.shape[0], col0 + cells.shape[1])
            place = (slice(box.row0, box.row1), slice(box.col0, box.col1))
            self._evidence[place] += cells.astype(np.int16) - robot.evidence[place]
            robot.evidence[place] = cells
            self._known = self._known.union(box)
        robot.pose = leg.pose
        robot.path.extend(leg.path if not robot.path else leg.path[1:])
        robot.distance += leg.distance
        self.time = max(self.time, leg.time)
        if robot.goal is not None:
            robot.goal = replace(
                robot.goal,
                path=robot.goal.path[leg.reached :],
                back=max(robot.goal.back - leg.reached, 0),
            )
            robot.ended = leg.arrived or leg.blocked
        if leg.blocked:
            ahead = _INTO * self.frame.resolution
            row, col = self.frame.cell(
                leg.pose.x + ahead * math.cos(leg.pose.heading),
                leg.pose.y + ahead * math.sin(leg.pose.heading),
            )
            if self.frame.contains(row, col):
                self._bumped[row, col] = True

    def _count_visits(self, view: Survey) -> None:
        """Count against frontier cells that a robot was sent to and that are still there."""
        for robot in self._team():
            if robot.goal is None or robot.goal.helps or not robot.ended:
                continue
            goal = robot.goal
            cells = goal.cells - np.array((view.row0, view.col0), np.int32)
            cells = cells[view.border[cells[:, 0], cells[:, 1]]]
            row, col = goal.target[0] - view.row0, goal.target[1] - view.col0
            place = (row + 0.5, col + 0.5)
            reach = goal.look / self.frame.resolution + 1.0
            looked = [
                math.dist(cell, (row, col)) <= reach
                and math.isinf(clear_length(view.open_air, place, (cell[0] + 0.5, cell[1] + 0.5)))
                for cell in cells.tolist()
            ]
            if any(looked):
                cells = cells[looked]
            stayed = np.zeros(view.border.shape, np.uint8)
            stayed[cells[:, 0], cells[:, 1]] = 1
            height, width = view.grid.shape
            rows = slice(view.row0, view.row0 + height)
            cols = slice(view.col0, view.col0 + width)
            spread = round(self.settings.visit_spread_m / self.frame.resolution)
            if spread:
                around = np.ones((2 * spread + 1, 2 * spread + 1), np.uint8)
                cv2.dilate(stayed, around, dst=stayed)
            self._visits[rows, cols] += stayed

    def _clusters(self, mask: Mask) -> list[Frontier]:
        """Group frontier cells by this mission's settings."""
        resolution = self.frame.resolution
        return cluster(
            mask,
            least=math.ceil(self.settings.frontier_least_m / resolution - 1e-9),
            longest=math.ceil(self.settings.frontier_longest_m / resolution),
        )

    def _choose(self, view: Survey) -> None:
        """Drop goals that are over and, where a robot needs one, weigh all goals anew."""
        rows = slice(view.row0, view.row0 + view.grid.shape[0])
        cols = slice(view.col0, view.col0 + view.grid.shape[1])
        live = view.border & (self._visits[rows, cols] < self.settings.visits)
        team = self._team()
        lost = False
        for robot in team:
            if robot.goal is not None and (
                robot.ended or not stands(robot.goal, robot.pose, view, live, self.frame)
            ):
                lost = lost or not robot.goal.helps
                robot.goal = None
        idle = sum(robot.goal is None or robot.goal.helps for robot in team)
        patience = self.settings.idle_s if idle else self.settings.reassign_s
        if not lost and idle < len(team) and self.time - self._weighed < patience:
            return
        self._weighed = self.time
        # What is left of a piece of which a part was given up is sought, however short it is.
        pieces = [piece.cells for piece in self._clusters(view.border)]
        left = [cells[live[cells[:, 0], cells[:, 1]]] for cells in pieces]
        frontiers = [Frontier(cells) for cells in left if len(cells)]
        if not frontiers:
            for robot in team:
                if robot.goal is not None and robot.goal.helps:
                    robot.goal = None
            return
        seekers = [
            Seeker(
                robot.pose,
                None if robot.goal is not None and robot.goal.helps else robot.goal,
                robot.bearing,
                robot.path,
            )
            for robot in team
        ]
        goals = choose(
            seekers, frontiers, view, self.frame, self.settings, afar=self._retried_at is not None
        )
        for robot, goal in zip(team, goals, strict=True):
            robot.goal = goal
            robot.ended = False
            robot.bearing = None

    def _worth_retrying(self) -> bool:
        """Tell whether what was given up is tried again: once, and as long as that teaches much."""
        box = self._known
        known = int(np.count_nonzero(self._evidence[box.row0 : box.row1, box.col0 : box.col1]))
        least = self.settings.retry_m2 / self.frame.resolution**2
        worth = self._retried_at is None or known - self._retried_at >= least
        self._retried_at = known
        return worth

    def _team(self) -> list[_Robot]:
        """Return the robots that take part, by slot."""
        return [self._robots[slot] for slot in self.active]

    def _barrier(self, team: list[_Robot]) -> float:
        """Return the second at which the first robot will be there, within bounds."""
        ways = []
        for robot in team:
            if robot.goal is not None and not robot.goal.helps:
                stations = [(robot.pose.x, robot.pose.y), *robot.goal.path]
                ways.append(sum(math.dist(start, end) for start, end in pairwise(stations)))
        soonest = min(ways) / self.settings.speed
        wait = min(max(soonest, self.settings.round_min_s), self.settings.round_max_s)
        return self.time + wait
