"""Commands that are not run before their time."""

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    InvalidMessage,
    ReplyTimeout,
    RequestCancelled,
    Unique,
    multi_stage_reply,
)
from sagastream.errors import SagaError
from sagastream.saga import Saga, SagaRunner, Step
from sagastream.status import request_status
from tests.listeners import listening
from tests.plain_client import call
from tests.polling import eventually

STREAM = "work:commands"
LENGTH = f"{STREAM}:later:length"
begun: dict[str, float] = {}


@multi_stage_reply(stream=STREAM, event_type="work:do")
async def work(command: Command) -> dict[str, Any]:
    """Note when it began."""
    begun[command.request_id] = time.time()
    return {}


@pytest.fixture(autouse=True)
def nothing_begun() -> None:
    """Each test notes its own times."""
    begun.clear()


async def _emit(bus: Bus, request_id: str, **options: Any) -> str:
    return await bus.emit_command(
        STREAM, event_type="work:do", payload={}, request_id=request_id, **options
    )


async def test_a_command_begins_at_its_time(bus: Bus) -> None:
    """Not before, and soon after; by a delay, or by a time with a zone."""
    async with listening(bus, [work]):
        emitted = time.time()
        zone = timedelta(hours=5, minutes=30)
        at = datetime.fromtimestamp(emitted + 0.6, tz=UTC)
        assert await _emit(bus, "delayed", delay_s=0.3) == "0-0"
        await _emit(bus, "timed", not_before=at.astimezone(timezone(zone)))
        await _emit(bus, "both", delay_s=0.1, not_before=at)
        await _emit(bus, "past", not_before=at - timedelta(days=1))
        await eventually(lambda: len(begun) == 4, within_s=10, why="all have begun")
    assert begun["past"] < begun["timed"]
    assert emitted + 0.3 <= begun["delayed"] < emitted + 0.3 + 5.0
    for name in ("timed", "both"):
        assert emitted + 0.6 <= begun[name] < emitted + 0.6 + 5.0


async def test_a_requester_waits_for_it(bus: Bus) -> None:
    """Its reply comes as any other; the same id again writes nothing more."""
    async with listening(bus, [work]):
        replies = await asyncio.gather(
            *(
                bus.request_and_reply(STREAM, "work:do", {}, 10, request_id="r", delay_s=0.3)
                for _ in range(3)
            )
        )
    assert {reply["status"] for reply in replies} == {"completed"}
    assert list(begun) == ["r"]


async def test_it_holds_nothing_while_it_waits(bus: Bus) -> None:
    """It is shown, can be cancelled, and a timeout says what it waits for."""
    async with listening(bus, [work]):
        await _emit(bus, "r", delay_s=3600)
        assert await call(bus, "XLEN", STREAM) == 0
        status = await request_status(bus, "r")
        assert status
        assert (status.status, status.attempts) == ("pending", 0)
        assert status.due_s is not None
        assert 3500 < status.due_s <= 3600
        with pytest.raises(ReplyTimeout, match=r"attempt 1 is due in 3[56]"):
            await bus.request_and_reply(STREAM, "work:do", {}, 1.0, request_id="r")
        assert await bus.cancel("r") == "cancelled"
    assert not await call(bus, "EXISTS", f"{STREAM}:later")
    assert begun == {}


async def test_it_waits_without_any_process(bus: Bus) -> None:
    """A listener that comes after its time handles it at once, in the order of the times."""
    names = [f"r{number}" for number in range(20)]
    last = datetime.now(tz=UTC) + timedelta(seconds=0.4)
    for number, name in enumerate(names):
        await _emit(bus, name, not_before=last - timedelta(seconds=number / 100))

    async def are_due() -> bool:
        return datetime.now(tz=UTC) > last and int(await call(bus, "GET", LENGTH)) == 20

    await eventually(are_due, within_s=5, why="all are due")
    async with listening(bus, [work], concurrency=1):
        await eventually(lambda: len(begun) == 20, within_s=10, why="all have begun")
    assert sorted(begun, key=begun.__getitem__) == names[::-1]


async def test_many_that_are_due_at_once_are_all_moved(bus: Bus) -> None:
    """One sweep moves a limited number; the next one follows at once."""
    await asyncio.gather(*(_emit(bus, f"r{number}", delay_s=0.2) for number in range(450)))
    async with listening(bus, [work], lease_s=60):
        await eventually(lambda: len(begun) == 450, within_s=10, why="all have begun")
    assert not await call(bus, "EXISTS", f"{STREAM}:later")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"delay_s": -1}, "delay_s"),
        ({"delay_s": float("nan")}, "delay_s"),
        ({"delay_s": "soon"}, "delay_s"),
        ({"not_before": 1_800_000_000}, "not_before"),
        ({"not_before": datetime(2030, 1, 1)}, "not_before"),  # noqa: DTZ001 - that is the point
        ({"delay_s": 2, "deadline_s": 1}, "deadline_s"),
        ({"delay_s": 2, "maxlen": 10}, "maxlen"),
        ({"delay_s": 2, "ttl": 10}, "ttl"),
    ],
)
async def test_a_wrong_time_is_refused(bus: Bus, options: dict[str, Any], named: str) -> None:
    """The error names the option, and nothing is written."""
    with pytest.raises(InvalidMessage, match=named):
        await _emit(bus, "r", **options)
    assert await request_status(bus, "r") is None


async def test_a_delay_of_nothing_is_none(bus: Bus) -> None:
    """The command is in its stream at once."""
    assert await _emit(bus, "r", delay_s=0) != "0-0"
    await bus.cancel("r")


async def test_a_step_of_a_saga_can_wait(bus: Bus) -> None:
    """Its timeout counts from the end of the wait; the steps after it come later."""
    saga = Saga(
        "trip",
        (
            Step("first", STREAM, "work:do", lambda _given, _results: {}, delay_s=4.5, timeout=4.0),
            Step("second", STREAM, "work:do", lambda _given, _results: {}),
        ),
    )
    runner = SagaRunner(bus, saga)
    async with listening(bus, [work]):
        started = time.time()
        outcome = await runner.run(await runner.start({}))
    assert outcome.status == "completed"
    first, second = sorted(begun.values())
    assert started + 4.5 <= first <= second


@pytest.mark.parametrize("delay_s", [-1.0, float("inf"), float("nan")])
def test_a_step_with_a_wrong_delay_is_refused(delay_s: float) -> None:
    """When it is declared."""
    with pytest.raises(SagaError, match="delay_s"):
        Step("first", STREAM, "work:do", lambda _given, _results: {}, delay_s=delay_s)


async def test_the_first_of_a_window_is_kept(bus: Bus) -> None:
    """The others write nothing; another key has another window, and so has a later time."""
    unique = Unique("k", window_s=2.0)
    first = await _emit(bus, "first", unique=unique)
    assert await _emit(bus, "second", unique=unique) == first
    assert await _emit(bus, "first", unique=unique) == first
    assert await _emit(bus, "other", unique=Unique("other", window_s=0.4)) != first
    assert await request_status(bus, "second") is None

    async def is_over() -> bool:
        return not await call(bus, "EXISTS", f"{STREAM}:unique:k")

    await eventually(is_over, within_s=5, why="the window is over")
    assert await _emit(bus, "third", unique=unique) != first
    async with listening(bus, [work]):
        await eventually(lambda: len(begun) == 3, within_s=10, why="three have begun")
    assert set(begun) == {"first", "other", "third"}


async def test_the_last_of_a_window_is_kept(bus: Bus) -> None:
    """Each one replaces the one before, and begins a window after it was emitted."""
    unique = Unique("k", window_s=1.5, keep="last")
    async with listening(bus, [work]):
        for name in ("first", "second", "third"):
            emitted = time.time()
            assert await _emit(bus, name, unique=unique) == "0-0"
        await eventually(lambda: begun, within_s=10, why="one has begun")
    assert set(begun) == {"third"}
    assert begun["third"] >= emitted + 1.49
    for name in ("first", "second"):
        with pytest.raises(RequestCancelled):
            await bus.request_and_reply(STREAM, "work:do", {}, 5, request_id=name)


async def test_a_window_that_is_always_renewed_ends(bus: Bus) -> None:
    """After the longest wait of its first command."""
    unique = Unique("k", window_s=1.5, keep="last", max_wait_s=2.0)
    async with listening(bus, [work]):
        emitted, count = time.time(), 0
        while not begun:
            count += 1
            await _emit(bus, f"r{count}", unique=unique)
            await asyncio.sleep(0.02)  # as a person types
        assert time.time() - emitted < 20
        await eventually(lambda: f"r{count}" in begun, within_s=10, why="the last one, too")
    assert emitted + 1.99 <= min(begun.values())
    assert len(begun) <= 2, "those of one window were replaced"


async def test_what_has_begun_is_not_replaced(bus: Bus) -> None:
    """A command of a new window waits for itself."""
    unique = Unique("k", window_s=0.05, keep="last")
    async with listening(bus, [work]):
        await _emit(bus, "first", unique=unique)
        await eventually(lambda: "first" in begun, within_s=10, why="the first has begun")
        await _emit(bus, "second", unique=unique)
        await eventually(lambda: "second" in begun, within_s=10, why="the second has begun")


@pytest.mark.parametrize(
    "options",
    [
        {"key": ""},
        {"window_s": 0.0},
        {"window_s": float("inf")},
        {"keep": "both"},
        {"max_wait_s": 5.0},
    ],
    ids=str,
)
def test_a_window_that_means_nothing_is_refused(options: dict[str, Any]) -> None:
    """When it is made, with the field named."""
    given: dict[str, Any] = {"key": "k", "window_s": 1.0}
    with pytest.raises(ValueError, match=next(iter(options))):
        Unique(**(given | options))
