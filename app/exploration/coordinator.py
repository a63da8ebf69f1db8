"""The mission's mind: what the team knows, and who drives where next.

A plain state machine without clock or I/O. Whoever runs a mission feeds it each robot's leg with
`observe` and, once all have reported, asks `decide` for the next orders, which all end at one
common second. Legs may be observed in any order: they are taken in that of (time, slot).

A frontier cell is given up only after robots stood before it and it stayed; no area ever is.
What was given up is tried once more at the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.assignment import Costs, assign, divide, targets
from app.exploration.driver import Leg, Order, Point, Pose
from app.exploration.frontiers import Frontier, cluster
from app.exploration.grid import UNKNOWN, Grid, GridFrame, Mask
from app.exploration.lidar import Box, LogOdds
from app.exploration.merging import occupancy
from app.exploration.planning import (
    STRAIGHT,
    UNREACHED,
    Cell,
    Cells,
    Field,
    clear_length,
    distance_field,
    path_to,
)
from app.exploration.survey import Survey, survey

_ALIVE = 0.3  # a goal stands while this share of its frontier is still frontier
_NEAR_M = 12.0  # way that is looked at first
_TARGET_GRID_M = 0.1  # places to look from are tried this far apart
_INTO = 0.5  # cells ahead of a robot that refused to go on, where it did not fit


@dataclass(frozen=True, slots=True)
class Settings:
    """How a team explores.

    Attributes:
        radius: of a robot, metres.
        speed: of a robot, metres a second; sets the barriers.
        round_min_s: shortest time between two barriers.
        round_max_s: longest time between two barriers.
        reassign_s: goals are weighed anew at least so often.
        frontier_least_m: shorter frontiers are left alone.
        frontier_longest_m: longer ones are halved for several robots.
        look_m: how close a robot goes to a frontier's cell.
        visits: so many visits that leave a frontier cell as it was give it up.
        gain: metres of way that a metre of frontier is worth.
        gain_longest_m: a longer frontier is worth no more.
        keep_m: metres of way that a robot's present goal is worth.
        divide_m: metres of way that a first goal against the robot's own direction costs.
    """

    radius: float = 0.2
    speed: float = 0.5
    round_min_s: float = 1.0
    round_max_s: float = 4.0
    reassign_s: float = 20.0
    frontier_least_m: float = 0.4
    frontier_longest_m: float = 4.0
    look_m: float = 0.5
    visits: int = 2
    gain: float = 0.5
    gain_longest_m: float = 6.0
    keep_m: float = 1.0
    divide_m: float = 4.0


@dataclass(slots=True)
class _Goal:
    """A frontier (its cells and the place to see it from, mission's frame) and the way there."""

    cells: Cells
    target: Cell
    path: tuple[Point, ...]
    radius: float
    ended: bool = False


@dataclass(slots=True)
class _Robot:
    """What the mission knows of one robot."""

    pose: Pose
    evidence: LogOdds
    path: list[Point]
    distance: float = 0.0
    goal: _Goal | None = None
    active: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class _Prospect:
    """One robot's ways to all frontiers: (frontiers,) costs and (frontiers, 2) local targets."""

    radius: float
    passable: Mask
    field: Field
    costs: Cells
    targets: Cells


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
        settings: Settings = Settings(),
        *,
        bearings: Sequence[float] | None = None,
    ) -> None:
        self.frame = frame
        self.settings = settings
        self.rounds = 0
        self.time = 0.0
        self.done = False
        self._bearings = list(divide(poses) if bearings is None else bearings)
        shape = (frame.rows, frame.cols)
        self._robots = [_Robot(pose, np.zeros(shape, np.int8), []) for pose in poses]
        self._evidence = np.zeros(shape, np.int16)
        self._visits = np.zeros(shape, np.uint8)
        self._bumped = np.zeros(shape, np.bool_)
        self._known = Box(frame.rows, frame.cols, 0, 0)
        self._pending: dict[int, Leg] = {}
        self._weighed = -math.inf
        self._retried = False

    @property
    def active(self) -> list[int]:
        """Slots of the robots that still take part."""
        return [slot for slot, robot in enumerate(self._robots) if robot.active]

    @property
    def poses(self) -> list[Pose]:
        """Each robot's last reported pose, by slot."""
        return [robot.pose for robot in self._robots]

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
        rows, cols = leg.patch.cells.shape
        inside = leg.patch.row0 >= 0 and leg.patch.col0 >= 0
        if not inside or not (
            leg.patch.row0 + rows <= self.frame.rows and leg.patch.col0 + cols <= self.frame.cols
        ):
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
        view = survey(self._evidence, self._bumped, self._known, self.frame)
        self._count_visits(view)
        self._choose(view)
        team = [self._robots[slot] for slot in self.active]
        if all(robot.goal is None for robot in team) and not self._retried:
            self._retried = True
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
            robot.goal.path = robot.goal.path[leg.reached :]
            robot.goal.ended = leg.arrived or leg.blocked
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
        reach = 2.0 * self.settings.look_m / self.frame.resolution
        for slot in self.active:
            goal = self._robots[slot].goal
            if goal is None or not goal.ended:
                continue
            row, col = goal.target[0] - view.row0, goal.target[1] - view.col0
            cells = np.argwhere(view.border)
            cells = cells[np.hypot(cells[:, 0] - row, cells[:, 1] - col) <= reach]
            place = (row + 0.5, col + 0.5)
            seen = [
                math.isinf(clear_length(view.open_air, place, (cell[0] + 0.5, cell[1] + 0.5)))
                for cell in cells
            ]
            if any(seen):
                cells = cells[seen]
            visits = self._visits[cells[:, 0] + view.row0, cells[:, 1] + view.col0]
            self._visits[cells[:, 0] + view.row0, cells[:, 1] + view.col0] = visits + 1

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
        team = [self._robots[slot] for slot in self.active]
        for robot in team:
            if robot.goal is not None and not self._stands(robot, robot.goal, view, live):
                robot.goal = None
        due = self.time - self._weighed >= self.settings.reassign_s
        if due or any(robot.goal is None for robot in team):
            frontiers = self._clusters(live)
            if frontiers:
                self._weigh(view, frontiers)
            self._weighed = self.time

    def _stands(self, robot: _Robot, goal: _Goal, view: Survey, live: Mask) -> bool:
        """Tell whether a goal is still worth driving to, and the way there still open."""
        if goal.ended:
            return False
        alive = live[goal.cells[:, 0] - view.row0, goal.cells[:, 1] - view.col0]
        if alive.mean() < _ALIVE:
            return False
        passable = view.passable(goal.radius, self._cell(robot, view))
        stations = [(robot.pose.x, robot.pose.y), *goal.path]
        local = [
            (row - view.row0, col - view.col0)
            for row, col in (self.frame.in_cells(x, y) for x, y in stations)
        ]
        return all(
            math.isinf(clear_length(passable, start, end))
            for start, end in zip(local, local[1:], strict=False)
        )

    def _cell(self, robot: _Robot, view: Survey) -> Cell:
        """Return a robot's cell in the known rectangle."""
        row, col = self.frame.cell(robot.pose.x, robot.pose.y)
        return row - view.row0, col - view.col0

    def _prospect(
        self, robot: _Robot, view: Survey, frontiers: list[Frontier], limit: int
    ) -> _Prospect:
        """Find a robot's ways; one that finds none however far makes do with less room."""
        resolution = self.frame.resolution
        radius = self.settings.radius
        reach = round(self.settings.look_m / resolution)
        cell = self._cell(robot, view)
        rooms = [radius + resolution]
        if limit == UNREACHED:
            rooms.append(radius)
            if self._retried:  # the map may show a wall a cell too thick
                rooms.append(max(radius - resolution, 0.0))
        stride = max(1, round(_TARGET_GRID_M / resolution))
        for room in rooms:
            passable = view.passable(room, cell)
            field = distance_field(passable, cell, limit=limit)
            costs, cells = targets(field, view.open_air, frontiers, reach=reach, stride=stride)
            if (costs < UNREACHED).any():
                break
        return _Prospect(room, passable, field, costs, cells)

    def _weigh(self, view: Survey, frontiers: list[Frontier]) -> None:
        """Give all robots goals jointly, looking far only where near goals do not suffice."""
        team = [self._robots[slot] for slot in self.active]
        near = round(_NEAR_M / self.frame.resolution * STRAIGHT)
        prospects = [self._prospect(robot, view, frontiers, near) for robot in team]
        chosen = assign(self._costs(team, prospects, view, frontiers))
        looked_far: set[int] = set()
        while idle := set(range(len(team))) - set(chosen) - looked_far:
            for index in sorted(idle):
                prospects[index] = self._prospect(team[index], view, frontiers, UNREACHED)
            looked_far |= idle
            chosen = assign(self._costs(team, prospects, view, frontiers))
        for index, robot in enumerate(team):
            robot.goal = None
            if index in chosen:
                prospect, which = prospects[index], chosen[index]
                robot.goal = self._goal(robot, view, prospect, frontiers[which], which)

    def _costs(
        self,
        team: list[_Robot],
        prospects: list[_Prospect],
        view: Survey,
        frontiers: list[Frontier],
    ) -> Costs:
        """Weigh metres of way against what a frontier promises."""
        ways = np.array([prospect.costs for prospect in prospects])
        costs = np.where(ways == UNREACHED, np.inf, ways * (self.frame.resolution / STRAIGHT))
        lengths = np.array([frontier.size for frontier in frontiers]) * self.frame.resolution
        costs -= self.settings.gain * np.minimum(lengths, self.settings.gain_longest_m)
        costs -= self.settings.keep_m * self._kept(team, view, frontiers)
        if math.isinf(self._weighed) and len(team) > 1:
            costs += self.settings.divide_m * self._astray(view, frontiers)
        return costs

    def _goal(
        self, robot: _Robot, view: Survey, prospect: _Prospect, frontier: Frontier, which: int
    ) -> _Goal:
        """Turn a choice into a way to drive."""
        target = (int(prospect.targets[which][0]), int(prospect.targets[which][1]))
        row, col = self.frame.in_cells(robot.pose.x, robot.pose.y)
        position = (row - view.row0, col - view.col0)
        way = path_to(prospect.field, prospect.passable, position, target)
        corner = (view.row0, view.col0)
        return _Goal(
            cells=frontier.cells + np.array(corner, np.int32),
            target=(target[0] + view.row0, target[1] + view.col0),
            path=tuple(self.frame.centre(row + view.row0, col + view.col0) for row, col in way),
            radius=prospect.radius,
        )

    def _kept(self, team: list[_Robot], view: Survey, frontiers: list[Frontier]) -> Mask:
        """Tell which frontier is which robot's present goal, (robots, frontiers) bool."""
        owner = np.full(view.grid.shape, -1, np.int32)
        for index, frontier in enumerate(frontiers):
            owner[frontier.cells[:, 0], frontier.cells[:, 1]] = index
        kept = np.zeros((len(team), len(frontiers)), np.bool_)
        for index, robot in enumerate(team):
            if robot.goal is not None:
                cells = robot.goal.cells
                owners = owner[cells[:, 0] - view.row0, cells[:, 1] - view.col0]
                kept[index, owners[owners >= 0]] = True
        return kept

    def _astray(self, view: Survey, frontiers: list[Frontier]) -> Costs:
        """Measure how far off each robot's own direction a frontier lies, 0 to 2."""
        away = np.zeros((len(self.active), len(frontiers)))
        for index, slot in enumerate(self.active):
            pose = self._robots[slot].pose
            for which, frontier in enumerate(frontiers):
                row, col = frontier.centroid
                x, y = self.frame.centre(row + view.row0, col + view.col0)
                angle = math.atan2(y - pose.y, x - pose.x)
                away[index, which] = 1.0 - math.cos(angle - self._bearings[slot])
        return away

    def _barrier(self, team: list[_Robot]) -> float:
        """Return the second at which the first robot will be there, within bounds."""
        ways = []
        for robot in team:
            if robot.goal is not None:
                stations = [(robot.pose.x, robot.pose.y), *robot.goal.path]
                ways.append(
                    sum(math.dist(a, b) for a, b in zip(stations, stations[1:], strict=False))
                )
        soonest = min(ways) / self.settings.speed
        wait = min(max(soonest, self.settings.round_min_s), self.settings.round_max_s)
        return self.time + wait
