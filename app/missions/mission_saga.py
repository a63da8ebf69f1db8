"""The mission's saga: its steps, the payload and the compensation of each, and its runner.

The order of compensations follows from the order of the steps declared here: steps that were
started are undone in reverse.
"""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from kombu.exceptions import OperationalError

from app.config import Settings, get_settings
from app.event_types import (
    EXPLORATION_ABORT,
    EXPLORATION_PERFORM,
    MAP_INTEGRATE,
    MAP_ROLLBACK,
    RESOURCES_ALLOCATE,
    RESOURCES_RELEASE,
    ROUTING_PLAN,
)
from app.redis_utils import get_bus
from sagastream import RetryPolicy, ServerUnavailable
from sagastream.saga import Compensation, Journal, Saga, SagaRunner, Step, WaitFor
from sagastream.tracing import send_span

APPROVAL = "approval"
"""The wait for a person's approval, in missions that ask for it."""

_WITH_APPROVAL = 2
# Robots charge within minutes; what no wait can change fails at once. The attempts are in the journal.
_WHILE_ROBOTS_CHARGE = RetryPolicy(
    attempts=30, first_delay_s=2.0, factor=1.5, max_delay_s=20.0, retry_on=("RobotsCharging",)
)
_Payload = dict[str, Any]
_Results = Mapping[str, _Payload]


class Rejected(Exception):
    """A person has rejected a mission's exploration; the message has the reason."""


def mission_saga(settings: Settings, *, approval: bool = False) -> Saga:
    """Declare the mission's saga; streams and timeouts come from the settings.

    Args:
        settings: The settings.
        approval: Whether it waits for a person's approval before the maps are merged. That is a
            version of the declaration: each mission goes on with the one that it began with.
    """
    allocate, plan, explore, integrate = _steps(settings)
    if not approval:
        return Saga("mission", (allocate, plan, explore, integrate))
    wait = WaitFor(APPROVAL, timeout=settings.approval_timeout_s, accept=_require_approved)
    return Saga("mission", (allocate, plan, explore, wait, integrate), version=_WITH_APPROVAL)


def declaration_of(journal: Journal) -> Saga:
    """The declaration that a mission began with."""
    return mission_saga(get_settings(), approval=journal.version == _WITH_APPROVAL)


def _require_approved(decision: _Payload) -> bool:
    if decision.get("approved") is True:
        return True
    raise Rejected(str(decision.get("reason") or "no reason was given"))


def _steps(settings: Settings) -> tuple[Step, Step, Step, Step]:
    return (
        Step(
            "allocate_resources",
            settings.resources_stream,
            RESOURCES_ALLOCATE,
            lambda mission, _: mission,
            Compensation(RESOURCES_RELEASE, _mission_id),
            timeout=settings.allocate_timeout_s,
            retries=_WHILE_ROBOTS_CHARGE,
        ),
        Step(
            "plan_route",
            settings.routing_stream,
            ROUTING_PLAN,
            lambda mission, results: mission | results["allocate_resources"],
            timeout=settings.plan_timeout_s,
        ),
        Step(
            "perform_exploration",
            settings.exploration_stream,
            EXPLORATION_PERFORM,
            lambda mission, results: mission | results["plan_route"],
            Compensation(EXPLORATION_ABORT, _mission_id_and_robots),
            timeout=settings.explore_timeout_s,
        ),
        Step(
            "integrate_maps",
            settings.map_stream,
            MAP_INTEGRATE,
            lambda mission, results: mission | results["perform_exploration"],
            Compensation(MAP_ROLLBACK, _mission_id),
            timeout=settings.integrate_timeout_s,
        ),
    )


def _mission_id(mission: _Payload, _results: _Results) -> _Payload:
    return {"mission": mission["mission"]}


def _mission_id_and_robots(mission: _Payload, results: _Results) -> _Payload:
    return _mission_id(mission, results) | results["allocate_resources"]


def mission_runner(*, approval: bool = False) -> SagaRunner:
    """Return a runner of missions on this process's bus that dispatches steps through Celery.

    Args:
        approval: Whether the missions that it starts wait for a person's approval. It drives all.
    """
    settings = get_settings()
    return SagaRunner(
        get_bus(),
        mission_saga(settings, approval=approval),
        older=(mission_saga(settings, approval=not approval),),
        dispatch=dispatch,
        max_attempts=settings.undo_attempts,
        retry_s=settings.retry_s,
        wake_after_s=settings.wake_after_s,
        keep_s=settings.retention_s,
        keep_moves_s=settings.retention_s,  # the page shows them
    )


async def dispatch(saga_id: str, step: str) -> None:
    """Send the Celery task that moves a mission through a step.

    Raises:
        ServerUnavailable: The broker does not answer.
    """
    # The import reads the broker's address, which a command line may change until then.
    from app.celery_app import TASK_QUEUE, celery_app  # noqa: PLC0415

    settings = get_settings()
    task_id = str(uuid.uuid4())
    fields = {"saga_id": saga_id, "step": step, "entry_id": task_id}
    with send_span(settings.celery_url, TASK_QUEUE, fields) as headers:
        options = {
            "task_id": task_id,
            "headers": headers,
            # A task that waited this long was replaced: the listener has sent another one.
            "expires": 3 * settings.wake_after_s,
        }
        try:
            await asyncio.to_thread(celery_app.send_task, step, (saga_id,), **options)
        except OperationalError as error:
            raise ServerUnavailable(get_bus().address, str(error)) from error
