"""Sagas whose runners have a wrong clock: the times in a journal are the server's."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from sagastream import Bus, Command, Handler, Progress
from sagastream.saga import Compensation, Journal, Saga, SagaRunner, Step
from sagastream.saga.journal import stamp
from sagastream.saga.journal_json import dump, load
from sagastream.saga.state import NOW
from tests.listeners import listening
from tests.polling import eventually

pytestmark = pytest.mark.timeout(60)

STREAM = "trip:commands"
TIMEOUT_S = 300.0
HOUR_S = 3600.0
CLOCKS = {"ahead": [HOUR_S], "behind": [-HOUR_S], "jumping": [HOUR_S, -HOUR_S]}


def _step(name: str, **options: Any) -> Step:
    undo = Compensation(f"{name}:undo", lambda data, _results: data)
    do = f"{name}:do"
    return Step(name, STREAM, do, lambda data, _results: data, undo, TIMEOUT_S, **options)


TRIP = Saga("trip", (_step("a", retries=1), _step("b")))


class Recorder:
    """Handlers of both steps, which record their calls; `a` may fail once.

    Attributes:
        ran: The event types of the calls, in order.
        began: When each began, by the loop's clock.
    """

    def __init__(self, *, fails_once: bool = False) -> None:
        self.ran: list[str] = []
        self.began: list[float] = []
        self._fails = fails_once

    def handlers(self) -> list[Handler]:
        types = [f"{name}:{what}" for name in "ab" for what in ("do", "undo")]
        return [Handler(STREAM, event_type, self._handle) for event_type in types]

    async def _handle(self, command: Command, _progress: Progress) -> dict[str, Any]:
        self.ran.append(command.event_type)
        self.began.append(asyncio.get_running_loop().time())
        if self._fails:
            self._fails = False
            raise RuntimeError("not the first time")
        return {}


@pytest.fixture(params=list(CLOCKS))
def set_clock(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Make the wall clock of this process wrong, from the call on."""
    offsets, right = itertools.cycle(CLOCKS[request.param]), time.time

    def wrong() -> float:
        return right() + next(offsets)

    return lambda: monkeypatch.setattr(time, "time", wrong)


@pytest.fixture
def timeouts(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The timeout of each request that the bus sends, in seconds."""
    used: list[float] = []
    send = bus.request_and_reply

    async def note(*args: Any, **options: Any) -> dict[str, Any]:
        used.append(options["timeout"])
        return await send(*args, **options)

    monkeypatch.setattr(bus, "request_and_reply", note)
    return used


async def _server_s(bus: Bus) -> float:
    seconds, micros = await bus.command("TIME")
    return float(seconds + micros / 1e6)


@pytest.mark.invariant(11)
async def test_a_healthy_saga_keeps_its_timeouts(
    bus: Bus, set_clock: Callable[[], None], timeouts: list[float]
) -> None:
    """A runner with a wrong clock waits as long as one with a right clock, also re-attached."""
    recorder = Recorder()
    saga_id = await SagaRunner(bus, TRIP).start({})
    first = asyncio.create_task(SagaRunner(bus, TRIP).run(saga_id))
    await eventually(lambda: timeouts, within_s=10, why="the first request was sent")
    first.cancel()
    await asyncio.wait([first])
    set_clock()
    async with listening(bus, recorder.handlers()):
        outcome = await SagaRunner(bus, TRIP).run(saga_id)
    assert outcome.status == "completed"
    assert recorder.ran == ["a:do", "b:do"]
    assert len(timeouts) == 3
    assert all(TIMEOUT_S - 30 < timeout <= TIMEOUT_S for timeout in timeouts), timeouts


@pytest.mark.invariant(11)
async def test_a_retry_is_neither_early_nor_late(bus: Bus, set_clock: Callable[[], None]) -> None:
    """A runner with a wrong clock waits as long as the journal says."""
    recorder = Recorder(fails_once=True)
    runner = SagaRunner(bus, TRIP, retry_s=0.5)
    saga_id = await runner.start({})
    async with listening(bus, recorder.handlers()), asyncio.timeout(30):
        await runner.advance(saga_id)
        set_clock()
        assert (await SagaRunner(bus, TRIP, retry_s=0.5).run(saga_id)).status == "completed"
    assert recorder.ran == ["a:do", "a:do", "b:do"]
    # The wait begins when the failure is written, a moment after the handler began.
    assert recorder.began[1] - recorder.began[0] > 0.49


@pytest.mark.invariant(9)
async def test_the_times_in_a_journal_are_the_servers(
    bus: Bus, set_clock: Callable[[], None]
) -> None:
    """The runner that writes them has the same times in its copy."""
    recorder = Recorder(fails_once=True)
    set_clock()
    before = await _server_s(bus)
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP, retry_s=0.01)
        saga_id = await runner.start({})
        outcome = await runner.run(saga_id)
    journal, after = await runner.journal(saga_id), await _server_s(bus)
    assert journal.entries == outcome.entries
    times = [journal.started]
    times += [at for entry in journal.entries for at in (entry.started, entry.ended or 0.0)]
    # The server writes milliseconds, without rounding up.
    assert before - 0.001 <= times[0]
    assert times == sorted(times)
    assert times[-1] <= after
    assert 0 <= outcome.duration_s <= after - before


def test_only_times_are_stamped() -> None:
    """Text and fields of the user that look like a time to replace stay as they are."""
    given = {"started": "\x01", "text": '"started":Infinity,"ended":Infinity', "ended": None}
    journal = Journal("s", "trip", "c", given, started=NOW)
    text = dump(journal)
    assert text.count("\x01") == 1
    assert load(text.replace("\x01", "12.5")) == stamp(journal, 12.5)
    assert stamp(journal, 12.5).started == 12.5
    assert stamp(journal, 12.5).input == given
