"""A mission as files: MCAP, GeoJSON and g2o, written from its streams in one reading."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.exploration.map_files import write_atomically
from app.export.anchor import Anchor
from app.export.geojson import features_of
from app.export.mcap_file import McapFile
from app.export.mission_channels import MissionChannels
from app.export.mission_messages import MissionMessages
from app.export.pose_graph_file import graph_of
from sagastream import SagastreamError

_ABOUT = ("mission", "area", "robot_count", "robots", "seed")


class NothingRecorded(SagastreamError):
    """A mission has no recorded map, so that a file would be empty."""


async def write_files(
    mission: Mapping[str, Any],
    *,
    anchor: Anchor | None = None,
    mcap: Path | None = None,
    geojson: Path | None = None,
    pose_graph: Path | None = None,
) -> None:
    """Write the named files; each appears complete or not at all.

    Args:
        mission: The input of its saga, with its id, `mission`.
        anchor: Where its map lies on the Earth.
        mcap: All that was recorded.
        geojson: The last map, the paths and the frontiers.
        pose_graph: The paths as a pose graph.

    Raises:
        NothingRecorded: The mission has no recorded map; with `mcap` alone, not even a stage.
        ServerUnavailable: The server did not answer.
        OSError: A file cannot be written.
    """
    saga_id = mission["mission"]
    messages = MissionMessages(anchor)
    channels = MissionChannels(saga_id, messages, known_poses=mission.get("known_poses", True))
    about = {name: str(mission[name]) for name in _ABOUT if name in mission}
    count = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(McapFile(mcap, about)) if mcap else None
        async for found in channels.read():
            count += len(found)
            if file:
                await asyncio.to_thread(file.add, found)
        frame, grid = messages.frame, messages.grid
        if not count or ((geojson or pose_graph) and frame is None):
            raise NothingRecorded(f"mission {saga_id} has no recording; see: mission list")
    if frame is None or grid is None:
        return
    if geojson:
        text = await asyncio.to_thread(features_of, frame, grid, messages.paths, anchor)
        write_atomically(geojson, text.encode())
    if pose_graph:
        write_atomically(pose_graph, graph_of(messages.paths).encode())
