"""Compensations that find no listener of their type for a while, as in a rolling restart."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    Handler,
    NoHandlers,
    Progress,
    ReplyTimeout,
    RequestFailed,
    SagastreamError,
)
from sagastream.saga import Compensation, JournalEntry, Saga, SagaOutcome, SagaRunner, Step
from tests.listeners import listening
from tests.polling import eventually

pytestmark = pytest.mark.timeout(60)

STREAM = "trip:commands"
TRIP = Saga(
    "trip",
    (
        Step(
            *("a", STREAM, "a:do", lambda data, _results: data),
            Compensation("a:undo", lambda data, _results: data),
        ),
    ),
)


async def _fail(_command: Command, _progress: Progress) -> dict[str, Any]:
    raise RuntimeError("cannot be done")


async def _undo(_command: Command, _progress: Progress) -> dict[str, Any]:
    return {}


FORWARD, UNDO = Handler(STREAM, "a:do", _fail), Handler(STREAM, "a:undo", _undo)


def _failed(error_type: str) -> RequestFailed:
    return RequestFailed({"payload": {"error_type": error_type, "message": "m", "trace_id": ""}})


UNHANDLED: dict[str, Callable[[], SagastreamError]] = {
    "UnknownEventType": lambda: _failed("UnknownEventType"),
    "NoHandlers": lambda: NoHandlers("r", 1.0, None, "not begun: no live listener"),
    "not begun": lambda: ReplyTimeout("r", 1.0, None, "not begun"),
}
HANDLED: dict[str, Callable[[], SagastreamError]] = {
    "failed": lambda: _failed("RuntimeError"),
    "nested": lambda: _failed("NoHandlers"),
    "begun": lambda: ReplyTimeout("r", 1.0, "start", "held by a listener"),
    "lost": lambda: _failed("HandlerLost"),
}


async def _run_with(
    bus: Bus,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], SagastreamError],
    failing: str = "a:undo",
) -> SagaOutcome:
    """Run a saga of which a command ends with an error five times, and then is handled."""
    left = iter(range(5))
    send = bus.request_and_reply

    async def send_or_fail(stream: str, event_type: str, *args: Any, **options: Any) -> Any:
        if event_type == failing and next(left, None) is not None:
            raise make()
        return await send(stream, event_type, *args, **options)

    monkeypatch.setattr(bus, "request_and_reply", send_or_fail)
    async with listening(bus, [FORWARD, UNDO]):
        runner = SagaRunner(bus, TRIP, max_attempts=2, retry_s=0.01)
        return await runner.run(await runner.start({}))


def _undos(entries: tuple[JournalEntry, ...]) -> list[JournalEntry]:
    return [entry for entry in entries if entry.direction == "undo"]


@pytest.mark.parametrize("kind", UNHANDLED)
@pytest.mark.invariant(9)
async def test_a_compensation_waits_for_a_listener(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """More attempts than `max_attempts` that no handler began do not make it stuck."""
    outcome = await _run_with(bus, monkeypatch, UNHANDLED[kind])
    assert outcome.status == "compensated"
    assert [entry.status for entry in _undos(outcome.entries)] == ["failed"] * 5 + ["completed"]


@pytest.mark.parametrize("kind", HANDLED)
@pytest.mark.invariant(9)
async def test_a_compensation_that_a_handler_began_is_stuck_at_once(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It has `max_attempts`, and no more."""
    outcome = await _run_with(bus, monkeypatch, HANDLED[kind])
    assert outcome.status == "stuck"
    assert len(_undos(outcome.entries)) == 2


async def test_a_forward_step_has_its_retries(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only compensations are tried again because no handler began."""
    outcome = await _run_with(bus, monkeypatch, UNHANDLED["UnknownEventType"], "a:do")
    assert outcome.status == "compensated"
    assert outcome.error == {"error_type": "UnknownEventType", "message": "m", "trace_id": ""}
    assert len(outcome.entries) == 2


async def test_a_restarted_listener_compensates(bus: Bus) -> None:
    """The listener of the compensation comes when the compensation has already been sent."""
    runner = SagaRunner(bus, TRIP, max_attempts=1, retry_s=0.01)
    saga_id = await runner.start({})
    async with listening(bus, [FORWARD]):
        running = asyncio.create_task(runner.run(saga_id))

        async def is_undo_sent() -> bool:
            return bool(_undos((await runner.journal(saga_id)).entries))

        await eventually(is_undo_sent, within_s=30, why="the compensation is sent")
        async with listening(bus, [UNDO]):
            outcome = await running
    assert outcome.status == "compensated"
