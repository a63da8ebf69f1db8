"""`map:integrate`: merge the robots' maps into one, measure it, and write it down."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from app import results
from app.config import get_settings
from app.exploration.driver import Patch, Point, Pose
from app.exploration.frames import Frame, Seen
from app.exploration.grid import UNKNOWN, Grid, GridFrame
from app.exploration.map_files import find_map, load_map
from app.exploration.merging import merge
from app.exploration.quality import accuracy, coverage, observable
from app.recording import Recording
from app.wire import receive_json, receive_patch
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().map_stream, event_type="map:integrate")
async def integrate_maps(command: Command, progress: Progress) -> dict[str, Any]:
    """Merge and write; the true floor is read here to measure the result, and only for that.

    Raises:
        BlobMissing: A robot's map is no longer stored.
        OSError: The results cannot be written.
    """
    mission = command.payload
    settings = get_settings()
    place = results.folder(settings.out_dir, mission["mission"])
    patches = [await receive_patch(patch) for patch in mission["maps"]]
    paths = await receive_json(mission["paths"])
    frontiers = await receive_json(mission["frontiers"])
    await progress(0.2, {"maps": len(patches)})

    frame = GridFrame.from_dict(mission["frame"])

    def integrate() -> tuple[Grid, dict[str, Any]]:
        merged = merge([_layer(patch, frame) for patch in patches])
        floor = load_map(find_map(settings.map_dir, mission["area"]))
        start = Pose(*mission["starts"][0])
        measured = {
            "coverage": coverage(merged, floor, observable(floor, start)),
            "accuracy": accuracy(merged, floor),
        }
        report = measured | {
            name: mission[name]
            for name in (
                *("area", "seed", "robots", "starts", "distances_m", "simulated_s", "rounds"),
            )
        }
        files = results.write(
            place,
            merged,
            frame,
            paths=paths,
            frontiers=frontiers,
            title=f"{mission['area']}, {len(patches)} robots",
            report=report | {"mission": mission["mission"], "frontiers_left": len(frontiers)},
        )
        return merged, measured | {"artifacts": files}

    merged, result = await asyncio.to_thread(integrate)
    robots = [
        Seen(name, _end_of(path), driven)
        for name, path, driven in zip(mission["robots"], paths, mission["distances_m"], strict=True)
    ]
    last = Frame(
        simulated_s=mission["simulated_s"],
        fraction=float(np.mean(merged != UNKNOWN)),
        robots=tuple(robots),
        frontiers=tuple((x, y) for x, y in frontiers),
        cells=merged,
    )
    await Recording(command, frame).add(last)
    return result


def _end_of(path: Sequence[Point]) -> Pose:
    """Where a path ends, and in which direction it went last."""
    (x0, y0), (x1, y1) = path[-2:] if len(path) > 1 else (path[-1], path[-1])
    return Pose(x1, y1, math.atan2(y1 - y0, x1 - x0))


def _layer(patch: Patch, frame: GridFrame) -> Any:
    layer = np.zeros((frame.rows, frame.cols), np.int8)
    rows, cols = patch.cells.shape
    layer[patch.row0 : patch.row0 + rows, patch.col0 : patch.col0 + cols] = patch.cells
    return layer
