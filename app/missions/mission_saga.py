"""The mission as a saga: its four steps, what each is asked, what undoes it, who does it."""

import asyncio
import uuid
from typing import Any

from kombu.exceptions import OperationalError

from app.config import Settings, get_settings
from sagastream import ServerUnavailable
from sagastream._telemetry import spans
from sagastream._redis.connection import redact
from sagastream._telemetry.operations import server_of
from sagastream.saga import Compensation, Saga, SagaRunner, Step

Results = Any
# The queue of Celery's tasks.
TASKS = "celery"


def mission_saga(settings: Settings) -> Saga:
    """The declaration of a mission."""
    return Saga(
        "mission",
        (
            Step(
                "allocate_resources",
                settings.resources_stream,
                "resources:allocate",
                lambda mission, _: mission,
                Compensation("resources:release", _which),
                timeout=settings.allocate_timeout_s,
            ),
            Step(
                "plan_route",
                settings.routing_stream,
                "routing:plan",
                lambda mission, results: mission | results["allocate_resources"],
                timeout=settings.plan_timeout_s,
            ),
            Step(
                "perform_exploration",
                settings.exploration_stream,
                "exploration:perform",
                lambda mission, results: mission | results["plan_route"],
                Compensation(
                    "exploration:abort",
                    lambda mission, results: (
                        _which(mission, results) | results["allocate_resources"]
                    ),
                ),
                timeout=settings.explore_timeout_s,
            ),
            Step(
                "integrate_maps",
                settings.map_stream,
                "map:integrate",
                lambda mission, results: mission | results["perform_exploration"],
                Compensation("map:rollback", _which),
                timeout=settings.integrate_timeout_s,
            ),
        ),
    )


def _which(mission: dict[str, Any], _results: Results) -> dict[str, Any]:
    return {"mission": mission["mission"]}


def mission_runner() -> SagaRunner:
    """An engine of missions on this process's bus, whose steps Celery spreads."""
    from app.redis_utils import get_bus  # noqa: PLC0415 - a runner needs a server, a saga none

    settings = get_settings()
    return SagaRunner(
        get_bus(),
        mission_saga(settings),
        dispatch=dispatch,
        max_attempts=settings.undo_attempts,
        retry_s=settings.retry_s,
        wake_after_s=settings.wake_after_s,
    )


async def dispatch(saga_id: str, step: str) -> None:
    """Send the Celery task that moves a mission on through a step.

    Raises:
        ServerUnavailable: The broker does not answer.
    """
    # Celery reads the broker's address when its application is imported: not before it is known.
    from app.tasks import STEP_TASKS  # noqa: PLC0415

    settings = get_settings()
    task, task_id = STEP_TASKS[step], str(uuid.uuid4())
    about = {"saga_id": saga_id, "step": step, "entry_id": task_id}
    with spans.sending(server_of(settings.redis_url), TASKS, about):
        options = {
            "task_id": task_id,
            "headers": spans.carrier(),
            # One that nobody took for so long has been sent again.
            "expires": 3 * settings.wake_after_s,
        }
        try:
            await asyncio.to_thread(task.apply_async, (saga_id,), **options)
        except OperationalError as error:
            raise ServerUnavailable(redact(settings.broker_url), str(error)) from error
