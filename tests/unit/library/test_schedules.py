"""Schedules on a server: fired once by any listener, and changed by operators and by code."""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    CommandListener,
    InvalidMessage,
    Priority,
    RegistrationError,
    Schedule,
    UnknownLayout,
    multi_stage_reply,
)
from sagastream._client.firing import PlannedFiring, fire, plan, schedule_keys
from sagastream._schedules.schedule import encode_schedule
from sagastream._worker.scheduler import Scheduler
from sagastream.inspection import NoSuchId
from sagastream.schedules import (
    CannotChange,
    ScheduleStatus,
    drop_schedule,
    find_schedules,
    overdue,
    pause_schedule,
    read_schedule,
    resolve_schedule,
    resume_schedule,
    run_schedule,
    set_schedule,
)
from sagastream.status import request_status
from sagastream.testing import Fault, FaultProxy
from sagastream.testing.fault_proxy import Plan
from tests.listeners import listening
from tests.plain_client import call
from tests.polling import eventually

STREAM = "clock:commands"
began: list[str] = []
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def nothing_began() -> None:
    """Each test notes its own requests."""
    global may_end  # noqa: PLW0603 - an event belongs to the loop of its test
    began.clear()
    may_end = asyncio.Event()


@multi_stage_reply(stream=STREAM, event_type="clock:tick")
async def tick(command: Command) -> dict[str, Any]:
    """Note that it began."""
    began.append(command.request_id)
    return {"n": command.payload.get("n")}


@multi_stage_reply(stream=STREAM, event_type="clock:wait")
async def wait(command: Command) -> dict[str, Any]:
    """Note that it began, and wait."""
    began.append(command.request_id)
    await may_end.wait()
    return {}


def _schedule(name: str = "tick", **options: Any) -> Schedule:
    given: dict[str, Any] = {"stream": STREAM, "event_type": "clock:tick"}
    given |= {"every_s": 3600.0, "late_s": 8000.0}
    return Schedule(name=name, **(given | options))


async def _read(bus: Bus, name: str = "tick") -> ScheduleStatus:
    found = await read_schedule(bus, name)
    assert found
    return found


async def _now_ms(bus: Bus) -> int:
    seconds, micros = await bus.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def _move_due(bus: Bus, by_s: float, name: str = "tick") -> int:
    """Let a schedule be due at a time of its definition that is so far from now."""
    found = await _read(bus, name)
    assert found.schedule
    assert found.schedule.every_s
    every_ms = round(1000 * found.schedule.every_s)
    due_ms = (await _now_ms(bus) + round(1000 * by_s)) // every_ms * every_ms
    await call(bus, "HSET", f"schedule:{name}", "due", due_ms, "at", due_ms)
    await call(bus, "ZADD", f"{found.schedule.stream}:schedules", due_ms, name)
    return due_ms


async def test_each_due_time_is_one_request(bus: Bus) -> None:
    """Though three listeners fire it."""
    await set_schedule(bus, _schedule(every_s=1.0, overlap="queue", catch_up=10, payload={"n": 7}))
    async with listening(bus, [tick]), listening(bus, [tick]), listening(bus, [tick]):
        await eventually(lambda: len(began) >= 3, within_s=10, why="three firings")
        await pause_schedule(bus, "tick")
        fired = await _fired(bus)
        await eventually(lambda: len(began) == fired, within_s=10, why="all fired ones began")
    assert len(set(began)) == len(began)
    times = sorted(datetime.fromisoformat(each.removeprefix("tick@")) for each in began)
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [
        timedelta(seconds=1)
    ] * (len(times) - 1)
    found = await _read(bus)
    assert (found.state, found.fired) == ("paused", len(began))
    assert found.last_request == max(began)
    outcome = await eventually(lambda: bus.outcome(max(began)), within_s=10, why="it has ended")
    assert outcome["payload"] == {"n": 7}
    assert (await _read(bus)).last_outcome == "completed"


@pytest.mark.invariant(1)
async def test_a_due_time_is_fired_once_whoever_fires_it(bus: Bus) -> None:
    """Many at once, and one whose answer was lost: one command, one record, one next due time."""
    schedule = _schedule()
    await set_schedule(bus, schedule)
    due_ms = await _move_due(bus, 0)
    spec = encode_schedule(schedule).encode()
    planned = plan(spec, due_ms, due_ms)
    async with contextlib.AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(Bus(bus.url, namespace=bus.namespace)) for _ in range(5)
        ]
        answers = await asyncio.gather(
            *(fire(each.session(), planned, spec) for each in buses for _ in range(10))
        )
    assert sorted(answer.outcome for answer in answers) == ["fired"] + ["moved"] * 49
    assert await call(bus, "XLEN", STREAM) == 1
    status = await request_status(bus, planned.request_id)
    assert status
    assert status.status == "pending"
    found = await _read(bus)
    assert found.due_s == due_ms / 1000 + 3600
    assert found.fired == 1


async def test_a_firing_has_the_priority_of_its_schedule(bus: Bus) -> None:
    """It takes its turn as any other command of the stream."""
    priority = Priority("low", fairness_key="reports")
    schedule = _schedule(priority=priority)
    await set_schedule(bus, schedule)
    assert (await _read(bus)).schedule == schedule
    due_ms = await _move_due(bus, 0)
    planned = plan(encode_schedule(schedule).encode(), due_ms, due_ms)
    await fire(bus.session(), planned, encode_schedule(schedule))
    record = await bus.session().requests.inspect(bus.key(f"request:{planned.request_id}"))
    assert isinstance(record, dict)
    assert record["turn"] == priority.turn
    await bus.cancel(planned.request_id)


async def test_a_restored_schedule_fires_no_time_twice(bus: Bus) -> None:
    """The id of the request follows from the due time: the server came back with an older one."""
    schedule = _schedule()
    await set_schedule(bus, schedule)
    spec = encode_schedule(schedule).encode()
    for _ in range(2):
        due_ms = await _move_due(bus, 0)
        answer = await fire(bus.session(), plan(spec, due_ms, due_ms), spec)
        assert answer.outcome == "fired"
    assert await call(bus, "XLEN", STREAM) == 1


async def test_a_listener_that_dies_after_it_took_a_schedule_loses_no_firing(bus: Bus) -> None:
    """Another one takes it again."""
    await set_schedule(bus, _schedule())
    await _move_due(bus, 0)
    index = schedule_keys(bus.session(), "tick", STREAM)[1]
    taken = await bus.session().schedules.take([index], prefix=bus.key(""), again_ms=300, limit=10)
    assert [each.name for each in taken.schedules] == ["tick"]
    async with listening(bus, [tick]):
        await eventually(lambda: began, within_s=10, why="it is fired")


async def test_it_is_fired_with_all_slots_taken(bus: Bus) -> None:
    """The process that is free then begins it: firing needs no slot."""
    await set_schedule(bus, _schedule("long", event_type="clock:wait"))
    async with listening(bus, [tick, wait], concurrency=1):
        await run_schedule(bus, "long")
        await eventually(lambda: began, within_s=10, why="the slot is taken")
        await set_schedule(bus, _schedule())
        await _move_due(bus, 0)
        await eventually(lambda: _fired(bus), within_s=10, why="it is fired")
        assert len(began) == 1
        may_end.set()
        await eventually(lambda: len(began) == 2, within_s=10, why="it began")


async def _fired(bus: Bus, name: str = "tick") -> int:
    return (await _read(bus, name)).fired


async def test_the_same_schedule_again_changes_nothing(bus: Bus) -> None:
    """A changed one is due from now on; one that is paused stays paused."""
    assert await set_schedule(bus, _schedule())
    due_ms = await _move_due(bus, -7200)
    assert not await set_schedule(bus, _schedule())
    assert (await _read(bus)).due_s == due_ms / 1000
    await pause_schedule(bus, "tick")
    assert await set_schedule(bus, _schedule(every_s=60.0))
    found = await _read(bus)
    assert found.state == "paused"
    assert found.due_s
    assert 0 < found.due_s - await _now_ms(bus) / 1000 <= 60


async def test_a_schedule_moves_to_another_stream(bus: Bus) -> None:
    """Listeners of the old one fire it no more."""
    await set_schedule(bus, _schedule(stream="old:commands"))
    await set_schedule(bus, _schedule())
    assert not await call(bus, "EXISTS", "old:commands:schedules")
    assert await call(bus, "ZCARD", f"{STREAM}:schedules") == 1


async def test_a_paused_one_is_not_fired(bus: Bus) -> None:
    """Nor by a listener that took it before; after the resume the next due time is after now."""
    schedule = _schedule()
    await set_schedule(bus, schedule)
    due_ms = await _move_due(bus, 0)
    await pause_schedule(bus, "tick")
    await pause_schedule(bus, "tick")
    spec = encode_schedule(schedule).encode()
    answer = await fire(bus.session(), plan(spec, due_ms, due_ms), spec)
    assert answer.outcome == "moved"
    await resume_schedule(bus, "tick")
    await resume_schedule(bus, "tick")
    found = await _read(bus)
    assert found.state == "active"
    assert found.due_s == due_ms / 1000 + 3600


async def test_a_due_time_of_an_edited_schedule_is_not_fired(bus: Bus) -> None:
    """A listener took it before the edit."""
    old = _schedule()
    await set_schedule(bus, old)
    due_ms = await _move_due(bus, 0)
    await set_schedule(bus, _schedule(payload={"n": 2}))
    assert await _move_due(bus, 0) == due_ms
    spec = encode_schedule(old).encode()
    answer = await fire(bus.session(), plan(spec, due_ms, due_ms), spec)
    assert answer.outcome == "moved"


async def _fire_due(bus: Bus, schedule: Schedule, by_s: float = 0) -> tuple[PlannedFiring, str]:
    due_ms = await _move_due(bus, by_s, schedule.name)
    spec = encode_schedule(schedule).encode()
    planned = plan(spec, due_ms, await _now_ms(bus))
    return planned, (await fire(bus.session(), planned, spec)).outcome


async def test_overlap_skip(bus: Bus) -> None:
    """A firing while the one before has not ended is not emitted; the next one is."""
    schedule = _schedule(every_s=60.0, event_type="clock:wait")
    await set_schedule(bus, schedule)
    _, outcome = await _fire_due(bus, schedule, -60)
    assert outcome == "fired"
    second, outcome = await _fire_due(bus, schedule)
    assert outcome == "skipped"
    assert await request_status(bus, second.request_id) is None
    found = await _read(bus)
    assert (found.fired, found.skipped) == (1, 1)
    assert found.due_s == (second.firing.next_ms or 0) / 1000
    await bus.cancel(found.last_request)
    _, outcome = await _fire_due(bus, schedule, 60)
    assert outcome == "fired"


async def test_overlap_queue(bus: Bus) -> None:
    """A firing waits for the end of the one before, and is then fired with its own time."""
    schedule = _schedule(every_s=60.0, event_type="clock:wait", overlap="queue", catch_up=3)
    await set_schedule(bus, schedule)
    async with listening(bus, [wait]):
        first = await run_schedule(bus, "tick")
        await eventually(lambda: began == [first], within_s=10, why="the first one began")
        due_ms = await _move_due(bus, -120)
        await asyncio.sleep(1.2)  # several turns of the listener: nothing else may begin
        assert began == [first]
        may_end.set()
        await eventually(lambda: len(began) >= 4, within_s=40, why="those that waited began")
    times = [due_ms + n * 60_000 for n in range(3)]
    assert began[1:4] == [schedule.request_id(at) for at in times]


async def test_overlap_replace(bus: Bus) -> None:
    """The one before is cancelled in the same step, and the new one begins after its handler."""
    schedule = _schedule(every_s=60.0, event_type="clock:wait", overlap="replace")
    await set_schedule(bus, schedule)
    async with listening(bus, [wait]):
        first = await run_schedule(bus, "tick")
        await eventually(lambda: began == [first], within_s=10, why="the first one began")
        second, outcome = await _fire_due(bus, schedule)
        assert outcome == "fired"
        status = await request_status(bus, first)
        assert status
        assert status.status == "cancelled"
        await eventually(
            lambda: began == [first, second.request_id], within_s=10, why="the second one began"
        )
        may_end.set()


async def test_missed_firings_are_skipped_or_made_up_for(bus: Bus) -> None:
    """As the schedule says; it goes on with the next one."""
    for name, catch_up in (("none", 0), ("two", 2)):
        await set_schedule(bus, _schedule(name, every_s=60.0, catch_up=catch_up, late_s=60.0))
        await _move_due(bus, -3600, name)
    async with listening(bus, [tick]):
        await eventually(
            lambda: sum(each.startswith("two@") for each in began) >= 2,
            within_s=10,
            why="two are made up for",
        )
        await eventually(lambda: _is_ahead(bus, "none"), within_s=10, why="the others are skipped")
        await eventually(lambda: _is_ahead(bus, "two"), within_s=10, why="the others are skipped")
    missed = [each for each in began if each.startswith("two@")]
    # At most one more is due, and not missed, in the minute before now.
    assert len(missed) - 2 <= 1
    assert sum(each.startswith("none@") for each in began) <= 1
    assert (await _read(bus, "none")).missed == 1


async def _is_ahead(bus: Bus, name: str) -> bool:
    found = await _read(bus, name)
    assert found.due_s
    return found.due_s > await _now_ms(bus) / 1000


async def test_run_fires_now(bus: Bus) -> None:
    """Also a paused one; its due time stays. One that has not ended is not doubled."""
    await set_schedule(bus, _schedule(event_type="clock:wait"))
    before = await _read(bus)
    await pause_schedule(bus, "tick")
    first = await run_schedule(bus, "tick")
    assert first.startswith("tick@run-")
    with pytest.raises(CannotChange, match=f"{first} has not ended"):
        await run_schedule(bus, "tick")
    found = await _read(bus)
    assert (found.last_request, found.last_outcome) == (first, "pending")
    assert (found.state, found.due_s) == ("paused", before.due_s)
    await bus.cancel(first)


async def test_a_dropped_one_is_gone(bus: Bus) -> None:
    """A listener that took it fires nothing; the verbs say that there is none."""
    schedule = _schedule()
    await set_schedule(bus, schedule)
    due_ms = await _move_due(bus, 0)
    await drop_schedule(bus, "tick")
    spec = encode_schedule(schedule).encode()
    assert (await fire(bus.session(), plan(spec, due_ms, due_ms), spec)).outcome == "moved"
    assert await read_schedule(bus, "tick") is None
    for change in (drop_schedule, pause_schedule, resume_schedule, run_schedule):
        with pytest.raises(NoSuchId, match="no schedule tick"):
            await change(bus, "tick")
    with pytest.raises(NoSuchId):
        await resolve_schedule(bus, "tick")
    assert not await call(bus, "EXISTS", f"{STREAM}:schedules")


async def test_one_that_has_ended_stays_visible(bus: Bus) -> None:
    """Nothing is due any more."""
    await set_schedule(bus, _schedule(ends=datetime(2020, 1, 1, tzinfo=UTC)))
    assert (await _read(bus)).state == "ended"
    await resume_schedule(bus, "tick")
    assert await call(bus, "ZSCORE", f"{STREAM}:schedules", "tick") in {b"inf", float("inf")}


@multi_stage_reply(
    stream=STREAM,
    event_type="clock:declared",
    schedules=[Schedule(name="declared", every_s=1.0, payload={"n": 1})],
)
async def declared(command: Command) -> dict[str, Any]:
    """Note that it began."""
    began.append(command.request_id)
    return {}


@contextlib.asynccontextmanager
async def _declaring(bus: Bus, **options: Any) -> AsyncIterator[None]:
    """A listener starts with a declaration of `tick`, and stops."""
    async with listening(bus, [tick], schedules=[_schedule(**options)]):
        yield


async def test_code_declares_schedules(bus: Bus) -> None:
    """At the handler, or for the listener; the listener sets and fires them."""
    async with listening(bus, [declared], schedules=[_schedule("other")]):
        await eventually(lambda: began, within_s=10, why="it is fired")
        names = [each.name for each in await find_schedules(bus)]
    assert names == ["declared", "other"]
    assert began[0].startswith("declared@")


async def test_a_declaration_keeps_what_an_operator_has_edited(bus: Bus) -> None:
    """Until the declaration itself changes."""
    async with _declaring(bus):
        pass
    await set_schedule(bus, _schedule(every_s=120.0))
    async with _declaring(bus):
        pass
    found = await _read(bus)
    assert found.schedule
    assert found.schedule.every_s == 120
    async with _declaring(bus, every_s=240.0):
        pass
    found = await _read(bus)
    assert found.schedule
    assert found.schedule.every_s == 240


@pytest.mark.parametrize(
    ("schedules", "match"),
    [
        ([Schedule(name="s", every_s=5)], "schedule s needs a stream"),
        ([_schedule(), _schedule(every_s=5.0)], "two schedules have the name tick"),
        (["tick"], "not a schedule"),
    ],
)
def test_declarations_that_cannot_be_set_are_refused(
    server: Any, schedules: list[Any], match: str
) -> None:
    """When the listener is made."""
    with pytest.raises(RegistrationError, match=match):
        CommandListener(Bus(server.url), [tick], schedules=schedules)


def test_a_handler_refuses_the_schedule_of_another_one() -> None:
    """Where it is declared."""
    with pytest.raises(RegistrationError, match=r"stream: of schedule tick is clock:commands"):
        multi_stage_reply(stream="x:commands", event_type="x:do", schedules=[_schedule()])(
            lambda command: {}
        )


async def test_malformed_and_newer_ones_hide_no_other(bus: Bus) -> None:
    """They are shown as unreadable, are left alone, and can be dropped."""
    await set_schedule(bus, _schedule("good", every_s=1.0))
    for name, spec in (("bad", "{"), ("new", '{"v":99,"name":"new"}')):
        await set_schedule(bus, _schedule(name))
        await call(bus, "HSET", f"schedule:{name}", "spec", spec, "layout", 99)
        await call(bus, "ZADD", f"{STREAM}:schedules", 1, name)
    await call(bus, "HSET", "schedule:b ad", "due", "x")
    async with listening(bus, [tick]):
        await eventually(lambda: len(began) >= 2, within_s=10, why="the good one is fired")
    states = {each.name: each.state for each in await find_schedules(bus)}
    assert states == dict.fromkeys(("bad", "new", "b ad"), "unreadable") | {"good": "active"}
    assert (await _read(bus, "new")).problem
    with pytest.raises(UnknownLayout):
        await set_schedule(bus, _schedule("new"))
    with pytest.raises(CannotChange):
        await run_schedule(bus, "bad")
    await drop_schedule(bus, "bad")
    assert await read_schedule(bus, "bad") is None


async def test_a_stream_that_is_another_key_hides_no_other_schedule(bus: Bus) -> None:
    """Its firing is refused as a whole, and stays due."""
    await set_schedule(bus, _schedule("bad", stream="bad:commands", every_s=1.0))
    await call(bus, "SET", "bad:commands", "text")
    await call(bus, "EXPIRE", "bad:commands", 60)
    schedule = (await _read(bus, "bad")).schedule
    assert schedule
    due_ms = await _move_due(bus, 0, "bad")
    spec = encode_schedule(schedule).encode()
    with pytest.raises(Exception, match="WRONGTYPE"):
        await fire(bus.session(), plan(spec, due_ms, due_ms), spec)
    found = await _read(bus, "bad")
    assert (found.due_s, found.fired) == (due_ms / 1000, 0)
    assert await request_status(bus, schedule.request_id(due_ms)) is None


async def test_overdue_names_those_that_nobody_fires(bus: Bus) -> None:
    """No listener of their stream is there."""
    await set_schedule(bus, _schedule("late"))
    await set_schedule(bus, _schedule("fine"))
    await _move_due(bus, -7200, "late")
    found = await overdue(bus, await find_schedules(bus), by_s=60)
    assert [each.name for each in found] == ["late"]


async def test_an_id_of_a_schedule_may_be_cut(bus: Bus) -> None:
    """If no other one begins so; those of other streams are not listed."""
    await set_schedule(bus, _schedule("nightly"))
    await set_schedule(bus, _schedule("weekly", stream="other:commands"))
    assert (await resolve_schedule(bus, "night")).name == "nightly"
    assert [each.name for each in await find_schedules(bus, stream=STREAM)] == ["nightly"]


async def test_a_schedule_that_cannot_be_emitted_is_refused(bus: Bus) -> None:
    """Nothing is written."""
    with pytest.raises(InvalidMessage, match="stream"):
        await set_schedule(bus, Schedule(name="tick", every_s=5))
    assert await read_schedule(bus, "tick") is None
    assert json.loads(encode_schedule(_schedule()))["v"] == 1


@pytest.mark.blocking  # the proxies
@pytest.mark.invariant(12)
async def test_lost_connections_lose_and_double_no_firing(bus: Bus) -> None:
    """Before and after each function of schedules, on two listeners."""
    await set_schedule(bus, _schedule(every_s=1.0, catch_up=100, overlap="queue"))

    def plan_of() -> Plan:
        counts: Counter[str] = Counter()

        def plan(_number: int, words: tuple[bytes, ...]) -> Fault:
            if words[0] != b"FCALL":
                return Fault.NONE
            name = words[1].decode().split("_", 2)[2]
            if name not in {"put_schedule", "take_schedules", "fire", "announce"}:
                return Fault.NONE
            counts[name] += 1
            faults = {1: Fault.BEFORE, 3: Fault.AFTER}
            return faults.get(counts[name] % 5, Fault.NONE)

        return plan

    with FaultProxy(bus.url, plan_of()) as first, FaultProxy(bus.url, plan_of()) as second:
        async with contextlib.AsyncExitStack() as stack:
            for proxy in (first, second):
                other = await stack.enter_async_context(Bus(proxy.url, namespace=bus.namespace))
                await stack.enter_async_context(
                    listening(other, [tick], schedules=[_schedule("x")])
                )
            await eventually(lambda: len(began) >= 5, within_s=60, why="five firings")
            await pause_schedule(bus, "tick")
            fired = await _fired(bus)
            await eventually(lambda: len(began) == fired, within_s=60, why="all fired ones began")
    times = sorted(datetime.fromisoformat(each.removeprefix("tick@")) for each in began)
    gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert gaps == {timedelta(seconds=1)}
    faults = [words for proxy in (first, second) for words in proxy.commands]
    assert sum(b"_fire" in words[1] for words in faults if words[0] == b"FCALL") > 5


async def test_the_clock_of_a_listener_does_not_matter(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an hour ahead, or behind: due times are the server's."""
    for off_s in (3600, -3600):
        began.clear()
        real = time.time
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda real=real, off_s=off_s: real() + off_s)
            await set_schedule(bus, _schedule(every_s=1.0, overlap="queue", catch_up=10))
            async with listening(bus, [tick]):
                await eventually(lambda: began, within_s=10, why="it is fired")
                now_s = await _now_ms(bus) / 1000
            await drop_schedule(bus, "tick")
        due = datetime.fromisoformat(began[0].removeprefix("tick@")).timestamp()
        assert now_s - 60 < due <= now_s


async def test_news_of_a_due_time_hides_no_cancellation(bus: Bus) -> None:
    """A listener that stops when it learns of a schedule ends all the same."""
    session = bus.session()
    for steps in range(6):  # of the event loop, between the news and the cancellation
        scheduler = Scheduler(session, [], [])
        firing = asyncio.create_task(scheduler.keep_firing())
        await asyncio.sleep(0)
        scheduler.note_due(None)
        for _ in range(steps):
            await asyncio.sleep(0)
        firing.cancel()
        done, _ = await asyncio.wait([firing], timeout=5)
        firing.cancel()
        assert done == {firing}
