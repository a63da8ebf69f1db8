"""Sagas on a real server: who drives them, who takes over, and what may not act any more."""

import asyncio
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    Handler,
    Progress,
    RequestCancelled,
    multi_stage_reply,
)
from sagastream._functions.answers import Claimed
from sagastream.errors import NoSuchSaga, SagaError
from sagastream.saga import Compensation, Saga, SagaRunner, Step
from tests.listeners import listening

pytestmark = pytest.mark.timeout(60)

STREAM = "trip:commands"


def _undo(name: str) -> Compensation:
    return Compensation(f"{name}:undo", lambda data, results: {"known": sorted(results)})


def _step(name: str, *, undo: bool = True, **options: Any) -> Step:
    return Step(
        name,
        STREAM,
        f"{name}:do",
        lambda data, results: data | {"known": sorted(results)},
        _undo(name) if undo else None,
        **options,
    )


TRIP = Saga("trip", (_step("a"), _step("b"), _step("c")))


class Recorder:
    """Handlers of all steps and compensations: what ran, in order, and what is to fail."""

    def __init__(self, **fails: int) -> None:
        self.ran: list[str] = []
        self.left = {name.replace("_", ":"): count for name, count in fails.items()}

    def handlers(self) -> list[Handler]:
        return [
            Handler(STREAM, f"{name}:{what}", self._handle)
            for name in "abc"
            for what in ("do", "undo")
        ]

    async def _handle(self, command: Command, _progress: Progress) -> dict[str, Any]:
        self.ran.append(command.event_type)
        if self.left.get(command.event_type, 0):
            self.left[command.event_type] -= 1
            raise RuntimeError(f"{command.event_type} cannot be done")
        return {"by": command.event_type}


async def test_steps_run_forward_and_their_results_are_kept(bus: Bus) -> None:
    """A saga without failure is completed, each step once, with every result in the outcome."""
    recorder = Recorder()
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP)
        outcome = await runner.run(await runner.start({"who": "me"}))
    assert outcome.status == "completed"
    assert recorder.ran == ["a:do", "b:do", "c:do"]
    assert outcome.results["b"] == {"by": "b:do"}
    assert outcome.error == {}


@pytest.mark.invariant(9)
async def test_a_compensation_that_fails_three_times_is_tried_again(bus: Bus) -> None:
    """The saga ends compensated, strictly in reverse, once it works."""
    recorder = Recorder(c_do=1, c_undo=3)
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP, retry_s=0.02)
        outcome = await runner.run(await runner.start({}))
    assert outcome.status == "compensated"
    assert recorder.ran[2:] == ["c:do", *["c:undo"] * 4, "b:undo", "a:undo"]
    assert outcome.error["message"] == "c:do cannot be done"


@pytest.mark.invariant(9)
async def test_a_stuck_saga_goes_on_when_it_is_resumed(bus: Bus) -> None:
    """It stays visible and does not expire; resumed after the mending it ends compensated."""
    recorder = Recorder(b_do=1, b_undo=2)
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP, retry_s=0.02, max_attempts=2)
        saga_id = await runner.start({})
        assert (await runner.run(saga_id)).status == "stuck"
        assert [journal.saga_id for journal in await runner.journals()] == [saga_id]
        assert await bus.command("PTTL", bus.key(f"saga:{saga_id}")) == -1
        await runner.resume(saga_id)
        assert (await runner.run(saga_id)).status == "compensated"
    assert recorder.ran == ["a:do", "b:do", "b:undo", "b:undo", "b:undo", "a:undo"]


@pytest.mark.invariant(10)
async def test_messages_that_are_lost_repeated_or_late_change_nothing(bus: Bus) -> None:
    """With each message sent three times, and the first of each lost, a server brings it home."""
    recorder = Recorder(c_do=1)
    lost: set[tuple[str, str]] = set()
    sent: set[asyncio.Task[Any]] = set()

    async def dispatch(saga_id: str, step: str) -> None:
        if (saga_id, step) not in lost:
            lost.add((saga_id, step))
            return
        for _ in range(3):
            sent.add(asyncio.create_task(runner.advance(saga_id, step)))

    runner = SagaRunner(bus, TRIP, dispatch=dispatch, wake_after_s=0.2, retry_s=0.02)
    async with listening(bus, recorder.handlers()):
        serving = [asyncio.create_task(runner.serve()) for _ in range(2)]
        ids = [await runner.start({}, saga_id=f"s{number}") for number in range(5)]
        outcomes = await asyncio.gather(*(runner.wait(saga_id) for saga_id in ids))
        await asyncio.gather(*sent)
        for task in serving:
            task.cancel()
        await asyncio.wait(serving)
    statuses = [outcome.status for outcome in outcomes]
    assert statuses.count("compensated") == 1
    assert statuses.count("completed") == 4
    assert len(recorder.ran) == 5 * 3 + 3


@pytest.mark.invariant(10)
async def test_a_saga_whose_driver_died_is_taken_up(bus: Bus) -> None:
    """Whoever serves takes up a saga that nobody is at, from where its journal stands."""
    recorder = Recorder()
    runner = SagaRunner(bus, TRIP, wake_after_s=0.2)
    saga_id = await runner.start({})
    driving = asyncio.create_task(runner.run(saga_id))
    while not (await runner.journal(saga_id)).entries:
        await asyncio.sleep(0.01)
    driving.cancel()
    await asyncio.wait([driving])
    async with listening(bus, recorder.handlers()):
        serving = asyncio.create_task(SagaRunner(bus, TRIP, wake_after_s=0.2).serve())
        outcome = await runner.wait(saga_id)
        serving.cancel()
        await asyncio.wait([serving])
    assert outcome.status == "completed"
    assert recorder.ran == ["a:do", "b:do", "c:do"]


async def test_a_saga_that_somebody_is_at_is_left_alone(bus: Bus) -> None:
    """A step may take longer than the time after which a saga counts as left."""
    recorder, go = Recorder(), asyncio.Event()
    nudged: list[str] = []

    async def slow(command: Command, _progress: Progress) -> dict[str, Any]:
        await go.wait()
        return {}

    async def dispatch(saga_id: str, _step: str) -> None:
        nudged.append(saga_id)

    handlers = [h for h in recorder.handlers() if h.event_type != "a:do"]
    async with listening(bus, [*handlers, Handler(STREAM, "a:do", slow)]):
        runner = SagaRunner(bus, TRIP, wake_after_s=0.3)
        saga_id = await runner.start({})
        driving = asyncio.create_task(runner.run(saga_id))
        other = asyncio.create_task(
            SagaRunner(bus, TRIP, dispatch=dispatch, wake_after_s=0.3).serve()
        )
        left_alone = SagaRunner(bus, TRIP, wake_after_s=0.3)
        forgotten = await left_alone.start({})
        while nudged.count(forgotten) < 4:
            await asyncio.sleep(0.02)
        go.set()
        assert (await driving).status == "completed"
        other.cancel()
        await asyncio.wait([other])
    # Its driver may have been a moment late in saying that it is there.
    assert nudged.count(saga_id) <= 1


@pytest.mark.invariant(9)
async def test_cancelling_a_saga_stops_its_handler_before_anything_is_undone(bus: Bus) -> None:
    """The undo begins when the handler that was at it has really stopped."""
    told: list[str] = []
    running, stopped = asyncio.Event(), asyncio.Event()

    async def long(command: Command, _progress: Progress) -> dict[str, Any]:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            await stopped.wait()
            told.append("stopped")
        return {}

    async def undo(command: Command, _progress: Progress) -> dict[str, Any]:
        told.append("undone")
        return {}

    saga = Saga("one", (_step("a"),))
    handlers = [Handler(STREAM, "a:do", long), Handler(STREAM, "a:undo", undo)]
    async with listening(bus, handlers, lease_s=1.0):
        runner = SagaRunner(bus, saga)
        saga_id = await runner.start({})
        driving = asyncio.create_task(runner.run(saga_id))
        await running.wait()
        await runner.compensate(saga_id, "not wanted any more")
        undoing = asyncio.create_task(runner.run(saga_id))
        while not await _undo_is_sent(bus, runner, saga_id):
            await asyncio.sleep(0.02)
        assert told == []
        stopped.set()
        assert (await undoing).status == "compensated"
        assert (await driving).error["message"] == "not wanted any more"
    assert told == ["stopped", "undone"]


async def test_a_handler_that_reports_all_the_time_confirms_its_end(bus: Bus) -> None:
    """What comes after it does not have to wait for its lease to lapse."""
    running = asyncio.Event()

    async def busy(command: Command, progress: Progress) -> dict[str, Any]:
        for _ in range(3):
            await progress(0.5)
        running.set()
        await asyncio.Event().wait()
        return {}

    async def undo(command: Command, _progress: Progress) -> dict[str, Any]:
        return {}

    handlers = [Handler(STREAM, "a:do", busy), Handler(STREAM, "a:undo", undo)]
    async with listening(bus, handlers, lease_s=50.0, progress_interval_s=30.0):
        asking = asyncio.create_task(bus.request_and_reply(STREAM, "a:do", {}, request_id="do"))
        await running.wait()
        await bus.request_and_reply(STREAM, "a:undo", {}, timeout=20, supersedes=["do"])
        with pytest.raises(RequestCancelled):
            await asking


async def _undo_is_sent(bus: Bus, runner: SagaRunner, saga_id: str) -> bool:
    undo = (await runner.journal(saga_id)).last("a", "undo")
    record = bus.key(f"request:{undo.request_id if undo else ''}")
    return bool(await bus.command("EXISTS", record))


async def test_a_request_that_was_closed_before_it_came_is_refused(bus: Bus) -> None:
    """An action that comes after its compensation does not begin."""
    recorder = Recorder()
    async with listening(bus, recorder.handlers()):
        await bus.request_and_reply(STREAM, "a:undo", {}, request_id="undo", supersedes=["do"])
        with pytest.raises(RequestCancelled):
            await bus.request_and_reply(STREAM, "a:do", {}, request_id="do")
    assert recorder.ran == ["a:undo"]


async def test_a_closed_request_that_waits_never_begins(bus: Bus) -> None:
    """It was in the stream before what superseded it, and is over when it is read."""
    recorder = Recorder()
    await bus.emit_command(STREAM, event_type="a:do", payload={}, request_id="do")
    closing = asyncio.create_task(
        bus.request_and_reply(STREAM, "a:undo", {}, request_id="undo", supersedes=["do"])
    )
    while await bus.outcome("do") is None:
        await asyncio.sleep(0.01)
    async with listening(bus, recorder.handlers()):
        await closing
    assert recorder.ran == ["a:undo"]
    outcome = await bus.outcome("do")
    assert outcome is not None
    assert outcome["status"] == "cancelled"


async def test_a_closed_request_that_had_ended_keeps_its_end(bus: Bus) -> None:
    """The first terminal outcome stays."""
    recorder = Recorder()
    async with listening(bus, recorder.handlers()):
        await bus.request_and_reply(STREAM, "a:do", {}, request_id="do")
        await bus.request_and_reply(STREAM, "a:undo", {}, request_id="undo", supersedes=["do"])
        assert (await bus.request_and_reply(STREAM, "a:do", {}, request_id="do"))["status"]
    assert recorder.ran == ["a:do", "a:undo"]


@pytest.mark.invariant(9)
async def test_what_supersedes_a_dead_handlers_request_waits_for_its_lease(bus: Bus) -> None:
    """Nobody confirms: the undo begins when the lease has lapsed, and the dead one is fenced."""
    functions, call = bus.session().requests, bus.command
    entry = await bus.emit_command(STREAM, event_type="a:do", payload={}, request_id="do")
    await call("XGROUP", "CREATE", bus.key(STREAM), "sagastream", "0")
    await call(
        *("XREADGROUP", "GROUP", "sagastream", "dead", "COUNT", 1),
        *("STREAMS", bus.key(STREAM), ">"),
    )
    claim: dict[str, Any] = {"group": "sagastream", "entry_id": entry, "token": "dead-token"}
    lease_ms = 600
    answer = await functions.begin(
        *(bus.key("request:do"), bus.key(STREAM)),
        **claim,
        consumer="dead",
        lease_ms=lease_ms,
        retention_ms=60_000,
        max_deliveries=5,
        trace=("", "", ""),
    )
    assert isinstance(answer, Claimed)
    recorder = Recorder()
    clock = asyncio.get_running_loop().time
    began = clock()
    async with listening(bus, recorder.handlers()):
        await bus.request_and_reply(STREAM, "a:undo", {}, request_id="undo", supersedes=["do"])
    assert clock() - began > lease_ms / 1000 * 0.8
    late = await functions.finish(
        *(bus.key("request:do"), bus.key(STREAM), "completed", "{}"),
        **claim,
        trace=("", "", ""),
        retention_ms=60_000,
    )
    assert late.outcome == "stale"
    assert recorder.ran == ["a:undo"]


@pytest.mark.invariant(8)
async def test_a_step_may_demand_an_effect_policy(bus: Bus) -> None:
    """A handler that declares another is an error, and does not run."""
    recorder = Recorder()
    saga = Saga("strict", (_step("a", undo=False, effect="atomic"),))
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, saga)
        outcome = await runner.run(await runner.start({}))
    assert outcome.status == "compensated"
    assert outcome.error["error_type"] == "EffectMismatch"
    assert "must be atomic" in outcome.error["message"]
    assert recorder.ran == []


async def test_a_handler_that_takes_over_sees_the_last_progress(bus: Bus) -> None:
    """What an earlier claim reported is there to go on from; a first claim has none."""
    seen: list[dict[str, Any]] = []

    @multi_stage_reply(stream=STREAM, event_type="a:do")
    async def count(command: Command, progress: Progress) -> dict[str, Any]:
        seen.append(command.last_progress)
        done = command.last_progress.get("done", 0) + 1
        await progress(0.5, {"done": done})
        if done < 3:
            await asyncio.Event().wait()
        return {"done": done}

    asking = asyncio.create_task(bus.request_and_reply(STREAM, "a:do", {}, request_id="r"))
    for runs in (1, 2):
        async with listening(bus, [count], lease_s=1.0, drain_s=0.05):
            while len(seen) < runs or not await _has_progress(bus, runs):
                await asyncio.sleep(0.01)
    async with listening(bus, [count], lease_s=1.0):
        reply = await asking
    assert [step.get("done") for step in seen] == [None, 1, 2]
    assert reply["payload"] == {"done": 3}


async def _has_progress(bus: Bus, done: int) -> bool:
    stored = await bus.command("HGET", bus.key("request:r"), "progress")
    return stored is not None and f'"done":{done}' in stored.decode()


async def test_a_payload_that_is_too_large_turns_the_saga_round(bus: Bus) -> None:
    """What cannot be sent has failed; the saga does not try it for ever."""
    recorder = Recorder()
    saga = Saga(
        "large",
        (
            _step("a"),
            Step("b", STREAM, "b:do", lambda data, results: {"x": "y" * 100_000}, _undo("b")),
        ),
    )
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, saga)
        outcome = await runner.run(await runner.start({}))
    assert outcome.status == "compensated"
    assert outcome.error["error_type"] == "InvalidMessage"
    assert recorder.ran == ["a:do", "b:undo", "a:undo"]


async def test_starting_twice_is_one_saga(bus: Bus) -> None:
    """An id is an idempotency key; with another input it is an error."""
    runner = SagaRunner(bus, TRIP)
    assert await runner.start({"n": 1}, saga_id="s") == "s"
    assert await runner.start({"n": 1}, saga_id="s") == "s"
    with pytest.raises(SagaError, match="another input"):
        await runner.start({"n": 2}, saga_id="s")
    await runner.compensate("s", "enough")
    assert (await runner.wait("s")).status == "compensated"


async def test_a_saga_that_is_not_there_is_named(bus: Bus) -> None:
    """Also one of another declaration."""
    runner = SagaRunner(bus, TRIP)
    with pytest.raises(NoSuchSaga, match="nobody"):
        await runner.journal("nobody")
    await SagaRunner(bus, Saga("other", (_step("a"),))).start({}, saga_id="s")
    with pytest.raises(NoSuchSaga, match="'other', not a 'trip'"):
        await runner.journal("s")


@pytest.mark.invariant(7)
async def test_an_ended_saga_and_all_of_it_expires(bus: Bus) -> None:
    """Journal, its stream, the replies and the records get their end with the saga's."""
    recorder = Recorder(c_do=1)
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP)
        saga_id = await runner.start({})
        outcome = await runner.run(saga_id)
    names = [f"saga:{saga_id}", f"saga:{saga_id}:journal", f"saga:{saga_id}:replies"]
    names += [f"request:{entry.request_id}" for entry in outcome.entries]
    call = bus.command
    assert len(names) == 9
    for name in names:
        assert await call("PTTL", bus.key(name)) > 0, name
