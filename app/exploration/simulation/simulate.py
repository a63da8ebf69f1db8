"""A whole exploration in one process: the coordinator and simulated robots, without any I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.exploration.driver import Point, Pose
from app.exploration.evaluation.first_seen import Chronicle
from app.exploration.grid import FloorMap, Grid, LogOdds
from app.exploration.merging.evidence import merge
from app.exploration.planning.coordinator import Coordinator
from app.exploration.planning.settings import DEFAULTS, Settings
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot, start_poses


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What an exploration came to.

    Attributes:
        grid: (rows, cols) int8, the merged map.
        layers: each robot's own evidence by slot, (rows, cols) int8 log-odds units.
        chronicle: when each robot first knew a cell.
        starts: where the robots started, by slot.
        paths: the points that each robot drove through, by slot.
        distances: metres driven, by slot.
        seconds: simulated.
        rounds: barriers.
        frontiers_left: a point of each frontier that stayed, metres.
    """

    grid: Grid
    layers: list[LogOdds]
    chronicle: Chronicle
    starts: list[Pose]
    paths: list[list[Point]]
    distances: list[float]
    seconds: float
    rounds: int
    frontiers_left: list[Point]


def simulate(
    floor: FloorMap,
    robots: int,
    seed: int,
    *,
    settings: Settings = DEFAULTS,
    scattered: bool = False,
    lost: Mapping[int, float] = {},
) -> Outcome:
    """Explore a floor to the end.

    Args:
        floor: the true floor.
        robots: how many.
        seed: equal seeds give equal outcomes.
        settings: how to explore.
        scattered: robots start wherever they happen to stand, not together.
        lost: the mission second from which a slot's robot takes no more part.

    Raises:
        StartError: the floor has no room for the robots.
    """
    spec = RobotSpec(radius=settings.radius, speed=settings.speed)
    starts = start_poses(floor, robots, seed, radius=settings.radius, scattered=scattered)
    team = [SimulatedRobot(floor, slot=slot, seed=seed, spec=spec) for slot in range(robots)]
    coordinator = Coordinator(floor.frame, starts, settings)
    chronicle = Chronicle(floor.frame, robots)
    for slot, pose in enumerate(starts):
        leg = team[slot].deploy(pose)
        chronicle.note(slot, leg)
        coordinator.observe(slot, leg)
    while orders := coordinator.decide():
        for slot, order in orders.items():
            if order.until >= lost.get(slot, float("inf")):
                coordinator.remove(slot)
            else:
                leg = team[slot].drive(order.path, order.until)
                chronicle.note(slot, leg)
                coordinator.observe(slot, leg)
    layers = coordinator.layers()
    return Outcome(
        grid=merge(layers),
        layers=layers,
        chronicle=chronicle,
        starts=starts,
        paths=coordinator.paths,
        distances=coordinator.distances,
        seconds=coordinator.time,
        rounds=coordinator.rounds,
        frontiers_left=coordinator.frontiers_left,
    )
