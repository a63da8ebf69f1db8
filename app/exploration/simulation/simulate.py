"""A whole exploration with known poses in one process: planner and simulated robots, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.exploration.driver import Point, Pose
from app.exploration.evaluation.first_seen import FirstSeenTimes
from app.exploration.grid import FloorMap, Grid, LogOdds
from app.exploration.merging.evidence import merge_layers
from app.exploration.planning.settings import DEFAULT_SETTINGS, PlannerSettings
from app.exploration.planning.stop_rule import EVERYTHING, StopRule
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot
from app.exploration.simulation.start_poses import start_poses


@dataclass(frozen=True, slots=True, eq=False)
class Exploration:
    """The outcome of an exploration.

    Attributes:
        grid: (rows, cols) int8, the merged map.
        layers: each robot's own evidence by slot, (rows, cols) int8 log-odds units.
        first_seen: when each robot first saw a cell.
        starts: where the robots started, by slot.
        paths: the points that each robot drove through, by slot.
        distances: metres driven, by slot.
        seconds: simulated seconds.
        rounds: number of barriers.
        frontiers_left: a point of each remaining frontier, metres.
        shared_goals: number of barriers at which two robots had one goal.
    """

    grid: Grid
    layers: list[LogOdds]
    first_seen: FirstSeenTimes
    starts: list[Pose]
    paths: list[list[Point]]
    distances: list[float]
    seconds: float
    rounds: int
    frontiers_left: list[Point]
    shared_goals: int


def simulate(
    floor: FloorMap,
    robots: int,
    seed: int,
    *,
    settings: PlannerSettings = DEFAULT_SETTINGS,
    scattered: bool = False,
    lost: Mapping[int, float] = {},
    until: StopRule = EVERYTHING,
) -> Exploration:
    """Explore a floor to the end.

    Args:
        floor: the true floor.
        robots: number of robots.
        seed: equal seeds give equal outcomes.
        settings: how to explore.
        scattered: robots start at random places, not together.
        lost: the mission second from which a robot no longer takes part, by slot.
        until: when enough is found; `battery` does not apply, since no fleet takes part.

    Raises:
        StartError: the floor has not enough space for the robots.
    """
    spec = RobotSpec(radius=settings.radius, speed=settings.speed)
    starts = start_poses(floor, robots, seed, radius=settings.radius, scattered=scattered)
    team = [SimulatedRobot(floor, slot=slot, seed=seed, spec=spec) for slot in range(robots)]
    planner = TeamPlanner(floor.frame, starts, until.apply_to(settings))
    first_seen = FirstSeenTimes(floor.frame, robots)
    for slot, pose in enumerate(starts):
        report = team[slot].deploy(pose)
        first_seen.record(slot, report)
        planner.observe(slot, report)
    shared_goals = 0
    while not until.is_met(planner) and (orders := planner.decide()):
        goals = [goal for goal in planner.goals if goal is not None]
        shared_goals += len(set(goals)) < len(goals)
        for slot, order in until.limit(orders).items():
            if order.until >= lost.get(slot, float("inf")):
                planner.remove(slot)
            else:
                report = team[slot].drive(order.path, order.until)
                first_seen.record(slot, report)
                planner.observe(slot, report)
    layers = planner.layers()
    return Exploration(
        grid=merge_layers(layers),
        layers=layers,
        first_seen=first_seen,
        starts=starts,
        paths=planner.paths,
        distances=planner.distances,
        seconds=planner.time,
        rounds=planner.rounds,
        frontiers_left=planner.frontiers_left,
        shared_goals=shared_goals,
    )
