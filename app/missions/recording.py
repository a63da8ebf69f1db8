"""The recording of a mission: a stream of frames, written while it runs and read at any time.

Frames are not traced: they are many and would add nothing to the trace.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from app.config import get_settings
from app.exploration.driver import LidarScan
from app.exploration.grid import GridFrame
from app.missions.frames import BadFrame, Frame, FrameDecoder, FrameEncoder
from app.redis_utils import emit_event, read_stream
from app.robots.codecs import encode_scan
from sagastream import Command

logger = logging.getLogger(__name__)

_SCANS_EVERY_S, _SCANS_PER_DOUBLING, _SCANS_AT_ONCE = 1.0, 250, 8

RecordedFrame = tuple[str, Frame, GridFrame]
"""The id of the entry that completes a frame, the frame, and the pose of its grid."""


class RecordingWriter:
    """Writes the frames of a mission on behalf of a handler.

    Args:
        command: The command being handled. A handler that has lost it cannot write frames any more.
        grid: The pose and resolution of the mission's grid.
    """

    def __init__(self, command: Command, grid: GridFrame) -> None:
        self._command = command
        self._mission = command.payload["mission"]
        self._stream = get_settings().recording_stream(self._mission)
        self._encoder = FrameEncoder(grid)
        self._scans: dict[str, LidarScan] = {}
        self._scans_written, self._scans_due = 0, -math.inf

    def keep_scan(self, robot: str, scan: LidarScan) -> None:
        """Keep the newest scan of a robot until scans are written."""
        self._scans.pop(robot, None)
        self._scans[robot] = scan

    async def add_scans(self) -> None:
        """Write the kept scans of some robots, beside the frames, if it is time.

        An entry has 8 at most, those that have waited longest. The time between two doubles with
        each 250 entries, so that a long mission has a few thousand.

        Raises:
            StageRefused: Another handler has claimed the command.
        """
        now = time.monotonic()
        if now < self._scans_due or not self._scans:
            return
        self._scans_due = now + _SCANS_EVERY_S * 2 ** (self._scans_written // _SCANS_PER_DOUBLING)
        self._scans_written += 1
        names = list(self._scans)[:_SCANS_AT_ONCE]
        scans = {name: encode_scan(self._scans.pop(name)) for name in names}
        with _untraced():
            await self._emit(scan_stream(self._mission), {"scans": scans})

    async def add(self, frame: Frame) -> None:
        """Write a frame.

        Raises:
            StageRefused: Another handler has claimed the command.
        """
        with _untraced():
            for piece in await asyncio.to_thread(self._encoder.encode, frame):
                await self._emit(self._stream, piece)

    async def _emit(self, stream: str, payload: dict[str, Any]) -> None:
        await emit_event(
            stream,
            event_type=self._command.event_type,
            status="progress",
            payload=payload,
            correlation_id=self._command.correlation_id,
            request_id=self._command.request_id,
            ttl=get_settings().retention_s,
        )


def scan_stream(mission: str) -> str:
    """Return the stream of some scans of a mission, which only exports read."""
    return f"{get_settings().recording_stream(mission)}:scans"


async def read_frames(mission: str, *, follow: bool = False) -> AsyncIterator[RecordedFrame]:
    """Read the recorded frames of a mission, from the first one.

    Args:
        mission: The mission's id.
        follow: Continue with new frames, without end, and wait while the server is unavailable.

    A piece that is malformed is logged and left out.

    Raises:
        ServerUnavailable: The server did not answer, and `follow` is false.
    """
    decoder = FrameDecoder()
    async for entry in read_stream(get_settings().recording_stream(mission), follow=follow):
        try:
            frame = decoder.decode(entry["payload"])
        except BadFrame as error:
            logger.warning("frame %s of mission %s: %s", entry["entry_id"], mission, error)
            continue
        if frame:
            assert decoder.grid is not None
            yield entry["entry_id"], frame, decoder.grid


@contextmanager
def _untraced() -> Iterator[None]:
    """Send messages within this context under an unsampled span, which is not recorded."""
    context = trace.get_current_span().get_span_context()
    unsampled = SpanContext(
        context.trace_id, context.span_id, is_remote=False, trace_flags=TraceFlags(0)
    )
    with trace.use_span(NonRecordingSpan(unsampled)):
        yield
