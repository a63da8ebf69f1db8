"""A whole exploration by robots that know neither where they are nor where the others are.

Every robot begins as a party of its own, with a map, a frame and a coordinator of its own. Now
and then the maps of two parties are registered; when the gate accepts it and enough scans of one
fit the other, the parties become one: one pose graph, one frame, one coordinator, which plans for
all from then on. Maps that never met stay apart, and the outcome says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from app.exploration.driver import Order, Pose
from app.exploration.grid import Grid, GridFrame
from app.exploration.mapping.slam import SlamMap
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.merging.registration import register
from app.exploration.planning.coordinator import Coordinator
from app.exploration.planning.rendezvous import MEETING, SETTINGS, MeetingSpec
from app.exploration.planning.settings import Settings
from app.exploration.se2 import IDENTITY, to_pose


class Party:
    """Robots that share a map.

    Args:
        slam: the map, of these robots alone.
        robots: who they are.
        frame: of the grid that they draw, in the map's frame.
        settings: how they explore.

    Attributes:
        slam: their map.
        robots: who they are.
        frame: of their grid.
        done: they have nothing left to do.
        time: mission seconds at their last barrier.
    """

    def __init__(
        self, slam: SlamMap, robots: Sequence[SlamRobot], frame: GridFrame, settings: Settings
    ) -> None:
        self.slam = slam
        self.robots = list(robots)
        self.frame = frame
        self.done = False
        self.time = max(robot.time for robot in robots)
        for robot in robots:
            robot.attach(slam, frame)
        if not slam.keyframes:
            legs = [robot.deploy(to_pose(IDENTITY)) for robot in robots]
        else:
            legs = [robot.drive((), self.time) for robot in robots]
        self._coordinator = Coordinator(frame, [leg.pose for leg in legs], settings)
        for index, leg in enumerate(legs):
            self._coordinator.observe(index, leg)

    @property
    def slots(self) -> list[int]:
        """The robots' slots."""
        return [robot.slot for robot in self.robots]

    @property
    def poses(self) -> list[Pose]:
        """Where the robots think that they are, in the party's frame."""
        return [robot.pose for robot in self.robots]

    @property
    def grid(self) -> Grid:
        """What they know, (rows, cols) int8 occupancy."""
        return self._coordinator.team_grid()

    @property
    def known(self) -> float:
        """Square metres known."""
        cells = self._coordinator.fraction_known * self.frame.rows * self.frame.cols
        return cells * self.frame.resolution**2

    def step(self) -> None:
        """Drive up to the next barrier, or find that nothing is left."""
        orders: dict[int, Order] = self._coordinator.decide()
        self.done = not orders
        for index, order in orders.items():
            self._coordinator.observe(index, self.robots[index].drive(order.path, order.until))
            self.time = order.until


@dataclass(frozen=True, slots=True, eq=False)
class Expedition:
    """What an exploration came to.

    Attributes:
        parties: those that share a map; one, unless maps stayed apart.
        seconds: simulated.
        attempts: registrations that were tried.
    """

    parties: list[Party]
    seconds: float
    attempts: int

    @property
    def status(self) -> str:
        """`completed`, or `partial` when maps stayed apart."""
        return "completed" if len(self.parties) == 1 else "partial"


def explore(
    robots: Sequence[SlamRobot],
    *,
    extent_m: float,
    resolution: float = 0.05,
    settings: Settings = SETTINGS,
    meeting: MeetingSpec = MEETING,
) -> Expedition:
    """Explore until no robot finds anything to do.

    Args:
        robots: each at its start, which nobody knows.
        extent_m: no two places that robots reach are further apart, metres.
        resolution: of the maps, metres a cell.
        settings: how to explore.
        meeting: when to register maps.
    """
    side = 2 * round((extent_m + 1.0) / resolution)
    frame = GridFrame(side, side, resolution, -side / 2 * resolution, -side / 2 * resolution)
    parties = [Party(SlamMap(), [robot], frame, settings) for robot in robots]
    tried: dict[frozenset[int], float] = {}
    due = meeting.first_s
    while True:
        active = [party for party in parties if not party.done]
        time = min((party.time for party in active), default=float("inf"))
        if time >= due:
            due = time + meeting.every_s
            parties = _meet(parties, tried, settings, meeting)
            if not active and all(party.done for party in parties):
                break
            continue
        min(active, key=lambda party: (party.time, party.slots)).step()
    return Expedition(parties, max(party.time for party in parties), len(tried))


def _meet(
    parties: list[Party],
    tried: dict[frozenset[int], float],
    settings: Settings,
    meeting: MeetingSpec,
) -> list[Party]:
    """Join whatever fits, until no pair that has news for the other does."""
    joined = True
    while joined:
        joined = False
        for one, two in combinations(parties, 2):
            pair = frozenset(one.slots + two.slots)
            known = one.known + two.known
            if known < meeting.growth * tried.get(pair, 0.0):
                continue
            tried[pair] = known
            found = register(one.grid, one.frame, two.grid, two.frame)
            if found is None or not meeting.gate.accepts(found):
                continue
            if one.slam.join(two.slam, found.transform):
                both = Party(one.slam, [*one.robots, *two.robots], one.frame, settings)
                parties = [both if party is one else party for party in parties if party is not two]
                joined = True
                break
    return parties
