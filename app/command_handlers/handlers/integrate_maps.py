"""`map:integrate`: merge the robots' maps into one, measure it, and write it down."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.config import get_settings
from app.exploration.driver import Patch, Point, Pose
from app.exploration.evaluation.map_quality import accuracy, coverage, observable
from app.exploration.grid import UNKNOWN, FloorMap, Grid, GridFrame, LogOdds
from app.exploration.map_files import find_map, load_map
from app.exploration.merging.evidence import merge
from app.exploration.planning.frontiers import cluster, frontier_cells
from app.missions import artifacts
from app.missions.frames import Frame, Seen
from app.missions.recording import Recording
from app.robots.codecs import receive_json, receive_patch
from sagastream import Command, Progress, multi_stage_reply

_FRONTIER_M = 0.4  # what a map that errs a little shows for certain
_UNHALVED = 10**9


@dataclass(frozen=True, slots=True, eq=False)
class _Merged:
    """The map to write, and the same on the floor's grid, to be measured there.

    `team` is where each robot ended. `others` are maps that stayed apart, and `told` is what the reply says beside the figures.
    """

    grid: Grid
    frame: GridFrame
    measured: Grid
    start: Pose
    team: list[Seen]
    paths: list[list[Point]]
    frontiers: list[Point]
    others: list[tuple[Grid, GridFrame]]
    told: dict[str, Any]


@multi_stage_reply(stream=get_settings().map_stream, event_type="map:integrate")
async def integrate_maps(command: Command, progress: Progress) -> dict[str, Any]:
    """Merge and write; the true floor is read here to measure the result, and only for that.

    Maps of robots that know where they are add up. Others are registered with each other first;
    those that do not fit for certain stay apart, and the mission is `partial`.

    Raises:
        BlobMissing: A robot's map is no longer stored.
        OSError: The results cannot be written.
    """
    mission = command.payload
    settings = get_settings()
    place = artifacts.folder(settings.out_dir, mission["mission"])
    patches = [await receive_patch(patch) for patch in mission["maps"]]
    paths = await receive_json(mission["paths"])
    frontiers = await receive_json(mission["frontiers"])
    await progress(0.2, {"maps": len(patches)})

    def integrate() -> tuple[_Merged, dict[str, Any]]:
        frame = GridFrame.from_dict(mission["frame"])
        layers = [_layer(patch, frame) for patch in patches]
        floor = load_map(find_map(settings.map_dir, mission["area"]))
        if mission.get("known_poses", True):
            grid, start = merge(layers), Pose(*mission["starts"][0])
            driven = zip(mission["robots"], paths, mission["distances_m"], strict=True)
            team = [Seen(name, _end_of(path), m, path=path) for name, path, m in driven]
            merged = _Merged(
                grid, frame, grid, start, team, paths, frontiers, [], {"partial": False}
            )
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
        files = artifacts.write(
            place,
            merged.grid,
            merged.frame,
            paths=merged.paths,
            frontiers=merged.frontiers,
            title=f"{mission['area']}, {len(patches)} robots",
            report=report
            | merged.told
            | {"mission": mission["mission"], "frontiers_left": len(merged.frontiers)},
            others=merged.others,
        )
        return merged, measured | merged.told | {"artifacts": files}

    merged, result = await asyncio.to_thread(integrate)
    last = Frame(
        simulated_s=mission["simulated_s"],
        fraction=float(np.mean(merged.grid != UNKNOWN)),
        robots=tuple(merged.team),
        frontiers=tuple((x, y) for x, y in merged.frontiers),
        cells=merged.grid,
    )
    await Recording(command, merged.frame).add(last)
    return result


def _end_of(path: Sequence[Point]) -> Pose:
    """Where a path ends, and in which direction it went last."""
    (x0, y0), (x1, y1) = path[-2:] if len(path) > 1 else (path[-1], path[-1])
    return Pose(x1, y1, math.atan2(y1 - y0, x1 - x0))


def _registered(
    mission: dict[str, Any],
    layers: Sequence[LogOdds],
    frame: GridFrame,
    floor: FloorMap,
    paths: Sequence[Sequence[Point]],
) -> _Merged:
    """Merge maps in frames of their own: the one that knows most is the mission's.

    Its reply says who is in which map, and where each robot stands, in the frame of its map.
    """
    # A heavy import, its solver's, which missions with known poses do not need.
    from app.exploration.merging.joint_map import joint_maps, on_floor  # noqa: PLC0415
    from app.exploration.se2 import IDENTITY, apply, compose, of_pose, to_pose  # noqa: PLC0415
    from app.exploration.simulation.deployment import true_starts  # noqa: PLC0415

    names = mission["robots"]
    joint = joint_maps(layers, frame)
    poses = [to_pose(IDENTITY)] * len(names)
    for group in joint:
        for slot, there in zip(group.members, group.transforms, strict=True):
            poses[slot] = to_pose(compose(there, np.array(mission["last_poses"][slot])))
    best = joint[0]
    tracks = {
        slot: [(float(x), float(y)) for x, y in apply(there, np.array(paths[slot]))]
        for slot, there in zip(best.members, best.transforms, strict=True)
    }
    starts = true_starts(floor, len(names), mission["seed"])
    start = starts[best.members[0]]
    resolution = best.frame.resolution
    left = cluster(
        frontier_cells(best.grid), least=math.ceil(_FRONTIER_M / resolution), longest=_UNHALVED
    )
    return _Merged(
        grid=best.grid,
        frame=best.frame,
        measured=on_floor(best, of_pose(start), floor.frame),
        start=start,
        team=[
            Seen(
                name,
                poses[slot],
                mission["distances_m"][slot],
                path=tracks.get(slot, []),
                apart=slot not in tracks,
            )
            for slot, name in enumerate(names)
        ],
        paths=list(tracks.values()),
        frontiers=[best.frame.centre(*(int(i) for i in piece.cells[0])) for piece in left],
        others=[(other.grid, other.frame) for other in joint[1:]],
        told={
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
