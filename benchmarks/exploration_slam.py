"""Missions with unknown poses: trajectory error, map against the floor, pace, CPU time."""

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from exploration_floors import drawn_floors
from exploration_runs import Mission, Row, mission_options, write_rows

from app.exploration.driver import Pose
from app.exploration.evaluation.fidelity import alignment, fidelity, trajectory_error
from app.exploration.evaluation.map_quality import coverage, observable
from app.exploration.grid import FloorMap, Grid
from app.exploration.mapping.keyframes import draw_keyframes
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.merging.evidence import occupancy
from app.exploration.se2 import Transform, compose
from app.exploration.simulation.deployment import own_frame, place_bases
from app.exploration.simulation.simulate_unknown_poses import (
    UnknownPoseExploration,
    simulate_unknown_poses,
)
from app.exploration.simulation.simulated_base import SimulatedBase
from app.exploration.simulation.start_poses import true_starts


@dataclass(frozen=True, slots=True, eq=False)
class UnknownPoseRun:
    """An exploration, with the bases that know their true poses."""

    floor: FloorMap
    starts: list[Pose]
    bases: list[SimulatedBase]
    outcome: UnknownPoseExploration
    wall_s: float
    cpu_s: float

    def tracks(self) -> tuple[Transform, Transform]:
        """Return (n, 3) estimated poses of the largest cluster's robots, and the true ones."""
        members = max(self.outcome.clusters, key=len)
        estimated = [self.outcome.trajectory(slot) for slot in members]
        return np.vstack(estimated), np.vstack([self.bases[slot].track for slot in members])

    def merged(self) -> Grid:
        """Draw the largest cluster's keyframes on the floor's grid, aligned by its track."""
        members = max(self.outcome.clusters, key=len)
        to_floor = alignment(*self.tracks())
        total = np.zeros(self.floor.grid.shape, np.int16)
        for slot in members:
            layer = np.zeros(self.floor.grid.shape, np.int8)
            poses = compose(to_floor, self.outcome.trajectory(slot))
            keyframes = self.outcome.robots[slot].slam.keyframes
            draw_keyframes(layer, self.floor.frame, keyframes, poses)
            total += layer
        return occupancy(total)


def run(floor: FloorMap, robots: int, seed: int) -> UnknownPoseRun:
    """Explore a floor with robots at unknown poses and random headings."""
    starts, bases = true_starts(floor, robots, seed), place_bases(floor, robots, seed)
    frame = own_frame(floor)
    team = [SlamRobot(base, frame) for base in bases]
    began, cpu_began = time.perf_counter(), time.process_time()
    outcome = simulate_unknown_poses(team, frame)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return UnknownPoseRun(floor, starts, bases, outcome, wall, cpu)


@lru_cache(maxsize=1)
def _compile() -> None:
    """Explore once, so that no figure holds the time of the compiler."""
    run(drawn_floors()["cave-0"], 1, 0)


def measure(job: Mission) -> Row:
    """Explore, and return the figures."""
    _compile()
    mission = run(job.floor, job.robots, job.seed)
    estimated, truth = mission.tracks()
    merged = mission.merged()
    seen = observable(mission.floor, mission.starts[0])
    shown = fidelity(merged, mission.floor, seen)
    return {
        "floor": job.name,
        "robots": job.robots,
        "seed": job.seed,
        "status": mission.outcome.status,
        "ate_m": trajectory_error(estimated, truth),
        "free_iou": shown.free_iou,
        "occupied_f1": shown.occupied_f1,
        "agreement": shown.agreement,
        "coverage": coverage(merged, mission.floor, seen),
        "simulated_s": mission.outcome.seconds,
        "attempts": mission.outcome.attempts,
        "joint_maps": len(mission.outcome.joint_maps()),
        "keyframes": len(estimated),
        "wall_s": mission.wall_s,
        "cpu_s": mission.cpu_s,
        "pace": mission.outcome.seconds / mission.wall_s,
        "pace_cpu": mission.outcome.seconds / mission.cpu_s,
    }


def main() -> None:
    """Write one JSON line for each run."""
    write_rows(mission_options(__doc__, robots=[4], seeds=5).parse_args(), measure)


if __name__ == "__main__":
    main()
