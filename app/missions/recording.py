"""The recording of a mission: a stream of its frames, written while it runs, read at any time.

Frames are many and tell nothing that a trace does not, so that they are in none.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from app.config import get_settings
from app.missions.frames import Frame, Player, Recorder
from app.exploration.grid import GridFrame
from app.redis_utils import emit_event, read_stream
from sagastream import Command

Shown = tuple[str, Frame, GridFrame]


class Recording:
    """Writes the frames of a mission for the handler of one of its commands.

    Args:
        command: What is handled. Who has lost it to another handler writes nothing more.
        grid: Where the mission's cells lie.
    """

    def __init__(self, command: Command, grid: GridFrame) -> None:
        self._command = command
        self._stream = get_settings().recording_stream(command.payload["mission"])
        self._recorder = Recorder(grid)

    async def add(self, frame: Frame) -> None:
        """Write a frame.

        Raises:
            StageRefused: Another handler has the command now.
        """
        with _untraced():
            for piece in await asyncio.to_thread(self._recorder.pieces, frame):
                await emit_event(
                    self._stream,
                    event_type=self._command.event_type,
                    status="progress",
                    payload=piece,
                    correlation_id=self._command.correlation_id,
                    request_id=self._command.request_id,
                    ttl=get_settings().retention_s,
                )


async def frames(mission: str, *, follow: bool = False) -> AsyncIterator[Shown]:
    """The frames of a mission, from the first.

    Args:
        mission: Its id.
        follow: Go on with what comes, without end.

    Yields:
        The id of the entry that ends the frame, the frame, and where its cells lie.

    Raises:
        ServerUnavailable: The server did not answer; while following it is waited for.
    """
    player = Player()
    async for entry in read_stream(get_settings().recording_stream(mission), follow=follow):
        if frame := player.take(entry["payload"]):
            assert player.grid is not None
            yield entry["entry_id"], frame, player.grid


@contextmanager
def _untraced() -> Iterator[None]:
    """Have what is sent in here belong to no trace that is recorded."""
    context = trace.get_current_span().get_span_context()
    quiet = SpanContext(
        context.trace_id, context.span_id, is_remote=False, trace_flags=TraceFlags(0)
    )
    with trace.use_span(NonRecordingSpan(quiet)):
        yield
