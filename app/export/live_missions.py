"""Shows one mission after the other: a named one, or always the newest that runs."""

import asyncio
import contextlib
import logging
from typing import Protocol

from app.export.mission_channels import MissionChannels
from app.export.mission_messages import MissionMessages
from app.export.ros_messages import RosMessage
from app.missions.mission_saga import mission_runner
from sagastream import SagastreamError
from sagastream.errors import NoSuchSaga
from sagastream.saga import Journal

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


class MessageSink(Protocol):
    """Where the messages of a mission go. Calls do not wait for anybody."""

    def publish(self, messages: list[RosMessage]) -> None:
        """Take messages of the mission that is shown."""
        ...

    def begin_mission(self) -> None:
        """Another mission is shown from now on."""
        ...


class LiveMissions:
    """Follows missions of any worker by their streams.

    Args:
        sink: Where the messages go.
        saga_id: The only mission to show; '' for the newest that runs.
    """

    def __init__(self, sink: MessageSink, saga_id: str = "") -> None:
        self._sink = sink
        self._wanted = saga_id
        self._shown = ""
        self._open: set[str] = set()
        self._started: dict[str, float] = {}

    async def run(self) -> None:
        """Show missions until cancelled; wait while the server is unavailable."""
        showing: asyncio.Task[None] | None = None
        try:
            while True:
                with contextlib.suppress(SagastreamError):
                    journal = await self._next()
                    if journal:
                        if showing:
                            await _cancel(showing)
                        self._sink.begin_mission()
                        self._shown = journal.saga_id
                        showing = asyncio.create_task(self._show(journal))
                if showing and showing.done():
                    if error := showing.exception():
                        logger.error("cannot show mission %s", self._shown, exc_info=error)
                    showing = None
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            if showing:
                await _cancel(showing)

    async def _next(self) -> Journal | None:
        """Return the mission to show if it is another one than now.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        runner = mission_runner()
        self._open = {*await runner.ids("open"), *await runner.ids("stuck")}
        wanted = self._wanted or await self._newest()
        if not wanted or wanted == self._shown:
            return None
        return await runner.journal(wanted)

    async def _newest(self) -> str:
        for saga_id in self._open - self._started.keys():
            with contextlib.suppress(NoSuchSaga):
                self._started[saga_id] = (await mission_runner().journal(saga_id)).started
        self._started = {
            saga_id: at for saga_id, at in self._started.items() if saga_id in self._open
        }
        return max(self._started, key=lambda each: (self._started[each], each), default="")

    async def _show(self, journal: Journal) -> None:
        saga_id = journal.saga_id
        known_poses = journal.input.get("known_poses", True)
        channels = MissionChannels(saga_id, MissionMessages(), known_poses=known_poses)
        async for found in channels.read(follow=True, is_over=lambda: saga_id not in self._open):
            await asyncio.to_thread(self._sink.publish, found)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
