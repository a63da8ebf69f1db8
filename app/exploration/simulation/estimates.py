"""How well the end of an exploration is estimated while it runs, in simulation."""

import numpy as np

from app.exploration.grid import UNKNOWN, FloorMap
from app.exploration.planning.remaining import Remaining, RemainingEstimator
from app.exploration.planning.settings import DEFAULT_SETTINGS
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot
from app.exploration.simulation.start_poses import start_poses


def estimates_of(
    floor: FloorMap, robots: int, seed: int
) -> tuple[float, list[tuple[float, Remaining]]]:
    """Explore a floor; return its duration, and the estimates with their times, in seconds."""
    spec = RobotSpec(radius=DEFAULT_SETTINGS.radius, speed=DEFAULT_SETTINGS.speed)
    starts = start_poses(floor, robots, seed, radius=spec.radius, scattered=False)
    team = [SimulatedRobot(floor, slot=slot, seed=seed, spec=spec) for slot in range(robots)]
    planner, estimator = TeamPlanner(floor.frame, starts), RemainingEstimator()
    for slot, pose in enumerate(starts):
        planner.observe(slot, team[slot].deploy(pose))
    found = []
    while orders := planner.decide():
        for slot, order in orders.items():
            planner.observe(slot, team[slot].drive(order.path, order.until))
        known_m2 = np.count_nonzero(planner.team_grid() != UNKNOWN) * floor.frame.resolution**2
        remaining = estimator.estimate(
            planner.time,
            float(known_m2),
            robots=[(pose.x, pose.y) for pose in planner.poses],
            frontiers=planner.frontiers_left,
        )
        if remaining:
            found.append((planner.time, remaining))
    return planner.time, found


def error_at(share: float, end_s: float, estimates: list[tuple[float, Remaining]]) -> float:
    """How far the estimated duration is from the true one at a share of it, as a share of it."""
    time_s, remaining = min(estimates, key=lambda each: abs(each[0] - share * end_s))
    return (time_s + remaining.seconds - end_s) / end_s
