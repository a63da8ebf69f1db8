"""Driving after 99 % is known, against a tour that knows what is left.

At T99 the robots of a mission stand somewhere, and some observable cells are left of which the mission
gets to know most. The tour knows the floor and these cells: it visits few places that together see
all of them, on routes whose longest is short, from where the robots stand. It is a heuristic too, of
the same kind as the planner's, but without a surprise.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from exploration_runs import Mission, Row, mission_options, write_rows

from app.exploration.driver import Pose
from app.exploration.evaluation.map_quality import observable, reachable
from app.exploration.grid import FREE, UNKNOWN, FloorMap, Grid, Mask
from app.exploration.lidar import LidarSpec, beam_angles, mark_visible
from app.exploration.planning.min_max_routes import plan_routes, route_lengths
from app.exploration.planning.settings import DEFAULT_SETTINGS
from app.exploration.planning.sightings import Sightings
from app.exploration.planning.stop_distances import CoarseMap
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.planning.view_cover import cover
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot
from app.exploration.simulation.start_poses import start_poses

_LATTICE_M = 0.4
_BEAMS = 720


def informed_tour(
    floor: FloorMap, poses: list[Pose], left: Mask, standing: Mask
) -> tuple[float, float]:
    """Return the sum and the longest of the routes of a tour that sees all cells that are left.

    Args:
        floor: the true floor.
        poses: where the robots stand.
        left: (rows, cols) bool, the cells to see.
        standing: (rows, cols) bool, where a robot can get to.
    """
    resolution = floor.frame.resolution
    reach = LidarSpec().max_range / resolution
    step = max(1, round(_LATTICE_M / resolution))
    lattice = np.zeros_like(standing)
    lattice[::step, ::step] = True
    near = cv2.distanceTransform((~left).astype(np.uint8), cv2.DIST_L2, 5) <= reach
    places = np.argwhere(standing & lattice & near)
    index = np.full(left.shape, -1, np.int64)
    cells = np.argwhere(left)
    index[left] = np.arange(len(cells))
    targets, seen_from = [], []
    for number in range(len(places)):
        visible = mark_visible(
            floor.grid != FREE, places[number : number + 1], beam_angles(_BEAMS), reach
        )
        found = index[visible & left]
        targets.append(found)
        seen_from.append(np.full(len(found), number))
    target, pose = np.concatenate(targets), np.concatenate(seen_from)
    order = np.argsort(target, kind="stable")
    sightings = Sightings(
        cells.astype(np.int32), places.astype(np.int32), target[order], pose[order]
    )
    stops = places[[place for place, _ in cover(sightings)]].astype(np.int32)
    if not len(stops):
        return 0.0, 0.0
    starts = np.array([floor.frame.cell(pose.x, pose.y) for pose in poses], np.int32)
    with ThreadPoolExecutor(1) as threads:
        metres = CoarseMap(standing, resolution).distances(
            stops, np.concatenate([starts, stops]), threads
        )
    start_m, between_m = np.ascontiguousarray(metres[:, : len(poses)].T), metres[:, len(poses) :]
    lengths = route_lengths(plan_routes(start_m, between_m), start_m, between_m)
    return float(lengths.sum()), float(lengths.max())


def measure(mission: Mission) -> Row:
    """Run one mission, and plan the tour for what was left at T99."""
    floor, robots, seed = mission.floor, mission.robots, mission.seed
    starts = start_poses(floor, robots, seed)
    seen = observable(floor, starts[0])
    wanted = 0.99 * int(np.count_nonzero(seen))
    spec = RobotSpec(radius=DEFAULT_SETTINGS.radius, speed=DEFAULT_SETTINGS.speed)
    team = [SimulatedRobot(floor, slot=slot, seed=seed, spec=spec) for slot in range(robots)]
    planner = TeamPlanner(floor.frame, starts)
    for slot, pose in enumerate(starts):
        planner.observe(slot, team[slot].deploy(pose))
    at_t99: tuple[float, float, list[Pose], Grid] | None = None
    while orders := planner.decide():
        grid = planner.team_grid()
        if at_t99 is None and np.count_nonzero(seen & (grid != UNKNOWN)) >= wanted:
            at_t99 = planner.time, sum(planner.distances), planner.poses, grid
        for slot, order in orders.items():
            planner.observe(slot, team[slot].drive(order.path, order.until))
    assert at_t99 is not None
    t99, driven, poses, before = at_t99
    left = seen & (before == UNKNOWN) & (planner.team_grid() != UNKNOWN)
    total, longest = informed_tour(floor, poses, left, reachable(floor, starts[0]))
    after = sum(planner.distances) - driven
    return {
        "floor": mission.name,
        "robots": robots,
        "seed": seed,
        "t99": t99,
        "makespan": planner.time,
        "driven_after_m": after,
        "tour_m": total,
        "tour_longest_s": longest / spec.speed,
        "ratio": after / total if total else None,
    }


def main() -> None:
    """Write one JSON line for each mission."""
    write_rows(mission_options(__doc__, robots=[1, 2, 4, 8], seeds=1).parse_args(), measure)


if __name__ == "__main__":
    main()
