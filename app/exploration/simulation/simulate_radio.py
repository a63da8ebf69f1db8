"""A whole exploration by robots whose radio does not reach everywhere, in one process, no I/O."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.exploration.driver import Pose
from app.exploration.evaluation.map_quality import observable
from app.exploration.grid import UNKNOWN, FloorMap, Grid
from app.exploration.planning.radio_planner import RadioPlanner
from app.exploration.planning.radio_spec import DEFAULT_RADIO, RadioSpec
from app.exploration.planning.settings import DEFAULT_SETTINGS, PlannerSettings
from app.exploration.simulation.radio import RadioModel, components
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot


@dataclass(frozen=True, slots=True, eq=False)
class RadioExploration:
    """The outcome of an exploration with a radio.

    Attributes:
        grid: (rows, cols) int8, what the robots know that know most.
        seconds: simulated seconds to the end of the mission.
        known_s: simulated seconds until one robot knew the wanted share; infinite if none did.
        distances: metres driven, by slot, to the end of the mission.
        known_m: the longest distance that a robot had driven when one knew the wanted share.
        coverage: share of the observable cells that the robots know that know most.
        largest_gap_s: the longest time for which a robot was not heard.
    """

    grid: Grid
    seconds: float
    known_s: float
    distances: list[float]
    known_m: float
    coverage: float
    largest_gap_s: float


def simulate_radio(
    floor: FloorMap,
    starts: Sequence[Pose],
    seed: int,
    radio: RadioModel,
    *,
    settings: PlannerSettings = DEFAULT_SETTINGS,
    spec: RadioSpec = DEFAULT_RADIO,
    share: float = 0.99,
    limit_s: float = math.inf,
    lost: Mapping[int, float] = {},
) -> RadioExploration:
    """Explore a floor to the end.

    Args:
        floor: the true floor.
        starts: where the robots start, by slot.
        seed: equal seeds give equal outcomes.
        radio: which robots hear one another.
        settings: how to explore.
        spec: how robots out of reach are treated.
        share: of the observable cells; see `known_s`.
        limit_s: simulated seconds after which the mission is stopped.
        lost: the mission second from which a robot no longer takes part, by slot.
    """
    robot_spec = RobotSpec(radius=settings.radius, speed=settings.speed)
    team = [
        SimulatedRobot(floor, slot=slot, seed=seed, spec=robot_spec) for slot in range(len(starts))
    ]
    planner = RadioPlanner(
        floor.frame, starts, lambda poses: components(poses, radio), settings, radio=spec
    )
    seen = observable(floor, starts[0], radius=settings.radius)
    wanted = int(np.count_nonzero(seen))
    for slot, pose in enumerate(starts):
        planner.observe(slot, team[slot].deploy(pose))
    known_s = known_m = math.inf
    gap = best = 0.0
    while planner.time < limit_s and (orders := planner.decide()):
        gap = max(gap, *planner.ages)
        best = max(
            int(np.count_nonzero(seen & (grid != UNKNOWN))) for grid in planner.group_grids()
        )
        if best >= share * wanted and math.isinf(known_s):
            known_s, known_m = planner.time, max(planner.distances)
        for slot, order in orders.items():
            if order.until >= lost.get(slot, math.inf):
                planner.remove(slot)
            else:
                planner.observe(slot, team[slot].drive(order.path, order.until))
    grid = planner.team_grid()
    best = int(np.count_nonzero(seen & (grid != UNKNOWN)))
    if best >= share * wanted and math.isinf(known_s):
        known_s, known_m = planner.time, max(planner.distances)
    return RadioExploration(
        grid=grid,
        seconds=planner.time,
        known_s=known_s,
        distances=planner.distances,
        known_m=known_m,
        coverage=best / wanted,
        largest_gap_s=gap,
    )
