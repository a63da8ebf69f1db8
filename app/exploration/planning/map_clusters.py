"""The mind of a mission whose robots know only where they are in their own maps.

It answers as `Coordinator` does, to drivers that report legs in frames of their own. Every robot
begins as a party of its own; now and then the maps of two parties are registered, and where the
gate accepts it they go on as one, in the frame of the first one's first robot. Unlike in
`expedition`, robots keep their own pose graphs: what crosses the border is legs and orders alone,
so that robots may live in other processes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from app.exploration.driver import Leg, Order, Patch, Point, Pose
from app.exploration.grid import Box, Grid, GridFrame, LogOdds
from app.exploration.merging.evidence import place
from app.exploration.merging.registration import register
from app.exploration.planning.coordinator import Coordinator, State
from app.exploration.planning.rendezvous import MEETING, SETTINGS, MeetingSpec
from app.exploration.planning.settings import Settings
from app.exploration.se2 import (
    IDENTITY,
    Transform,
    apply,
    compose,
    inverse,
    of_pose,
    to_pose,
)

_NOTHING = Patch(0, 0, np.zeros((0, 0), np.int8))
_NONE = np.zeros((1, 1), np.uint8)


@dataclass(slots=True)
class _Robot:
    """What a robot has reported, in its own frame."""

    evidence: LogOdds
    known: Box
    pose: Pose
    path: list[Point] = field(default_factory=list)
    distance: float = 0.0
    time: float = 0.0
    active: bool = True

    def take(self, leg: Leg) -> None:
        """Lay a report over what was known."""
        cells, row0, col0 = leg.patch.cells, leg.patch.row0, leg.patch.col0
        if cells.size:
            box = Box(row0, col0, row0 + cells.shape[0], col0 + cells.shape[1])
            self.evidence[box.row0 : box.row1, box.col0 : box.col1] = cells
            self.known = self.known.union(box)
        self.pose, self.time = leg.pose, leg.time
        self.path.extend(leg.path if not self.path else leg.path[1:])
        self.distance += leg.distance

    def leg(self) -> Leg:
        """Return all that it reported, as one leg."""
        box = self.known
        cells = self.evidence[box.row0 : box.row1, box.col0 : box.col1].copy()
        return Leg(
            time=self.time,
            pose=self.pose,
            distance=self.distance,
            path=tuple(self.path),
            reached=0,
            arrived=False,
            blocked=False,
            patch=Patch(box.row0, box.col0, cells) if cells.size else _NOTHING,
        )


@dataclass(slots=True)
class _Party:
    """Robots, by slot, whose frames lie at `places`, (n, 3), in their common one."""

    slots: list[int]
    places: Transform
    coordinator: Coordinator
    time: float = 0.0
    done: bool = False


class Parties:
    """Explores with robots whose relative poses are not known.

    Args:
        frame: of every robot's grid, in its own frame; large enough for all that a robot can see.
        robots: how many.
        settings: how to explore.
        meeting: when to register maps.

    Attributes:
        rounds: barriers so far.
    """

    def __init__(
        self,
        frame: GridFrame,
        robots: int,
        settings: Settings = SETTINGS,
        meeting: MeetingSpec = MEETING,
    ) -> None:
        self.frame = frame
        self.settings = settings
        self.rounds = 0
        self._meeting = meeting
        self._due = meeting.first_s
        self._tried: dict[frozenset[int], float] = {}
        self._fraction = 0.0
        shape = (frame.rows, frame.cols)
        nowhere = Box(frame.rows, frame.cols, 0, 0)
        self._robots = [
            _Robot(np.zeros(shape, np.int8), nowhere, to_pose(IDENTITY)) for _ in range(robots)
        ]
        self._parties = [
            _Party([slot], IDENTITY[None], Coordinator(frame, [to_pose(IDENTITY)], settings))
            for slot in range(robots)
        ]

    @classmethod
    def recover(
        cls,
        frame: GridFrame,
        state: State,
        fresh: Mapping[int, Leg],
        settings: Settings = SETTINGS,
        meeting: MeetingSpec = MEETING,
    ) -> "Parties":
        """Go on from a state that may be older than what the robots have done since.

        The robots are parties of their own again; their maps are compared at once.

        Args:
            frame: the mission's.
            state: what was saved.
            fresh: by slot, all that a robot has to report by now; it replaces what was saved.
            settings: how to explore.
            meeting: when to register maps.
        """
        self = cls(frame, len(state.legs), settings, meeting)
        self.rounds, self._due = state.rounds, 0.0
        for slot, saved in enumerate(state.legs):
            self._robots[slot].take(fresh.get(slot, saved))
            self._parties[slot] = self._party([slot], IDENTITY[None])
            if slot in state.lost:
                self.remove(slot)
        return self

    def state(self) -> State:
        """Return what another one needs to go on: what the robots reported."""
        return State(
            legs=tuple(robot.leg() for robot in self._robots),
            lost=tuple(slot for slot, robot in enumerate(self._robots) if not robot.active),
            rounds=self.rounds,
            retried=None,
            visits=_NONE,
            bumped=_NONE.astype(np.bool_),
        )

    @property
    def active(self) -> list[int]:
        """Slots of the robots that still take part."""
        return [slot for slot, robot in enumerate(self._robots) if robot.active]

    @property
    def parties(self) -> list[list[int]]:
        """The slots of the robots that share a frame, by party."""
        return [list(party.slots) for party in self._parties]

    @property
    def time(self) -> float:
        """Mission seconds at the last barrier."""
        return max(robot.time for robot in self._robots)

    @property
    def poses(self) -> list[Pose]:
        """Each robot's last reported pose in its party's frame, by slot."""
        found: dict[int, Pose] = {}
        for party in self._parties:
            for slot, there in zip(party.slots, party.places, strict=True):
                found[slot] = to_pose(compose(there, of_pose(self._robots[slot].pose)))
        return [found[slot] for slot in range(len(self._robots))]

    @property
    def goals(self) -> list[Point | None]:
        """Where each robot is sent, metres, in its party's frame, by slot; None where it waits."""
        found: dict[int, Point | None] = {}
        for party in self._parties:
            found |= zip(party.slots, party.coordinator.goals, strict=True)
        return [found[slot] for slot in range(len(self._robots))]

    @property
    def apart(self) -> list[int]:
        """The slots of the robots that are not of the party that knows most."""
        return [slot for slot in range(len(self._robots)) if slot not in self._largest.slots]

    @property
    def paths(self) -> list[list[Point]]:
        """The points that each robot drove through, by slot, in its own frame."""
        return [list(robot.path) for robot in self._robots]

    @property
    def team_paths(self) -> list[list[Point]]:
        """The same, each in its party's frame."""
        found: dict[int, list[Point]] = {}
        for party in self._parties:
            for slot, there in zip(party.slots, party.places, strict=True):
                found[slot] = list(_points(there, self._robots[slot].path))
        return [found[slot] for slot in range(len(self._robots))]

    @property
    def distances(self) -> list[float]:
        """Metres driven by each robot, by slot."""
        return [robot.distance for robot in self._robots]

    @property
    def fraction_known(self) -> float:
        """Share known of a square as wide as the robots' ground may be; it never falls."""
        known = sum(party.coordinator.fraction_known for party in self._parties)
        self._fraction = max(self._fraction, min(4.0 * known, 1.0))
        return self._fraction

    @property
    def frontiers_left(self) -> list[Point]:
        """A point of each frontier of the party that knows most, metres, in its frame."""
        return self._largest.coordinator.frontiers_left

    def team_grid(self) -> Grid:
        """Return what the party that knows most knows, (rows, cols) int8 occupancy."""
        return self._largest.coordinator.team_grid()

    def observe(self, slot: int, leg: Leg) -> None:
        """Take one robot's report, to be used at the next barrier.

        Raises:
            ValueError: the robot has left the mission or has reported before, or its patch does
                not lie in the frame.
        """
        party = self._of(slot)
        index = party.slots.index(slot)
        patch, robot = leg.patch, self._robots[slot]
        if not (robot.active and _holds(self.frame, patch)):
            raise ValueError(f"robot {slot} takes no part, or its patch lies outside the frame")
        robot.take(leg)
        party.coordinator.observe(index, self._moved(slot, leg, party.places[index]))
        party.time = max(party.time, leg.time)

    def remove(self, slot: int) -> None:
        """Take a robot out; what it saw stays."""
        self._robots[slot].active = False
        party = self._of(slot)
        party.coordinator.remove(party.slots.index(slot))
        party.done = party.done or not party.coordinator.active

    def decide(self) -> dict[int, Order]:
        """Close a barrier of the party that is furthest behind, and order what it does next.

        Returns:
            Orders by slot, each in its robot's own frame, or nothing when the exploration is over.

        Raises:
            ValueError: a robot of that party has not reported.
        """
        while True:
            behind = [party for party in self._parties if not party.done]
            time = min((party.time for party in behind), default=math.inf)
            if time >= self._due:
                self._due = (time if behind else self.time) + self._meeting.every_s
                self._meet()
                if not behind and all(party.done for party in self._parties):
                    return {}
                continue
            party = min(behind, key=lambda one: (one.time, one.slots))
            orders = party.coordinator.decide()
            if orders:
                self.rounds += 1
                return {
                    party.slots[index]: replace(
                        order, path=_points(inverse(party.places[index]), order.path)
                    )
                    for index, order in orders.items()
                }
            party.done = True

    @property
    def _largest(self) -> _Party:
        return max(self._parties, key=lambda party: party.coordinator.fraction_known)

    def _of(self, slot: int) -> _Party:
        """Return a robot's party."""
        return next(party for party in self._parties if slot in party.slots)

    def _meet(self) -> None:
        """Join whatever fits, until no pair that has news for the other does."""
        while self._join_two():
            pass

    def _join_two(self) -> bool:
        """Join the first two parties that fit, if any do."""
        for one, two in combinations(self._parties, 2):
            pair = frozenset(one.slots + two.slots)
            known = one.coordinator.fraction_known + two.coordinator.fraction_known
            if known < self._meeting.growth * self._tried.get(pair, 0.0):
                continue
            self._tried[pair] = known
            found = register(self._grid(one), self.frame, self._grid(two), self.frame)
            if found is None or not self._meeting.gate.accepts(found):
                continue
            places = np.vstack([one.places, compose(found.transform, two.places)])
            both = self._party(one.slots + two.slots, places)
            self._parties = [
                both if party is one else party for party in self._parties if party is not two
            ]
            return True
        return False

    def _grid(self, party: _Party) -> Grid:
        """Return what a party knows by now, its last reports included."""
        return self._party(party.slots, party.places).coordinator.team_grid()

    def _party(self, slots: Sequence[int], places: Transform) -> _Party:
        """Make a party of robots from all that they ever reported."""
        legs = [
            self._moved(slot, self._robots[slot].leg(), there)
            for slot, there in zip(slots, places, strict=True)
        ]
        shape = (self.frame.rows, self.frame.cols)
        state = State(
            legs=tuple(legs),
            lost=tuple(i for i, slot in enumerate(slots) if not self._robots[slot].active),
            rounds=0,
            retried=None,
            visits=np.zeros(shape, np.uint8),
            bumped=np.zeros(shape, np.bool_),
        )
        coordinator = Coordinator.recover(self.frame, state, {}, self.settings)
        return _Party(
            list(slots),
            places,
            coordinator,
            time=max(leg.time for leg in legs),
            done=not coordinator.active,
        )

    def _moved(self, slot: int, leg: Leg, there: Transform) -> Leg:
        """Bring a robot's leg into its party's frame."""
        if not there.any():
            return leg
        return replace(
            leg,
            pose=to_pose(compose(there, of_pose(leg.pose))),
            path=_points(there, leg.path),
            patch=_moved_patch(leg.patch, self._robots[slot].evidence, self.frame, there),
        )


def _holds(frame: GridFrame, patch: Patch) -> bool:
    """Tell whether a patch lies in the frame."""
    rows, cols = patch.cells.shape
    return (
        min(patch.row0, patch.col0) >= 0
        and patch.row0 + rows <= frame.rows
        and patch.col0 + cols <= frame.cols
    )


def _points(motion: Transform, path: Sequence[Point]) -> tuple[Point, ...]:
    """Move points."""
    if not path:
        return ()
    return tuple((float(x), float(y)) for x, y in apply(motion, np.array(path)))


def _moved_patch(patch: Patch, evidence: LogOdds, frame: GridFrame, there: Transform) -> Patch:
    """Draw anew, in the same grid of another frame, all that a patch may have changed there."""
    rows, cols = patch.cells.shape
    if not patch.cells.size:
        return patch
    x0, y0 = frame.centre(patch.row0 - 1, patch.col0 - 1)
    x1, y1 = frame.centre(patch.row0 + rows, patch.col0 + cols)
    corners = apply(there, np.array([(x0, y0), (x0, y1), (x1, y0), (x1, y1)]))
    row0, col0 = frame.cell(*corners.min(axis=0))
    row1, col1 = frame.cell(*corners.max(axis=0))
    row0, col0 = max(row0, 0), max(col0, 0)
    row1, col1 = min(row1 + 1, frame.rows), min(col1 + 1, frame.cols)
    if row0 >= row1 or col0 >= col1:
        return _NOTHING
    part = GridFrame(
        row1 - row0,
        col1 - col0,
        frame.resolution,
        frame.origin_x + col0 * frame.resolution,
        frame.origin_y + row0 * frame.resolution,
    )
    return Patch(row0, col0, place(evidence, frame, there, part))
