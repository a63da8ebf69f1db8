"""Starts missions, and follows them to their ends.

    python -m app.orchestrator --area AREA --robots N

A mission that was started ends, whoever dies: its journal is on the server, and the workers
(Celery, command listener, robots), which run already, drive it. `mission run` starts them too.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from app.config import get_settings
from app.exploration.map_files import find_map, load_map
from app.missions import artifacts
from app.missions.mission_saga import mission_runner, mission_saga
from app.redis_utils import get_bus, read_stream
from sagastream import SagastreamError
from sagastream.saga import Journal, SagaOutcome

MOST_ROBOTS = 64

OnStage = Callable[[dict[str, Any]], None]


class MissionTimeout(SagastreamError, TimeoutError):
    """A mission did not end in the time that it was given; it was compensated."""


class BadMission(SagastreamError, ValueError):
    """What was asked for cannot be a mission."""


@dataclass(frozen=True, slots=True)
class Mission:
    """What a mission is asked to do.

    Attributes:
        area: The name of a map in `MAP_DIR`.
        robot_count: From 1 to 64.
        seed: Equal seeds give equal missions.
        known_poses: Robots know where they are; otherwise each has its own map and frame.
    """

    area: str
    robot_count: int
    seed: int = 0
    known_poses: bool = True

    def check(self) -> None:
        """Refuse what cannot be a mission, before anything is started.

        Raises:
            BadMission: The number of robots, or the seed.
            MapError: The map; names the file and the fault.
        """
        if not 1 <= self.robot_count <= MOST_ROBOTS:
            raise BadMission(f"robots: must be from 1 to {MOST_ROBOTS}, not {self.robot_count}")
        if not 0 <= self.seed < 2**32:
            raise BadMission(f"seed: must be from 0 to {2**32 - 1}, not {self.seed}")
        load_map(find_map(get_settings().map_dir, self.area))


@dataclass(frozen=True, slots=True)
class MissionHandle:
    """A mission that was started.

    Attributes:
        saga_id: Its identity.
        input: What it was asked to do.
    """

    saga_id: str
    input: dict[str, Any]

    async def wait(self) -> SagaOutcome:
        """Wait for its end, forward or back.

        Raises:
            NoSuchSaga: It has ended and expired.
        """
        return await mission_runner().wait(self.saga_id)

    async def cancel(self, reason: str) -> Journal:
        """Have what it did undone in reverse, if it has not ended; do not wait for that."""
        return await mission_runner().compensate(self.saga_id, reason)

    async def stages(self) -> AsyncIterator[dict[str, Any]]:
        """Every stage of its steps as it comes, from the first; without end."""
        async for stage in read_stream(f"saga:{self.saga_id}:replies", follow=True):
            yield stage


async def run_saga(
    robot_count: int,
    area: str,
    *,
    seed: int = 0,
    saga_id: str | None = None,
    known_poses: bool = True,
) -> MissionHandle:
    """Start a mission.

    Args:
        robot_count: How many robots.
        area: The name of a map in `MAP_DIR`.
        seed: Equal seeds give equal missions.
        saga_id: Its identity; starting the same again is the same mission. New if None.
        known_poses: Robots know where they are; otherwise each has its own map and frame.

    Returns:
        At once, when the mission is written down.

    Raises:
        BadMission: What was asked for cannot be a mission.
        InvalidMessage: The id is no name of a folder.
        MapError: The map is missing, or no good.
        SagaError: The id belongs to a mission that was asked for otherwise.
        ServerUnavailable: The server did not answer.
    """
    mission = Mission(area, robot_count, seed, known_poses)
    await asyncio.to_thread(mission.check)
    await get_bus().ping()
    runner = mission_runner()
    saga_id = saga_id or runner.new_id()
    artifacts.folder(get_settings().out_dir, saga_id)  # its name must do for a folder
    payload: dict[str, Any] = {
        "area": area,
        "robot_count": robot_count,
        "seed": seed,
        "mission": saga_id,
    }
    if not known_poses:
        payload["known_poses"] = False
    return MissionHandle(await runner.start(payload, saga_id=saga_id), payload)


async def follow(handle: MissionHandle, on_stage: OnStage) -> SagaOutcome:
    """Wait for a mission's end.

    Args:
        handle: The mission.
        on_stage: Called with every stage of every step, in order.
    """
    telling = asyncio.create_task(_tell(handle, on_stage))
    try:
        return await handle.wait()
    finally:
        await _finish_telling(telling)


async def see_through(
    handle: MissionHandle, on_stage: OnStage, *, timeout: float | None = None
) -> SagaOutcome:
    """Follow a mission to its end; whoever does not want to wait longer undoes it.

    Args:
        handle: The mission.
        on_stage: Called with every stage of every step, in order.
        timeout: Seconds after which it is compensated; None for no limit of its own.

    Raises:
        MissionTimeout: It took too long; it has been compensated.
    """
    following = asyncio.create_task(follow(handle, on_stage))
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.shield(following)
    except TimeoutError:
        late = f"not done within {timeout:g} s"
        await handle.cancel(late)
        await following
        raise MissionTimeout(f"mission {handle.saga_id} was {late}") from None
    except asyncio.CancelledError:
        await handle.cancel("interrupted")
        await following
        raise


async def _tell(handle: MissionHandle, on_stage: OnStage) -> None:
    async for stage in handle.stages():
        on_stage(stage)


async def _finish_telling(telling: "asyncio.Task[None]") -> None:
    # The last stages are in the stream already: one more read brings them.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(telling), 0.2)
    telling.cancel()
    await asyncio.wait([telling])


def report(outcome: SagaOutcome, asked: dict[str, Any]) -> dict[str, Any]:
    """A mission's end as one JSON object; `asked` is the saga's input."""
    merged = outcome.results.get("integrate_maps", {})
    done = outcome.status == "completed"
    return {
        "saga_id": outcome.saga_id,
        "correlation_id": outcome.correlation_id,
        "trace_id": outcome.trace_id,
        "status": outcome.status,
        "steps": [_step_report(step.name, outcome) for step in mission_saga(get_settings()).steps],
        "coverage": merged.get("coverage") if done else None,
        "accuracy": merged.get("accuracy") if done else None,
        "partial": merged.get("partial", False) if done else None,
        "area": asked["area"],
        "robots": asked["robot_count"],
        "duration_s": round(outcome.duration_s, 3),
        "artifacts": merged.get("artifacts", {}) if done else {},
        **({"error": outcome.error} if outcome.error else {}),
    }


def _step_report(name: str, outcome: SagaOutcome) -> dict[str, Any]:
    forward = [e for e in outcome.entries if (e.step, e.direction) == (name, "forward")]
    undone = any(
        (e.step, e.direction, e.status) == (name, "undo", "completed") for e in outcome.entries
    )
    if not forward:
        return {"name": name, "status": "not started", "request_id": None, "duration_s": None}
    entry = forward[-1]
    return {
        "name": name,
        "status": "compensated" if undone and entry.status == "completed" else entry.status,
        "request_id": entry.request_id,
        "duration_s": None if entry.ended is None else round(entry.ended - entry.started, 3),
    }


def main() -> None:
    """Entry point of `python -m app.orchestrator`."""
    from app.cli.main import orchestrate  # noqa: PLC0415 - the CLI imports this module

    orchestrate()


if __name__ == "__main__":
    main()
