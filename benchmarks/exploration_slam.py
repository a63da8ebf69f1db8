"""Missions without known poses: trajectory error, map against the floor, pace, cost of an update."""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from exploration_floors import chosen, drawn_floors, real_floors

from app.exploration.driver import Pose
from app.exploration.evaluation.fidelity import alignment, fidelity, trajectory_error
from app.exploration.evaluation.map_quality import coverage, observable
from app.exploration.grid import FloorMap, Grid
from app.exploration.mapping.keyframes import draw
from app.exploration.mapping.slam_robot import SlamRobot
from app.exploration.merging.evidence import occupancy
from app.exploration.se2 import Transform, compose
from app.exploration.simulation.deployment import bodies_on, true_starts
from app.exploration.simulation.expedition import Expedition, explore
from app.exploration.simulation.mobile_base import SimulatedBody


@dataclass(frozen=True, slots=True, eq=False)
class Mission:
    """An expedition with the bodies that know where they were."""

    floor: FloorMap
    starts: list[Pose]
    bodies: list[SimulatedBody]
    outcome: Expedition
    wall_s: float
    cpu_s: float

    def tracks(self) -> tuple[Transform, Transform]:
        """Return (n, 3) estimated poses of the largest party, and the true ones."""
        party = max(self.outcome.parties, key=lambda one: len(one.robots))
        estimated = [party.slam.poses[party.slam.of_robot(slot)] for slot in party.slots]
        return np.vstack(estimated), np.vstack([self.bodies[slot].track for slot in party.slots])

    def merged(self) -> Grid:
        """Draw the largest party's map on the floor's grid, at the best place for its track."""
        party = max(self.outcome.parties, key=lambda one: len(one.robots))
        place = alignment(*self.tracks())
        total = np.zeros(self.floor.grid.shape, np.int16)
        for slot in party.slots:
            own = party.slam.of_robot(slot)
            layer = np.zeros(self.floor.grid.shape, np.int8)
            keyframes = [party.slam.keyframes[index] for index in own]
            draw(layer, self.floor.frame, keyframes, compose(place, party.slam.poses[own]))
            total += layer
        return occupancy(total)


def run(floor: FloorMap, robots: int, seed: int) -> Mission:
    """Explore a floor with robots at unknown poses, in unknown directions."""
    starts, bodies = true_starts(floor, robots, seed), bodies_on(floor, robots, seed)
    team = [SlamRobot(body, slot=slot) for slot, body in enumerate(bodies)]
    extent = math.hypot(floor.frame.rows, floor.frame.cols) * floor.frame.resolution
    began, cpu_began = time.perf_counter(), time.process_time()
    outcome = explore(team, extent_m=extent)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return Mission(floor, starts, bodies, outcome, wall, cpu)


def measure(name: str, mission: Mission, robots: int, seed: int) -> dict[str, object]:
    """Return one mission's figures."""
    estimated, truth = mission.tracks()
    merged = mission.merged()
    seen = observable(mission.floor, mission.starts[0])
    shown = fidelity(merged, mission.floor, seen)
    return {
        "floor": name,
        "robots": robots,
        "seed": seed,
        "status": mission.outcome.status,
        "ate_m": trajectory_error(estimated, truth),
        "free_iou": shown.free_iou,
        "occupied_f1": shown.occupied_f1,
        "agreement": shown.agreement,
        "coverage": coverage(merged, mission.floor, seen),
        "simulated_s": mission.outcome.seconds,
        "attempts": mission.outcome.attempts,
        "keyframes": len(estimated),
        "wall_s": mission.wall_s,
        "cpu_s": mission.cpu_s,
        "pace": mission.outcome.seconds / mission.wall_s,
        "pace_cpu": mission.outcome.seconds / mission.cpu_s,
    }


def main() -> None:
    """Write one JSON line a mission."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--robots", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--floors", nargs="*")
    options = parser.parse_args()
    floors = real_floors(options.maps) | drawn_floors()
    run(floors["cave-0"], 1, 0)  # compiles
    with options.out.open("w") as file:
        for seed in options.seeds:
            for name in chosen(floors, options.floors):
                mission = run(floors[name], options.robots, seed)
                file.write(json.dumps(measure(name, mission, options.robots, seed)) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
