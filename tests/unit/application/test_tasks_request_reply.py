import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app import tasks
from app.celery_app import celery_app
from app.config import get_settings
from app.missions.mission_saga import mission_runner
from sagastream import Bus, Command, Handler, Progress
from tests.listeners import listening

MISSION = {"area": "office", "robot_count": 2, "seed": 0, "mission": "m1"}
_STREAMS = {
    "resources:allocate": "resources:commands",
    "resources:release": "resources:commands",
    "routing:plan": "routing:commands",
    "exploration:perform": "exploration:commands",
    "exploration:abort": "exploration:commands",
    "map:integrate": "map:commands",
    "map:rollback": "map:commands",
}
_TASKS = [
    tasks.allocate_resources,
    tasks.plan_route,
    tasks.perform_exploration,
    tasks.integrate_maps,
]


@pytest.fixture(autouse=True)
async def close_worker_loop(app_bus: Bus) -> AsyncIterator[None]:
    """Close the connections of the tasks' own event loop.

    A worker binds its tasks when it starts; tasks that are bound by their first call fail if
    several threads make it at once.
    """
    celery_app.finalize(auto=True)
    yield
    await asyncio.to_thread(tasks.run_in_loop, app_bus.close())


class Recorder:
    """Handlers of every command of a mission that only record their payloads."""

    def __init__(self, *failing: str) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._failing = failing

    def handlers(self) -> list[Handler]:
        return [Handler(stream, event, self._handle) for event, stream in _STREAMS.items()]

    async def _handle(self, command: Command, progress: Progress) -> dict[str, Any]:
        self.asked.append((command.event_type, command.payload))
        await progress(0.5)
        if command.event_type in self._failing:
            raise RuntimeError(f"{command.event_type} cannot be done")
        return {"robots": ["robot-1"], command.event_type.replace(":", "_"): True}

    def events(self) -> list[str]:
        return [event for event, _ in self.asked]


async def _do(task: Any, saga_id: str) -> None:
    """Call a task in a thread, as a Celery worker does."""
    await asyncio.to_thread(task, saga_id)


async def test_each_task_runs_its_step_and_records_the_result(
    app_bus: Bus, sent: list[tuple[str, str]]
) -> None:
    """A step gets the input and earlier results, and sends the task of the next step."""
    recorder = Recorder()
    async with listening(app_bus, recorder.handlers()):
        saga_id = await mission_runner().start(MISSION, saga_id="m1")
        for task in _TASKS:
            await _do(task, saga_id)
    journal = await mission_runner().journal(saga_id)
    assert journal.status == "completed"
    assert recorder.events() == [
        "resources:allocate",
        "routing:plan",
        "exploration:perform",
        "map:integrate",
    ]
    assert recorder.asked[1][1]["robots"] == ["robot-1"]
    assert recorder.asked[3][1]["exploration_perform"] is True
    assert sent == [("m1", task.name) for task in _TASKS]


@pytest.mark.invariant(10)
async def test_a_task_that_is_repeated_or_early_does_nothing(app_bus: Bus) -> None:
    """Repeated, late and reordered deliveries have no effect."""
    recorder = Recorder()
    async with listening(app_bus, recorder.handlers()):
        saga_id = await mission_runner().start(MISSION, saga_id="m1")
        for task in reversed(_TASKS):
            await _do(task, saga_id)
        assert recorder.events() == ["resources:allocate"]
        for task in _TASKS:
            await _do(task, saga_id)
            await _do(task, saga_id)
    assert recorder.events() == [
        "resources:allocate",
        "routing:plan",
        "exploration:perform",
        "map:integrate",
    ]


async def test_the_same_task_twice_at_once_runs_its_step_once(app_bus: Bus) -> None:
    """Concurrent deliveries of one task give one request."""
    recorder = Recorder()
    async with listening(app_bus, recorder.handlers()):
        saga_id = await mission_runner().start(MISSION, saga_id="m1")
        await asyncio.gather(*(_do(tasks.allocate_resources, saga_id) for _ in range(5)))
    assert recorder.events() == ["resources:allocate"]


async def test_after_a_failure_the_same_tasks_compensate_in_reverse(app_bus: Bus) -> None:
    """The failed step is compensated too, then the earlier ones."""
    recorder = Recorder("map:integrate")
    async with listening(app_bus, recorder.handlers()):
        saga_id = await mission_runner().start(MISSION, saga_id="m1")
        for task in _TASKS:
            await _do(task, saga_id)
        for task in reversed(_TASKS):
            await _do(task, saga_id)
    assert recorder.events()[4:] == ["map:rollback", "exploration:abort", "resources:release"]
    journal = await mission_runner().journal(saga_id)
    assert journal.status == "compensated"
    assert journal.error["message"] == "map:integrate cannot be done"
    assert journal.error["error_type"] == "RuntimeError"


async def test_a_sagas_records_live_until_it_ends(app_bus: Bus) -> None:
    """Records expire only after the mission has ended."""
    recorder = Recorder()
    call = app_bus.command
    async with listening(app_bus, recorder.handlers()):
        saga_id = await mission_runner().start(MISSION, saga_id="m1")
        await _do(tasks.allocate_resources, saga_id)
        journal = await mission_runner().journal(saga_id)
        record = app_bus.key(f"request:{journal.entries[0].request_id}")
        assert await call("PTTL", record) == -1
        for task in _TASKS[1:]:
            await _do(task, saga_id)
    assert await call("PTTL", record) > 0
    assert await call("PTTL", app_bus.key(f"saga:{saga_id}")) > 0


@pytest.mark.invariant(10)
def test_celery_tolerates_lost_and_repeated_messages() -> None:
    """These settings were found to matter by fault tests."""
    conf = celery_app.conf
    assert conf.task_acks_late is True
    assert conf.task_reject_on_worker_lost is False
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_ignore_result is True


@pytest.mark.parametrize(
    "name", ["allocate_resources", "plan_route", "perform_exploration", "integrate_maps"]
)
def test_the_four_steps_are_tasks_by_their_names(name: str) -> None:
    """Task names are fixed, so that tasks of another release are found."""
    assert name in celery_app.tasks
    assert get_settings().celery_concurrency > 0
