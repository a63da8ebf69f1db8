"""`map:integrate`: merge the robots' maps, measure the result, and write its files."""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.config import get_settings
from app.event_types import MAP_INTEGRATE
from app.exploration.driver import Patch, Point, Pose
from app.exploration.evaluation.map_quality import accuracy, coverage, observable
from app.exploration.grid import UNKNOWN, FloorMap, Grid, GridFrame, LogOdds
from app.exploration.map_files import find_map, load_map
from app.exploration.merging.evidence import merge_layers
from app.exploration.planning.frontiers import cluster_frontiers, frontier_cells
from app.missions import artifacts
from app.missions.frames import Frame, RobotView
from app.missions.recording import RecordingWriter
from app.robots.codecs import decode_patch, load_json
from sagastream import Command, Progress, multi_stage_reply

logger = logging.getLogger(__name__)

_MIN_FRONTIER_M = 0.4  # shorter ones may be artefacts of small map errors
_NO_SPLIT = 10**9  # cells: counts each frontier as a whole


@dataclass(frozen=True, slots=True, eq=False)
class _Merged:
    """A merged map and what is reported about it.

    Attributes:
        grid: (rows, cols) int8 occupancy of the merged map.
        frame: The pose and resolution of that grid.
        measured: The same map resampled to the floor's grid, for coverage and accuracy.
        start: The true start pose of the robot whose frame the map has.
        team: The final state of each robot.
        frontiers: A point of each remaining frontier, metres, map frame.
        others: Maps that could not be merged.
        details: Further fields of the reply and of `report.json`.
    """

    grid: Grid
    frame: GridFrame
    measured: Grid
    start: Pose
    team: list[RobotView]
    frontiers: list[Point]
    others: list[tuple[Grid, GridFrame]]
    details: dict[str, Any]


@multi_stage_reply(stream=get_settings().map_stream, event_type=MAP_INTEGRATE)
async def integrate_maps(command: Command, progress: Progress) -> dict[str, Any]:
    """Merge the robots' maps and write the results.

    The ground-truth floor is loaded only to measure coverage and accuracy. Maps of robots with
    known poses are summed. Other maps are registered with each other first; those that cannot be
    registered with certainty are written separately, and the mission is `partial`.

    Raises:
        BlobMissing: A robot's map is no longer stored.
        OSError: The results cannot be written.
    """
    mission = command.payload
    settings = get_settings()
    folder = artifacts.folder_of(settings.out_dir, mission["mission"])
    patches = [await decode_patch(patch) for patch in mission["maps"]]
    paths = await load_json(mission["paths"])
    frontiers = await load_json(mission["frontiers"])
    await progress(0.2, {"maps": len(patches)})

    def integrate() -> tuple[_Merged, dict[str, Any]]:
        frame = GridFrame.from_dict(mission["frame"])
        layers = [_layer(patch, frame) for patch in patches]
        floor = load_map(find_map(settings.map_dir, mission["area"]))
        if mission.get("known_poses", True):
            grid, start = merge_layers(layers), Pose(*mission["starts"][0])
            driven = zip(mission["robots"], paths, mission["distances_m"], strict=True)
            team = [RobotView(name, _end_of(path), m, path=path) for name, path, m in driven]
            merged = _Merged(grid, frame, grid, start, team, frontiers, [], {"partial": False})
        else:
            merged = _registered(mission, layers, frame, floor, paths)
        measured = {
            "coverage": coverage(merged.measured, floor, observable(floor, merged.start)),
            "accuracy": accuracy(merged.measured, floor),
        }
        report = measured | {
            name: mission[name]
            for name in (
                *("area", "seed", "robots", "starts", "distances_m", "simulated_s", "rounds"),
            )
        }
        shown = [robot for robot in merged.team if not robot.apart]
        files = artifacts.write(
            folder,
            merged.grid,
            merged.frame,
            paths=[robot.path for robot in shown],
            names=[robot.name for robot in shown],
            frontiers=merged.frontiers,
            title=f"{mission['area']}, {len(patches)} robots",
            report=report
            | merged.details
            | {"mission": mission["mission"], "frontiers_left": len(merged.frontiers)},
            others=merged.others,
        )
        return merged, measured | merged.details | {"artifacts": files}

    merged, result = await asyncio.to_thread(integrate)
    final_frame = Frame(
        simulated_s=mission["simulated_s"],
        fraction=float(np.mean(merged.grid != UNKNOWN)),
        robots=tuple(merged.team),
        frontiers=tuple((x, y) for x, y in merged.frontiers),
        cells=merged.grid,
    )
    await RecordingWriter(command, merged.frame).add(final_frame)
    if settings.record_mcap and (path := await _record_mcap(mission, folder)):
        result["artifacts"]["mcap"] = str(path)
    return result


async def _record_mcap(mission: dict[str, Any], folder: Path) -> Path | None:
    """Write what the mission has recorded so far beside its results; log why if it fails."""
    # Imported here: slow imports that no other command needs.
    from app.export.mission_files import write_files  # noqa: PLC0415

    path = folder / "mission.mcap"
    try:
        await write_files(mission, mcap=path)
    except Exception:  # the mission has its results, which a file for other tools must not cost
        logger.exception("mission %s: cannot write %s", mission["mission"], path)
        return None
    return path


def _end_of(path: Sequence[Point]) -> Pose:
    """Return the last point of a path with the direction of its last segment."""
    (x0, y0), (x1, y1) = path[-2:] if len(path) > 1 else (path[-1], path[-1])
    return Pose(x1, y1, math.atan2(y1 - y0, x1 - x0))


def _registered(
    mission: dict[str, Any],
    layers: Sequence[LogOdds],
    frame: GridFrame,
    floor: FloorMap,
    paths: Sequence[Sequence[Point]],
) -> _Merged:
    """Merge maps that each have their own frame.

    The merged map with most known cells is the mission's result. The details name the robots of
    each merged map, and each robot's pose in the frame of its map.
    """
    # Imported here: the solver is slow to import, and missions with known poses do not need it.
    from app.exploration.merging.joint_map import joint_maps, project_onto_floor  # noqa: PLC0415
    from app.exploration.se2 import IDENTITY, apply, compose, of_pose, to_pose  # noqa: PLC0415
    from app.exploration.simulation.start_poses import true_starts  # noqa: PLC0415

    names = mission["robots"]
    joint = joint_maps(layers, frame)
    poses = [to_pose(IDENTITY)] * len(names)
    for group in joint:
        for slot, transform in zip(group.members, group.transforms, strict=True):
            poses[slot] = to_pose(compose(transform, np.array(mission["last_poses"][slot])))
    best = joint[0]
    paths_in_map = {
        slot: [(float(x), float(y)) for x, y in apply(transform, np.array(paths[slot]))]
        for slot, transform in zip(best.members, best.transforms, strict=True)
    }
    starts = true_starts(floor, len(names), mission["seed"])
    start = starts[best.members[0]]
    resolution = best.frame.resolution
    left = cluster_frontiers(
        frontier_cells(best.grid),
        min_cells=math.ceil(_MIN_FRONTIER_M / resolution),
        max_extent=_NO_SPLIT,
    )
    return _Merged(
        grid=best.grid,
        frame=best.frame,
        measured=project_onto_floor(best, of_pose(start), floor.frame),
        start=start,
        team=[
            RobotView(
                name,
                poses[slot],
                mission["distances_m"][slot],
                path=paths_in_map.get(slot, []),
                apart=slot not in paths_in_map,
            )
            for slot, name in enumerate(names)
        ],
        frontiers=[best.frame.centre(*(int(i) for i in piece.cells[0])) for piece in left],
        others=[(other.grid, other.frame) for other in joint[1:]],
        details={
            "partial": len(joint) > 1,
            "known_poses": False,
            "parties": [[names[slot] for slot in group.members] for group in joint],
            "poses": {
                name: [round(pose.x, 3), round(pose.y, 3), round(pose.heading, 4)]
                for name, pose in zip(names, poses, strict=True)
            },
        },
    )


def _layer(patch: Patch, frame: GridFrame) -> LogOdds:
    layer = np.zeros((frame.rows, frame.cols), np.int8)
    rows, cols = patch.cells.shape
    layer[patch.row0 : patch.row0 + rows, patch.col0 : patch.col0 + cols] = patch.cells
    return layer
