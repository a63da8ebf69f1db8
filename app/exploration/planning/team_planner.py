"""Plan for a team with known poses: what the team knows, and where each robot drives next.

The planner is a state machine without clock or I/O. Its caller passes each robot's report to
`observe` and, when all robots have reported, calls `decide` for the next orders, which all end at
one common second: the barrier. The order of the `observe` calls does not matter: reports are
applied in order of (time, slot).

A frontier cell is abandoned only after robots viewed it and it stayed a frontier; an area is never
abandoned. Abandoned cells are retried at the end, until a retry reveals too little.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.exploration.driver import EMPTY_PATCH, DriveReport, Order, Point, Pose
from app.exploration.grid import Box, Grid, GridFrame, LogOdds, Mask
from app.exploration.merging.evidence import occupancy
from app.exploration.planning.backtracking import path_length
from app.exploration.planning.following import ways_behind
from app.exploration.planning.frontiers import Frontier, cluster_frontiers
from app.exploration.planning.goals import Activity, Goal, RobotState, is_valid
from app.exploration.planning.planning_map import PlanningMap, build_planning_map
from app.exploration.planning.robot_history import PlannerState, RobotHistory, require_reports
from app.exploration.planning.settings import DEFAULT_SETTINGS, PlannerSettings
from app.exploration.planning.view_routing import route_views
from app.exploration.planning.visits import count_visit


@dataclass(slots=True)
class _Member:
    """One robot of the team.

    Attributes:
        history: what it reported.
        goal: where it drives to.
        ended: its goal was reached or found blocked.
        following: its way behind another robot while it has no goal, metres, map frame.
    """

    history: RobotHistory
    goal: Goal | None = None
    ended: bool = False
    following: tuple[Point, ...] = ()

    @property
    def activity(self) -> Activity:
        if self.goal is not None:
            return "exploring"
        return "following" if self.following else "idle"

    def state(self) -> RobotState:
        history = self.history
        return RobotState(history.pose, self.goal, history.path, history.distance)

    def take_over(self, other: "_Member") -> None:
        self.goal, self.ended = other.goal, other.ended


class TeamPlanner:
    """Explores one frame with a team of robots.

    Args:
        frame: the mission's frame.
        poses: where the robots are deployed, by slot.
        settings: how to explore.

    Attributes:
        rounds: barriers so far.
        time: mission seconds at the last barrier.
        done: no frontier is left that a robot could reach and resolve.
    """

    def __init__(
        self,
        frame: GridFrame,
        poses: Sequence[Pose],
        settings: PlannerSettings = DEFAULT_SETTINGS,
    ) -> None:
        self.frame = frame
        self.settings = settings
        self.rounds = 0
        self.time = 0.0
        self.done = False
        shape = (frame.rows, frame.cols)
        self._robots = [_Member(RobotHistory.at(pose, frame)) for pose in poses]
        self._evidence = np.zeros(shape, np.int16)
        self._visits = np.zeros(shape, np.uint8)
        self._collisions = np.zeros(shape, np.bool_)
        self._known = Box(frame.rows, frame.cols, 0, 0)
        self._pending: dict[int, DriveReport] = {}
        self._assigned_at = -math.inf
        self._retried_at: int | None = None
        self._last_map: PlanningMap | None = None
        self._left: Mask | None = None

    @classmethod
    def recover(
        cls,
        frame: GridFrame,
        state: PlannerState,
        fresh: Mapping[int, DriveReport],
        settings: PlannerSettings = DEFAULT_SETTINGS,
    ) -> "TeamPlanner":
        """Continue from a state that may be older than the robots' own reports.

        Args:
            frame: the mission's frame.
            state: the saved state.
            fresh: by slot, all that a robot has to report by now; it replaces the saved report.
            settings: how to explore.

        Returns:
            A planner to which every active robot has reported.
        """
        reports = [fresh.get(slot, saved) for slot, saved in enumerate(state.reports)]
        poses = [report.pose for report in reports]
        self = cls(frame, poses, settings)
        self.rounds, self._retried_at = state.rounds, state.retried
        self._visits, self._collisions = state.visits.copy(), state.collision_cells.copy()
        for slot, report in enumerate(reports):
            self._apply(self._robots[slot], report)
            if slot in state.lost:
                self.remove(slot)
            else:
                self._pending[slot] = replace(
                    report, patch=EMPTY_PATCH, path=report.path[-1:], distance=0.0
                )
        return self

    def state(self) -> PlannerState:
        """Return what another planner needs to continue from the last barrier."""
        return PlannerState(
            reports=tuple(
                robot.history.combined(box=self._known, time=self.time) for robot in self._robots
            ),
            lost=tuple(slot for slot in range(len(self._robots)) if slot not in self.active),
            rounds=self.rounds,
            retried=self._retried_at,
            visits=self._visits.copy(),
            collision_cells=self._collisions.copy(),
        )

    @property
    def active(self) -> list[int]:
        """Slots of the robots that still take part."""
        return [slot for slot, robot in enumerate(self._robots) if robot.history.active]

    @property
    def poses(self) -> list[Pose]:
        """Each robot's last reported pose, by slot."""
        return [robot.history.pose for robot in self._robots]

    @property
    def goals(self) -> list[Point | None]:
        """Where each robot drives to, metres, map frame, by slot; no two are equal."""
        return [
            None if robot.goal is None else self.frame.centre(*robot.goal.target)
            for robot in self._robots
        ]

    @property
    def activities(self) -> list[Activity]:
        """What each robot does, by slot."""
        return [robot.activity for robot in self._robots]

    @property
    def paths(self) -> list[list[Point]]:
        """The points that each robot drove through, by slot."""
        return [list(robot.history.path) for robot in self._robots]

    @property
    def distances(self) -> list[float]:
        """Metres driven by each robot, by slot."""
        return [robot.history.distance for robot in self._robots]

    @property
    def fraction_known(self) -> float:
        """Known share of the frame's cells; rarely 1, as most maps hold cells out of sight."""
        return self._known_cells() / self._evidence.size

    @property
    def frontiers_left(self) -> list[Point]:
        """A point of each frontier on the team's map, abandoned or not, metres, map frame."""
        if self._known.row0 >= self._known.row1:
            return []
        view = build_planning_map(self._evidence, self._collisions, self._known, self.frame)
        firsts = (frontier.cells[0] for frontier in self._clusters(view.frontier_mask))
        return [
            self.frame.centre(view.row0 + int(row), view.col0 + int(col)) for row, col in firsts
        ]

    def team_grid(self) -> Grid:
        """Return the team's map, (rows, cols) int8 occupancy."""
        return occupancy(self._evidence)

    def layers(self) -> list[LogOdds]:
        """Return each robot's own evidence by slot, (rows, cols) int8 log-odds units."""
        return [robot.history.evidence.copy() for robot in self._robots]

    def observe(self, slot: int, report: DriveReport) -> None:
        """Accept one robot's report, to be used at the next barrier.

        Raises:
            ValueError: the robot was removed or has already reported, or its patch exceeds the
                frame.
        """
        if slot not in self.active:
            raise ValueError(f"robot {slot} takes no part in this mission")
        if slot in self._pending:
            raise ValueError(f"robot {slot} has already reported")
        if not report.patch.lies_in(self.frame):
            raise ValueError(f"robot {slot}: patch lies outside the frame")
        self._pending[slot] = report

    def remove(self, slot: int) -> None:
        """Remove a robot; its evidence stays, and other robots may take its frontier."""
        robot = self._robots[slot]
        robot.history.active = False
        robot.goal, robot.following = None, ()
        self._pending.pop(slot, None)

    def decide(self) -> dict[int, Order]:
        """Close a barrier: apply all reports and return the next orders.

        Returns:
            One order for each active robot; empty when the exploration is over.

        Raises:
            ValueError: an active robot has not reported.
        """
        require_reports(self.active, self._pending)
        if self.done or not self.active:
            return {}
        self.apply()
        return self.plan()

    def apply(self) -> None:
        """Apply all reports that were accepted."""
        for slot in sorted(self._pending, key=lambda slot: (self._pending[slot].time, slot)):
            self._apply(self._robots[slot], self._pending[slot])
        self._pending.clear()

    def planning_map(self) -> PlanningMap:
        """Return the map that all applied reports make."""
        self._last_map = build_planning_map(
            self._evidence, self._collisions, self._known, self.frame, before=self._last_map
        )
        return self._last_map

    def leave(self, cells: Mask | None) -> None:
        """Leave the frontiers in some cells to others, (rows, cols) bool; None leaves nothing."""
        self._left = cells

    def continue_from(self, other: "TeamPlanner", slots: Sequence[int]) -> None:
        """Take over the goals of robots from another planner."""
        for slot in slots:
            self._robots[slot].take_over(other._robots[slot])  # noqa: SLF001, of this class

    def plan(self) -> dict[int, Order]:
        """Return the next orders from the applied reports; empty if nothing is left to explore."""
        self.done = False
        self.rounds += 1
        view = self.planning_map()
        self._count_visits(view)
        self._assign_goals(view)
        team = self._team()
        if all(robot.goal is None for robot in team) and self._retry(view):
            view = self.planning_map()
            self._assign_goals(view)
        ways = ways_behind([robot.state() for robot in team], view, self.frame, self.settings)
        for robot, way in zip(team, ways, strict=True):
            robot.following = way
        if all(robot.goal is None for robot in team):
            self.done = True
            return {}
        until = self._next_barrier(team)
        return {
            slot: Order(robot.goal.path if robot.goal else robot.following, until)
            for slot, robot in zip(self.active, team, strict=True)
        }

    def _apply(self, robot: _Member, report: DriveReport) -> None:
        """Apply a report to the robot's history and goal and to the team's map."""
        if report.patch.cells.size:
            box = report.patch.box
            before = robot.history.evidence[box.slices]
            self._evidence[box.slices] += report.patch.cells.astype(np.int16) - before
            self._known = self._known.union(box)
        robot.history.add(report)
        self.time = max(self.time, report.time)
        if robot.goal is not None:
            robot.goal = replace(
                robot.goal,
                path=robot.goal.path[report.reached :],
                backtrack=max(robot.goal.backtrack - report.reached, 0),
            )
            robot.ended = report.arrived or report.blocked
        if report.blocked:
            pose = report.pose
            row, col = self.frame.next_cell(pose.x, pose.y, pose.heading)
            if self.frame.contains(row, col):
                self._collisions[row, col] = True

    def _count_visits(self, view: PlanningMap) -> None:
        """Count a visit for each frontier cell that a robot was sent to and that is unchanged."""
        visits = self._visits[view.box.slices]
        for robot in self._team():
            if robot.goal is not None and robot.ended:
                count_visit(visits, robot.goal, view, self.settings)

    def _clusters(self, mask: Mask) -> list[Frontier]:
        """Group frontier cells by this mission's settings."""
        resolution = self.frame.resolution
        return cluster_frontiers(
            mask,
            min_cells=math.ceil(self.settings.frontier_min_m / resolution - 1e-9),
            max_extent=math.ceil(self.settings.frontier_max_m / resolution),
        )

    def _assign_goals(self, view: PlanningMap) -> None:
        """Drop goals that are no longer valid; if a robot needs one, assign all goals again."""
        live = view.frontier_mask & (self._visits[view.box.slices] < self.settings.max_visits)
        if self._left is not None:
            live &= ~self._left[view.box.slices]
        team = self._team()
        lost = False
        for robot in team:
            if robot.goal is not None and (
                robot.ended or not is_valid(robot.goal, robot.history.pose, view, live, self.frame)
            ):
                lost = True
                robot.goal = None
        idle = sum(robot.goal is None for robot in team)
        interval = self.settings.idle_s if idle else self.settings.reassign_s
        if not lost and idle < len(team) and self.time - self._assigned_at < interval:
            return
        self._assigned_at = self.time
        # Group first, then drop abandoned cells: the rest of a frontier counts even if it is short.
        groups = [frontier.cells for frontier in self._clusters(view.frontier_mask)]
        remaining = [cells[live[cells[:, 0], cells[:, 1]]] for cells in groups]
        frontiers = [Frontier(cells) for cells in remaining if len(cells)]
        robots = [robot.state() for robot in team]
        goals = route_views(robots, frontiers, view, self.frame, self.settings)
        for robot, goal in zip(team, goals, strict=True):
            robot.goal = goal
            robot.ended = False

    def _retry(self, view: PlanningMap) -> bool:
        """Let abandoned frontiers be tried again: once, then while that reveals enough.

        The first time, all that a robot can stand on are. What is seen for certain may stay unknown by
        chance, where as much evidence speaks for a wall as against it. Cells that a robot could not
        enter may be entered again, too: what was in the way may be gone, or in a cell beside.
        """
        known, first = self._known_cells(), self._retried_at is None
        least = self.settings.retry_gain_m2 / self.frame.resolution**2
        if self._retried_at is not None and known - self._retried_at < least:
            return False
        self._retried_at = known
        visits = self._visits[view.box.slices]
        again = visits == self.settings.max_visits
        if first:
            self._collisions[:] = False
            view = self.planning_map()
            for robot in self._team():
                cell = view.cell(self.frame, robot.history.pose)
                reached = view.reachable(self.settings.radius, cell).mask
                again |= (visits > self.settings.max_visits) & view.frontier_mask & reached
        visits[again] = self.settings.max_visits - 1
        return True

    def _known_cells(self) -> int:
        """Count the cells with evidence."""
        return int(np.count_nonzero(self._evidence[self._known.slices]))

    def _team(self) -> list[_Member]:
        """Return the active robots, by slot."""
        return [self._robots[slot] for slot in self.active]

    def _next_barrier(self, team: list[_Member]) -> float:
        """Return the second at which the first robot arrives, within the bounds of a round."""
        lengths = [
            path_length([(robot.history.pose.x, robot.history.pose.y), *robot.goal.path])
            for robot in team
            if robot.goal is not None
        ]
        soonest = min(lengths) / self.settings.speed
        wait = min(max(soonest, self.settings.round_min_s), self.settings.round_max_s)
        return self.time + wait
