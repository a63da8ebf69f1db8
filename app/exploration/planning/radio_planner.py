"""Plan for a team whose radio does not reach everywhere: groups that hear one another.

Robots that hear one another, over chains, are a radio group: they share all that they know and plan
together. A group that loses robots leaves the frontiers to them that were nearer to them, and
explores its own share first. When that is done, or the absent robots were not heard for too long, it
explores their share too: that leads it to where they are, so that groups meet without a detour (the
implicit rendezvous of Tan et al., "IR2", IROS 2024). Nothing is lost when they meet: each robot's map
is kept whole, and the newest that any robot of the group has is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from app.exploration.driver import EMPTY_PATCH, DriveReport, Order, Point, Pose
from app.exploration.grid import Grid, GridFrame, LogOdds, Mask
from app.exploration.planning.goals import Activity
from app.exploration.planning.radio_spec import DEFAULT_RADIO, OutOfReach, RadioSpec
from app.exploration.planning.robot_history import PlannerState, require_reports
from app.exploration.planning.settings import DEFAULT_SETTINGS, PlannerSettings
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.shortest_paths import distance_field

Groups = Callable[[Sequence[Pose]], list[list[int]]]
"""Returns the groups of robots that hear one another, each sorted, by index of the poses."""

_LEFT_TO_OTHERS_M = 1.0  # around a frontier that is left to others: it shifts as more is seen
_NEAREST_CELLS = 9  # across: frontiers are close to walls, and the nearest passable cell decides


@dataclass(slots=True)
class _Group:
    """Robots that hear one another.

    Attributes:
        slots: the robots.
        planner: plans for all robots of the mission; those of other groups count as lost.
        heard: mission seconds at which each robot was last heard, by slot.
        left_to: by absent robot, (rows, cols) bool: cells whose frontiers are left to it.
    """

    slots: list[int]
    planner: TeamPlanner
    heard: npt.NDArray[np.float64]
    left_to: dict[int, Mask] = field(default_factory=dict)


class RadioPlanner:
    """Explores one frame with robots that do not always hear one another.

    It has the interface of `TeamPlanner`. What its caller reads, such as `team_grid`, is what the
    group with the largest known area knows.

    Args:
        frame: the mission's frame.
        poses: where the robots are deployed, by slot.
        groups: which robots hear one another.
        settings: how to explore.
        radio: how robots out of reach are treated.

    Attributes:
        rounds: barriers so far.
        time: mission seconds at the last barrier.
        done: a group has nothing left to explore.
        hear: which robots hear one another.
        meetings: how often groups have joined.
    """

    def __init__(
        self,
        frame: GridFrame,
        poses: Sequence[Pose],
        groups: Groups,
        settings: PlannerSettings = DEFAULT_SETTINGS,
        *,
        radio: RadioSpec = DEFAULT_RADIO,
    ) -> None:
        self.frame = frame
        self.settings = settings
        self.rounds = 0
        self.time = 0.0
        self.done = False
        self.meetings = 0
        self.hear = groups
        self._radio = radio
        self._reports: dict[int, DriveReport] = {}
        self._poses = list(poses)
        self._lost: set[int] = set()
        everybody = TeamPlanner(frame, poses, settings)
        self._groups = [_Group(list(range(len(poses))), everybody, np.zeros(len(poses)))]

    @classmethod
    def recover(
        cls,
        frame: GridFrame,
        state: PlannerState,
        fresh: Mapping[int, DriveReport],
        groups: Groups,
        settings: PlannerSettings = DEFAULT_SETTINGS,
        *,
        radio: RadioSpec = DEFAULT_RADIO,
    ) -> "RadioPlanner":
        """Continue from a state that may be older than the robots' own reports.

        Each robot starts as a group of one that knows its own map; at the next barrier those that
        hear one another join.

        Args:
            frame: the mission's frame.
            state: the saved state.
            fresh: by slot, all that a robot has to report by now; it replaces the saved report.
            groups: which robots hear one another.
            settings: how to explore.
            radio: how robots out of reach are treated.
        """
        reports = [fresh.get(slot, saved) for slot, saved in enumerate(state.reports)]
        poses = [report.pose for report in reports]
        self = cls(frame, poses, groups, settings, radio=radio)
        self.rounds, self._lost = state.rounds, set(state.lost)
        self.time = max(report.time for report in reports)
        self._groups = []
        for slot in range(len(reports)):
            known = [
                report if other in {slot, *self._lost} else replace(report, patch=EMPTY_PATCH)
                for other, report in enumerate(reports)
            ]
            others = tuple(other for other in range(len(reports)) if other != slot)
            own = replace(state, reports=tuple(known), lost=others)
            planner = TeamPlanner.recover(frame, own, {}, settings)
            if slot not in self._lost:
                planner.apply()
                self._reports[slot] = reports[slot]
                heard = np.where(np.arange(len(reports)) == slot, self.time, 0.0)
                self._groups.append(_Group([slot], planner, heard))
        return self

    @property
    def active(self) -> list[int]:
        """Slots of the robots that still take part."""
        return [slot for slot in range(len(self._poses)) if slot not in self._lost]

    @property
    def groups(self) -> list[list[int]]:
        """The slots of the robots that hear one another, by group."""
        return [list(group.slots) for group in self._groups]

    @property
    def poses(self) -> list[Pose]:
        """Each robot's last pose, by slot."""
        return list(self._poses)

    @property
    def ages(self) -> list[float]:
        """Seconds since the group with the largest known area last heard each robot, by slot."""
        return [max(self.time - float(heard), 0.0) for heard in self._largest.heard]

    @property
    def out_of_reach(self) -> dict[int, OutOfReach]:
        """The robots that the group with the largest known area does not hear, by slot."""
        group = self._largest
        return {
            slot: OutOfReach(
                float(group.heard[slot]), float(group.heard[slot]) + self._radio.missing_after_s
            )
            for slot in self.active
            if slot not in group.slots
        }

    @property
    def goals(self) -> list[Point | None]:
        """Where each robot drives to, metres, map frame, by slot."""
        return [self._group_of(slot).planner.goals[slot] for slot in range(len(self._poses))]

    @property
    def activities(self) -> list[Activity]:
        """What each robot does, by slot."""
        return [self._group_of(slot).planner.activities[slot] for slot in range(len(self._poses))]

    @property
    def paths(self) -> list[list[Point]]:
        """The points that each robot drove through, by slot."""
        return [self._group_of(slot).planner.paths[slot] for slot in range(len(self._poses))]

    @property
    def distances(self) -> list[float]:
        """Metres driven by each robot, by slot."""
        return [self._group_of(slot).planner.distances[slot] for slot in range(len(self._poses))]

    @property
    def fraction_known(self) -> float:
        """Known share of the frame's cells."""
        return self._largest.planner.fraction_known

    @property
    def frontiers_left(self) -> list[Point]:
        """A point of each frontier, metres, map frame."""
        return self._largest.planner.frontiers_left

    def team_grid(self) -> Grid:
        """Return the map, (rows, cols) int8 occupancy."""
        return self._largest.planner.team_grid()

    def group_grids(self) -> list[Grid]:
        """Return what each group knows, (rows, cols) int8 occupancy."""
        return [group.planner.team_grid() for group in self._groups]

    def layers(self) -> list[LogOdds]:
        """Return each robot's own evidence by slot, (rows, cols) int8 log-odds units."""
        return [self._group_of(slot).planner.layers()[slot] for slot in range(len(self._poses))]

    def state(self) -> PlannerState:
        """Return everything that any robot has reported, for a planner that continues."""
        own = [self._group_of(slot).planner.state() for slot in range(len(self._poses))]
        return replace(
            own[0],
            reports=tuple(state.reports[slot] for slot, state in enumerate(own)),
            lost=tuple(sorted(self._lost)),
            rounds=self.rounds,
            visits=np.maximum.reduce([group.planner.state().visits for group in self._groups]),
            collision_cells=np.logical_or.reduce(
                [group.planner.state().collision_cells for group in self._groups]
            ),
        )

    def observe(self, slot: int, report: DriveReport) -> None:
        """Accept one robot's report, to be used at the next barrier.

        Raises:
            ValueError: the robot was removed or has already reported, or its patch exceeds the
                frame.
        """
        self._group_of(slot).planner.observe(slot, report)
        self._reports[slot] = report
        self._poses[slot] = report.pose

    def remove(self, slot: int) -> None:
        """Remove a robot for good; its evidence stays."""
        self._lost.add(slot)
        self._reports.pop(slot, None)
        group = self._group_of(slot)
        group.planner.remove(slot)
        for each in self._groups:
            each.left_to.pop(slot, None)

    def decide(self) -> dict[int, Order]:
        """Close a barrier: let groups meet and part, and return the next orders.

        Returns:
            One order for each active robot; empty when the exploration is over.

        Raises:
            ValueError: an active robot has not reported.
        """
        require_reports(self.active, self._reports)
        if self.done or not self.active:
            return {}
        self.time = max(self.time, *(report.time for report in self._reports.values()))
        self._reports.clear()
        self.rounds += 1
        orders: dict[int, Order] = {}
        for group in self._groups:
            group.planner.apply()
        self._regroup()
        for group in self._groups:
            if not group.planner.active:
                continue
            found = self._orders(group)
            if not found:
                self.done = True
                return {}
            orders |= found
        until = min(order.until for order in orders.values())
        return {slot: replace(order, until=until) for slot, order in orders.items()}

    @property
    def _largest(self) -> _Group:
        return max(self._groups, key=lambda group: group.planner.fraction_known)

    def _group_of(self, slot: int) -> _Group:
        """Return a robot's group; of a robot that is lost, the one that heard of it last."""
        of = [group for group in self._groups if slot in group.slots]
        return of[0] if of else max(self._groups, key=lambda group: group.heard[slot])

    def _regroup(self) -> None:
        """Join the groups that hear one another now, and part those that do not any more."""
        active = self.active
        found = [
            [active[index] for index in group]
            for group in self.hear([self._poses[slot] for slot in active])
        ]
        before = self._groups
        for group in before:
            group.heard[[slot for slot in group.slots if slot not in self._lost]] = self.time
        kept = [[slot for slot in group.slots if slot not in self._lost] for group in before]
        if sorted(found) != sorted(slots for slots in kept if slots):
            owner = {slot: group for group in before for slot in group.slots}
            self._groups = [self._joined(slots, owner) for slots in found]

    def _joined(self, slots: list[int], owner: Mapping[int, _Group]) -> _Group:
        """Return a group of robots with the newest that any of them knows of each robot."""
        known = list({id(owner[slot]): owner[slot] for slot in slots}.values())
        if len(known) == 1 and [s for s in known[0].slots if s not in self._lost] == slots:
            return known[0]
        states = [group.planner.state() for group in known]
        count = len(self._poses)
        newest = [
            max(range(len(known)), key=lambda index: (known[index].heard[slot], -index))
            for slot in range(count)
        ]
        absent = [slot for slot in range(count) if slot not in slots]
        state = PlannerState(
            reports=tuple(states[newest[slot]].reports[slot] for slot in range(count)),
            lost=tuple(absent),
            rounds=self.rounds,
            retried=None,
            visits=np.maximum.reduce([state.visits for state in states]),
            collision_cells=np.logical_or.reduce([state.collision_cells for state in states]),
        )
        planner = TeamPlanner.recover(self.frame, state, {}, self.settings)
        planner.apply()
        for group in known:
            planner.continue_from(group.planner, [slot for slot in slots if slot in group.slots])
        self.meetings += len(known) - 1
        heard = np.maximum.reduce([group.heard for group in known])
        joined = _Group(slots, planner, heard)
        if not self._radio.shares:
            return joined
        for group in known:
            for slot, cells in group.left_to.items():
                if slot in absent and slot not in self._lost:
                    joined.left_to[slot] = joined.left_to.get(slot, False) | cells
        gone = [slot for slot in absent if any(slot in group.slots for group in known)]
        joined.left_to |= self._shares(planner, slots, [s for s in gone if s not in self._lost])
        return joined

    def _shares(
        self, planner: TeamPlanner, own: Sequence[int], gone: Sequence[int]
    ) -> dict[int, Mask]:
        """Return the frontiers that are nearer to each robot that went out of reach, widened."""
        if not gone:
            return {}
        view = planner.planning_map()
        robots = [*own, *gone]
        passable = view.passable(self.settings.radius, view.cell(self.frame, self._poses[own[0]]))
        costs = np.array(
            [distance_field(passable, view.cell(self.frame, self._poses[slot])) for slot in robots]
        )
        around = np.ones((_NEAREST_CELLS, _NEAREST_CELLS), np.uint8)
        nearest = np.argmin([cv2.erode(cost.astype(np.float64), around) for cost in costs], axis=0)
        width = 2 * round(_LEFT_TO_OTHERS_M / self.frame.resolution) + 1
        found = {}
        for index, slot in enumerate(gone, len(own)):
            theirs = view.frontier_mask & (nearest == index)
            cells = np.zeros((self.frame.rows, self.frame.cols), np.bool_)
            cells[view.box.slices] = (
                cv2.dilate(theirs.astype(np.uint8), np.ones((width, width), np.uint8)) > 0
            )
            found[slot] = cells
        return found

    def _orders(self, group: _Group) -> dict[int, Order]:
        """Return the orders of one group; empty when it has nothing left to explore."""
        missing = [
            slot
            for slot in group.left_to
            if self.time - float(group.heard[slot]) >= self._radio.missing_after_s
        ]
        for slot in missing:
            del group.left_to[slot]
        left = list(group.left_to.values())
        group.planner.leave(np.logical_or.reduce(left) if left else None)
        orders = group.planner.plan()
        if not orders and left:
            group.left_to.clear()
            group.planner.leave(None)
            orders = group.planner.plan()
        return orders
