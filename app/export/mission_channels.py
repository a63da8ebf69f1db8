"""The messages of a mission, read from its streams: for a file, or live.

A mission of any worker, running or ended, is read alike. What is malformed or no longer stored is
a line of the log, and hides nothing else.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np

from app.event_types import EXPLORATION_PERFORM, MAP_INTEGRATE, ROUTING_PLAN
from app.exploration.driver import Patch, Pose
from app.exploration.grid import GridFrame
from app.exploration.se2 import compose, inverse, of_pose, to_pose
from app.export.mission_entries import EntryKind, MissionEntry, read_mission_entries
from app.export.mission_messages import MissionMessages
from app.export.ros_messages import RosMessage
from app.missions.checkpoints import decode_state
from app.missions.frames import BadFrame, Frame, FrameDecoder
from app.redis_utils import BlobInvalid, BlobMissing, payload_of
from app.robots.codecs import decode_patch, decode_scan
from sagastream import InvalidMessage

logger = logging.getLogger(__name__)

_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class MissionChannels:
    """Reads one mission and converts what it reads.

    Args:
        saga_id: The mission's id.
        messages: Converts its entries.
        known_poses: Whether all robots have one map frame.
    """

    def __init__(self, saga_id: str, messages: MissionMessages, *, known_poses: bool) -> None:
        self._saga_id = saga_id
        self._messages = messages
        self._known_poses = known_poses
        self._decoder = FrameDecoder()
        self._planned: Mapping[str, Any] = {}
        self._progress: Mapping[str, Any] = {}
        self._explored: Mapping[str, Any] = {}
        self._time_ns = 0

    async def read(
        self, *, follow: bool = False, is_over: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[list[RosMessage]]:
        """Yield the messages of each entry, and at the end what is left of maps and paths.

        Args:
            follow: Continue with new entries until the mission is over.
            is_over: Whether it is.

        Raises:
            ServerUnavailable: The server did not answer, and `follow` is false.
        """
        entries = read_mission_entries(self._saga_id, follow=follow, is_over=is_over)
        async for entry in entries:
            self._time_ns = entry.time_ns
            async for found in self._convert(entry):
                yield found
        if not self._explored and self._progress.get("checkpoint"):
            # It was undone, or is not at its end: a checkpoint has the maps until then.
            async for found in self._noted(self._maps_of_checkpoint()):
                yield found
        yield await asyncio.to_thread(self._messages.finish)

    async def _convert(self, entry: MissionEntry) -> AsyncIterator[list[RosMessage]]:
        fields: dict[str, Any] = dict(entry.entry.fields)
        if entry.kind is EntryKind.TRANSITION:
            yield self._messages.transition(entry.time_ns, fields)
            return
        try:
            fields["payload"] = payload_of(fields.get("payload", ""))
        except InvalidMessage as error:
            yield self._note(f"{entry.kind.value} {entry.entry.entry_id} is malformed: {error}")
            return
        if entry.kind is EntryKind.STAGE:
            yield self._messages.stage(entry.time_ns, fields)
            async for found in self._noted(self._results_of(fields)):
                yield found
            return
        convert = self._scans if entry.kind is EntryKind.SCANS else self._frame
        try:
            yield await asyncio.to_thread(convert, entry.time_ns, fields["payload"])
        except (BadFrame, *_UNREADABLE) as error:
            yield self._note(f"{entry.kind.value} {entry.entry.entry_id} is malformed: {error}")

    def _scans(self, time_ns: int, payload: Mapping[str, Any]) -> list[RosMessage]:
        scans = {str(name): decode_scan(each) for name, each in payload["scans"].items()}
        return self._messages.scans(time_ns, scans)

    def _frame(self, time_ns: int, piece: Mapping[str, Any]) -> list[RosMessage]:
        frame = self._decoder.decode(piece)
        if frame is None:
            return []
        assert self._decoder.grid is not None
        _require_finite(frame)
        return self._messages.recorded(time_ns, frame, self._decoder.grid)

    async def _results_of(self, fields: Mapping[str, Any]) -> AsyncIterator[list[RosMessage]]:
        """What a stage adds to the maps: those of the robots, and where they lie."""
        kind, status, payload = fields.get("event_type"), fields.get("status"), fields["payload"]
        if kind == EXPLORATION_PERFORM and status == "progress":
            self._progress = payload
        if status != "completed":
            return
        if kind == ROUTING_PLAN:
            self._planned = payload
        if kind == EXPLORATION_PERFORM:
            self._explored = payload
            # One at a time: together, the maps of a large team on a large floor are a gigabyte.
            for name, patch in zip(payload["robots"], payload["maps"], strict=True):
                yield await self._own_map(name, await decode_patch(patch))
        if kind == MAP_INTEGRATE and payload.get("poses"):
            yield self._messages.placed(self._time_ns, self._places(payload))

    async def _maps_of_checkpoint(self) -> AsyncIterator[list[RosMessage]]:
        state = await decode_state(self._progress["checkpoint"])
        for name, report in zip(self._progress["robots"], state.reports, strict=True):
            yield await self._own_map(name, report.patch)

    async def _own_map(self, name: str, patch: Patch) -> list[RosMessage]:
        grid = GridFrame.from_dict((self._explored or self._planned)["frame"])
        if not patch.lies_in(grid):
            raise ValueError(f"the map of {name} exceeds the grid")
        return await asyncio.to_thread(
            self._messages.own_map,
            *(self._time_ns, name, patch, grid),
            is_apart=not self._known_poses,
        )

    def _places(self, merged: Mapping[str, Any]) -> dict[str, Pose]:
        """Where the frame of each robot's own map lies in the merged map, if it was merged."""
        last = dict(zip(self._explored["robots"], self._explored["last_poses"], strict=True))
        return {
            name: to_pose(
                compose(of_pose(Pose(*merged["poses"][name])), inverse(np.array(last[name])))
            )
            for name in merged["parties"][0]
        }

    async def _noted(
        self, converted: AsyncIterator[list[RosMessage]]
    ) -> AsyncIterator[list[RosMessage]]:
        """Convert something that may be missing or malformed; say so in the log if it is."""
        try:
            async for found in converted:
                yield found
        except (BlobMissing, BlobInvalid) as error:
            yield self._note(str(error))
        except _UNREADABLE as error:
            yield self._note(f"a result cannot be read: {type(error).__name__}: {error}")

    def _note(self, text: str) -> list[RosMessage]:
        logger.warning("mission %s: %s", self._saga_id, text)
        return self._messages.note(self._time_ns, text[:300])


def _require_finite(frame: Frame) -> None:
    """Refuse a frame with something that is not a number, before any of it is converted.

    Raises:
        TypeError: A value is of another type.
        ValueError: A value is not finite.
    """
    points = [*frame.frontiers]
    values = [frame.simulated_s, frame.fraction]
    for robot in frame.robots:
        values += [robot.pose.x, robot.pose.y, robot.pose.heading, robot.driven_m]
        points += [*robot.path, *robot.plan, *([robot.goal] if robot.goal else [])]
    values += itertools.chain.from_iterable(points)
    if not all(map(math.isfinite, values)):
        raise ValueError("a coordinate is not a finite number")
