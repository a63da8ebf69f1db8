"""Runs one mission: checks what was asked, drives the saga, says how it ended.

    python -m app.orchestrator --area AREA --robots N

The workers (Celery, command listener, robots) run already; `mission run` starts them too.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from kombu.exceptions import OperationalError

from app.config import get_settings
from app.exploration.map_files import find_map, load_map
from app.redis_utils import get_bus
from app.saga import mission_runner, mission_saga
from sagastream import SagastreamError, ServerUnavailable
from sagastream.connection import redact
from sagastream.message import decode_reply
from sagastream.saga import SagaOutcome

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
    """

    area: str
    robot_count: int
    seed: int = 0

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


async def start_saga(mission: Mission, *, saga_id: str | None = None) -> str:
    """Write the journal of a new mission; returns its saga id."""
    runner = mission_runner()
    saga_id = saga_id or runner.new_id()
    payload = {"area": mission.area, "robot_count": mission.robot_count, "seed": mission.seed}
    return await runner.start(payload | {"mission": saga_id}, saga_id=saga_id)


async def run_saga(
    robot_count: int,
    area: str,
    *,
    seed: int = 0,
    timeout: float | None = None,
    on_stage: OnStage | None = None,
) -> SagaOutcome:
    """Run a mission to its end: forward, or back when a step fails.

    Args:
        robot_count: How many robots.
        area: The name of a map in `MAP_DIR`.
        seed: Equal seeds give equal missions.
        timeout: Seconds after which it is compensated; None for no limit of its own.
        on_stage: Called with every stage of every step, in order.

    Raises:
        BadMission: What was asked for cannot be a mission.
        MapError: The map is missing, or no good.
        MissionTimeout: It took too long; it has been compensated.
        ServerUnavailable: The server did not answer.
    """
    mission = Mission(area, robot_count, seed)
    mission.check()
    await get_bus().ping()
    saga_id = await start_saga(mission)
    telling = asyncio.create_task(_tell(saga_id, on_stage)) if on_stage else None
    runner = mission_runner()
    driving = asyncio.create_task(runner.run(saga_id, dispatch=_dispatch))
    try:
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(driving)
        except TimeoutError:
            await _turn_back(driving, saga_id, f"not done within {timeout:g} s")
            raise MissionTimeout(f"mission {saga_id} was not done within {timeout:g} s") from None
        except asyncio.CancelledError:
            await _turn_back(driving, saga_id, "interrupted")
            raise
    finally:
        if telling:
            await _finish_telling(telling)


async def _turn_back(driving: "asyncio.Task[SagaOutcome]", saga_id: str, reason: str) -> None:
    driving.cancel()
    await asyncio.wait([driving])
    runner = mission_runner()
    await runner.compensate(saga_id, reason)
    await runner.run(saga_id, dispatch=_dispatch)


async def _dispatch(saga_id: str, step: str) -> None:
    # Celery reads the broker's address when its application is imported: not before it is known.
    from app.tasks import STEP_TASKS  # noqa: PLC0415

    try:
        await asyncio.to_thread(STEP_TASKS[step].apply_async, (saga_id,))
    except OperationalError as error:
        raise ServerUnavailable(redact(get_settings().broker_url), str(error)) from error


async def stages(saga_id: str) -> AsyncIterator[dict[str, Any]]:
    """Every stage of a mission's steps as it comes, from the first; without end."""
    bus = get_bus()
    key, last = bus.key(f"saga:{saga_id}:replies"), b"0-0"
    while True:
        try:
            answer = await bus.endpoint().connection.block(
                "XREAD", "COUNT", 100, "BLOCK", 500, "STREAMS", key, last
            )
        except (SagastreamError, OSError):
            await asyncio.sleep(0.5)
            continue
        for _, entries in answer or []:
            for entry_id, raw in entries:
                last = entry_id
                yield decode_reply(raw, max_bytes=get_settings().max_payload)


async def _tell(saga_id: str, on_stage: OnStage) -> None:
    async for stage in stages(saga_id):
        on_stage(stage)


async def _finish_telling(telling: "asyncio.Task[None]") -> None:
    # The last stages are in the stream already: one more read brings them.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(telling), 0.2)
    telling.cancel()
    await asyncio.wait([telling])


def report(outcome: SagaOutcome, mission: Mission) -> dict[str, Any]:
    """A mission's end as one JSON object."""
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
        "robots": mission.robot_count,
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
    from app.cli import orchestrate  # noqa: PLC0415 - the CLI imports this module

    orchestrate()


if __name__ == "__main__":
    main()
