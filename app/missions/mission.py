"""What a mission is, how to start one, and how to follow it to its end.

A started mission ends, whichever process dies: its journal is on the server, and running workers
(Celery, command listeners, robots) drive it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from app.config import get_settings
from app.exploration.map_files import find_map, load_map
from app.exploration.planning.radio_spec import BadRadio, check_radio
from app.exploration.planning.stop_rule import BadStopRule, StopRule
from app.missions import artifacts
from app.missions.approval import is_awaited
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus, read_stream
from sagastream import SagastreamError
from sagastream.saga import Journal, SagaOutcome

MAX_ROBOTS = 64
_LAST_STAGES_S = 0.2
_LOOK_EVERY_S = 0.5

OnStage = Callable[[dict[str, Any]], None]
"""Called with each stage of each step: the fields of its reply, `payload` decoded."""

OnWait = Callable[[str], None]
"""Called with the id of a mission that waits for a person."""


class MissionTimeout(SagastreamError, TimeoutError):
    """A mission did not end within its timeout; it was compensated, or had completed by then.

    Attributes:
        reason: Why it was compensated.
        outcome: How it ended.
    """

    def __init__(self, reason: str, outcome: SagaOutcome) -> None:
        super().__init__(f"mission {outcome.saga_id} was {reason}; it is {outcome.status}")
        self.reason = reason
        self.outcome = outcome

    def __reduce__(self) -> tuple[type, tuple[str, SagaOutcome]]:
        return type(self), (self.reason, self.outcome)


class MissionInterrupted(SagastreamError):
    """The process that followed a mission was told to end.

    Attributes:
        journal: The mission, as far as it was undone in time.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(f"mission {journal.saga_id} is {journal.status}")
        self.journal = journal

    def __reduce__(self) -> tuple[type, tuple[Journal]]:
        return type(self), (self.journal,)


class BadMission(SagastreamError, ValueError):
    """The parameters of a mission are invalid."""


@dataclass(frozen=True, slots=True)
class Mission:
    """The parameters of a mission.

    Attributes:
        area: The name of a map in `MAP_DIR`.
        robot_count: From 1 to 64.
        seed: Equal seeds give equal missions.
        known_poses: True if robots know their poses; else each builds a map in its own frame.
        approve: Whether a person must approve the exploration before the maps are merged.
        until: When enough is explored: see `StopRule`.
        radio: Which robots hear one another: see `check_radio`. Others plan without them.
    """

    area: str
    robot_count: int
    seed: int = 0
    known_poses: bool = True
    approve: bool = False
    until: str = "everything"
    radio: str = "perfect"

    def check(self) -> None:
        """Refuse invalid parameters before anything is started.

        Raises:
            BadMission: The number of robots, the seed or the stop rule is out of range.
            MapError: The map is missing or invalid; the error names file and fault.
        """
        if not 1 <= self.robot_count <= MAX_ROBOTS:
            raise BadMission(f"robots: must be from 1 to {MAX_ROBOTS}, not {self.robot_count}")
        if not 0 <= self.seed < 2**32:
            raise BadMission(f"seed: must be from 0 to {2**32 - 1}, not {self.seed}")
        try:
            StopRule.parse(self.until)
            check_radio(self.radio)
        except (BadStopRule, BadRadio) as error:
            raise BadMission(str(error)) from None
        if self.radio != "perfect" and not self.known_poses:
            raise BadMission("radio: robots with unknown poses need a perfect radio")
        load_map(find_map(get_settings().map_dir, self.area))


@dataclass(frozen=True, slots=True)
class MissionHandle:
    """A mission that was started.

    Attributes:
        saga_id: The mission's identity.
        input: The input of its saga.
    """

    saga_id: str
    input: dict[str, Any]

    async def wait(self) -> SagaOutcome:
        """Wait until the mission has ended: completed, compensated or stuck.

        Raises:
            NoSuchSaga: It ended and its journal has expired.
        """
        return await mission_runner().wait(self.saga_id)

    async def cancel(self, reason: str) -> Journal:
        """Start compensating the mission unless it has ended; do not wait for the end."""
        return await mission_runner().compensate(self.saga_id, reason)

    async def journal(self) -> Journal:
        """Read its journal."""
        return await mission_runner().journal(self.saga_id)

    async def stages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield every stage of its steps, from the first one, without end."""
        async for stage in read_stream(f"saga:{self.saga_id}:replies", follow=True):
            yield stage


async def run_saga(
    robot_count: int,
    area: str,
    *,
    seed: int = 0,
    saga_id: str | None = None,
    known_poses: bool = True,
    approve: bool = False,
    until: str = "everything",
    radio: str = "perfect",
) -> MissionHandle:
    """Start a mission; return as soon as its journal is written.

    Args:
        robot_count: The number of robots, 1 to 64.
        area: The name of a map in `MAP_DIR`.
        seed: Equal seeds give equal missions.
        saga_id: The mission's identity, new if None. Starting the same id with the same
            parameters again returns the same mission.
        known_poses: True if robots know their poses; else each builds a map in its own frame.
        approve: Whether a person must approve the exploration before the maps are merged: see
            `approval.decide`.
        until: When enough is explored: see `StopRule`.
        radio: Which robots hear one another: see `check_radio`.

    Raises:
        BadMission: A parameter is out of range.
        InvalidMessage: The id cannot be the name of a folder for its results.
        MapError: The map is missing or invalid.
        SagaError: The id belongs to a mission with other parameters.
        ServerUnavailable: The server did not answer.
    """
    mission = Mission(area, robot_count, seed, known_poses, approve, until, radio)
    await asyncio.to_thread(mission.check)
    await get_bus().ping()
    runner = mission_runner(approval=approve)
    saga_id = saga_id or runner.new_id()
    await asyncio.to_thread(_require_unused_folder, saga_id)
    payload: dict[str, Any] = {
        "area": area,
        "robot_count": robot_count,
        "seed": seed,
        "mission": saga_id,
    }
    if not known_poses:
        payload["known_poses"] = False
    if approve:
        payload["approve"] = True
    if until != "everything":
        payload["until"] = until
    if radio != "perfect":
        payload["radio"] = radio
    return MissionHandle(await runner.start(payload, saga_id=saga_id), payload)


def _require_unused_folder(saga_id: str) -> None:
    artifacts.require_unused(artifacts.folder_of(get_settings().out_dir, saga_id))


async def follow(
    handle: MissionHandle, on_stage: OnStage, *, on_wait: OnWait = lambda _: None
) -> SagaOutcome:
    """Wait for a mission's end and report its stages meanwhile.

    Args:
        handle: The mission.
        on_stage: Called with every stage of every step, in order.
        on_wait: Called with the mission's id when it begins to wait for a person's approval.
    """
    reporting = asyncio.create_task(_report_stages(handle, on_stage))
    looking = asyncio.create_task(_report_wait(handle, on_wait))
    try:
        return await handle.wait()
    finally:
        # The last stages are in the stream already: one more read returns them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_STAGES_S):
                await asyncio.shield(reporting)
        for task in (reporting, looking):
            task.cancel()
        await asyncio.wait([reporting, looking])


async def follow_or_undo(
    handle: MissionHandle,
    on_stage: OnStage,
    *,
    timeout: float | None,
    on_interrupt: Callable[[], float],
    on_wait: OnWait = lambda _: None,
) -> SagaOutcome:
    """Follow a mission to its end; undo it on timeout and when this call is cancelled.

    Args:
        handle: The mission.
        on_stage: Called with every stage of every step, in order, also while it is undone.
        timeout: Seconds after which the mission is undone; None for no limit.
        on_interrupt: Called when this call is cancelled; returns how many seconds to wait until
            the mission is undone.
        on_wait: As of `follow`.

    Raises:
        MissionTimeout: It took too long and has been undone.
        MissionInterrupted: This call was cancelled; the error has what was undone.
    """
    following = asyncio.create_task(follow(handle, on_stage, on_wait=on_wait))
    try:
        await asyncio.wait({following}, timeout=timeout)
        if not following.done():
            reason = f"not done within {timeout:g} s"
            await handle.cancel(reason)
            await asyncio.wait({following})
            raise MissionTimeout(reason, following.result())
        return following.result()
    except asyncio.CancelledError:
        undo_s = on_interrupt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(undo_s):
                await handle.cancel("interrupted")
                await asyncio.wait({following})
        raise MissionInterrupted(await handle.journal()) from None
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _report_wait(handle: MissionHandle, on_wait: OnWait) -> None:
    """Look whether a mission waits for an approval, until it does; only one that asks for it."""
    if not handle.input.get("approve"):
        return
    while True:
        with contextlib.suppress(SagastreamError):
            if is_awaited(await handle.journal()):
                on_wait(handle.saga_id)
                return
        await asyncio.sleep(_LOOK_EVERY_S)


async def _report_stages(handle: MissionHandle, on_stage: OnStage) -> None:
    async for stage in handle.stages():
        on_stage(stage)
