"""Sagas on a real server: runners, takeover, compensation, and superseded requests."""

import asyncio
from typing import Any

import pytest

from sagastream import (
    Bus,
    Command,
    Handler,
    Priority,
    Progress,
    RequestCancelled,
    Retention,
    multi_stage_reply,
)
from sagastream._functions.answers import Claimed
from sagastream.errors import NoSuchSaga, SagaError
from sagastream.saga import Compensation, Saga, SagaRunner, Step
from sagastream.saga.administration import compensate_saga
from sagastream.status import request_status
from tests.listeners import listening
from tests.plain_client import GROUP, call, deliver
from tests.polling import eventually

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
    """Handlers of all steps and compensations, which record their calls.

    Args:
        fails: For each event type (`a_do` for `a:do`) how often its handler fails.

    Attributes:
        ran: The event types of the calls, in order.
    """

    def __init__(self, **fails: int) -> None:
        self.ran: list[str] = []
        self._failures = {name.replace("_", ":"): count for name, count in fails.items()}

    def handlers(self) -> list[Handler]:
        return [
            Handler(STREAM, f"{name}:{what}", self._handle)
            for name in "abc"
            for what in ("do", "undo")
        ]

    async def _handle(self, command: Command, _progress: Progress) -> dict[str, Any]:
        self.ran.append(command.event_type)
        if self._failures.get(command.event_type, 0):
            self._failures[command.event_type] -= 1
            raise RuntimeError(f"{command.event_type} cannot be done")
        return {"by": command.event_type}


async def test_steps_run_forward_and_their_results_are_kept(bus: Bus) -> None:
    """A saga without failure runs each step once, and its outcome has all results."""
    recorder = Recorder()
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP)
        outcome = await runner.run(await runner.start({"who": "me"}))
    assert outcome.status == "completed"
    assert recorder.ran == ["a:do", "b:do", "c:do"]
    assert outcome.results["b"] == {"by": "b:do"}
    assert outcome.error == {}


@pytest.mark.invariant(9)
async def test_a_compensation_that_fails_three_times_is_retried(bus: Bus) -> None:
    """The fourth attempt succeeds, and the saga is compensated strictly in reverse."""
    recorder = Recorder(c_do=1, c_undo=3)
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP, retry_s=0.02)
        outcome = await runner.run(await runner.start({}))
    assert outcome.status == "compensated"
    assert recorder.ran[2:] == ["c:do", *["c:undo"] * 4, "b:undo", "a:undo"]
    assert outcome.error["message"] == "c:do cannot be done"


@pytest.mark.invariant(9)
async def test_a_stuck_saga_continues_when_it_is_resumed(bus: Bus) -> None:
    """It is listed and does not expire; resumed after the repair it is compensated."""
    recorder = Recorder(b_do=1, b_undo=2)
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP, retry_s=0.02, max_attempts=2)
        saga_id = await runner.start({})
        assert (await runner.run(saga_id)).status == "stuck"
        assert [journal.saga_id for journal in await runner.journals()] == [saga_id]
        assert await call(bus, "PTTL", f"saga:{saga_id}") == -1
        await runner.resume(saga_id)
        assert (await runner.run(saga_id)).status == "compensated"
    assert recorder.ran == ["a:do", "b:do", "b:undo", "b:undo", "b:undo", "a:undo"]


@pytest.mark.invariant(10)
async def test_lost_and_repeated_messages_change_nothing(bus: Bus) -> None:
    """With the first message of each step lost and later ones sent three times, all sagas end."""
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
async def test_an_unattended_saga_is_resumed(bus: Bus) -> None:
    """Another runner that serves continues the saga of a dead runner from its journal."""
    recorder = Recorder()
    runner = SagaRunner(bus, TRIP, wake_after_s=0.2)
    saga_id = await runner.start({})
    running = asyncio.create_task(runner.run(saga_id))

    async def has_intent() -> bool:
        return bool((await runner.journal(saga_id)).entries)

    await eventually(has_intent, within_s=10, why="the journal has the first intent")
    running.cancel()
    await asyncio.wait([running])
    async with listening(bus, recorder.handlers()):
        serving = asyncio.create_task(SagaRunner(bus, TRIP, wake_after_s=0.2).serve())
        outcome = await runner.wait(saga_id)
        serving.cancel()
        await asyncio.wait([serving])
    assert outcome.status == "completed"
    assert recorder.ran == ["a:do", "b:do", "c:do"]


async def test_a_heartbeat_keeps_other_runners_away(bus: Bus) -> None:
    """A step may take longer than the time after which a saga counts as unattended."""
    recorder, go = Recorder(), asyncio.Event()
    dispatched: list[str] = []

    async def slow(command: Command, _progress: Progress) -> dict[str, Any]:
        await go.wait()
        return {}

    async def dispatch(saga_id: str, _step: str) -> None:
        dispatched.append(saga_id)

    handlers = [h for h in recorder.handlers() if h.event_type != "a:do"]
    async with listening(bus, [*handlers, Handler(STREAM, "a:do", slow)]):
        runner = SagaRunner(bus, TRIP, wake_after_s=0.3)
        saga_id = await runner.start({})
        running = asyncio.create_task(runner.run(saga_id))
        serving = asyncio.create_task(
            SagaRunner(bus, TRIP, dispatch=dispatch, wake_after_s=0.3).serve()
        )
        unattended = await SagaRunner(bus, TRIP, wake_after_s=0.3).start({})
        await eventually(
            lambda: dispatched.count(unattended) >= 4,
            within_s=30,
            why="the unattended saga was dispatched four times",
        )
        go.set()
        assert (await running).status == "completed"
        serving.cancel()
        await asyncio.wait([serving])
    # The first heartbeat may have been late once.
    assert dispatched.count(saga_id) <= 1


@pytest.mark.invariant(9)
async def test_a_compensation_waits_until_the_forward_handler_has_stopped(bus: Bus) -> None:
    """A cancelled saga stops its handler, and the undo begins when it has really ended."""
    events: list[str] = []
    running, stopped = asyncio.Event(), asyncio.Event()

    async def long(command: Command, _progress: Progress) -> dict[str, Any]:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            await stopped.wait()
            events.append("stopped")
        return {}

    async def undo(command: Command, _progress: Progress) -> dict[str, Any]:
        events.append("undone")
        return {}

    saga = Saga("one", (_step("a"),))
    handlers = [Handler(STREAM, "a:do", long), Handler(STREAM, "a:undo", undo)]
    async with listening(bus, handlers, lease_s=1.0):
        runner = SagaRunner(bus, saga)
        saga_id = await runner.start({})
        forward = asyncio.create_task(runner.run(saga_id))
        await running.wait()
        await runner.compensate(saga_id, "not wanted any more")
        compensation = asyncio.create_task(runner.run(saga_id))

        async def is_undo_sent() -> bool:
            entry = (await runner.journal(saga_id)).last("a", "undo")
            return entry is not None and await request_status(bus, entry.request_id) is not None

        await eventually(is_undo_sent, within_s=10, why="the command of the undo is sent")
        assert events == []
        stopped.set()
        assert (await compensation).status == "compensated"
        assert (await forward).error["message"] == "not wanted any more"
    assert events == ["stopped", "undone"]


async def test_a_superseded_handler_with_pending_progress_confirms_its_end(bus: Bus) -> None:
    """The request that supersedes it does not wait until its lease lapses."""
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
        forward = asyncio.create_task(bus.request_and_reply(STREAM, "a:do", {}, request_id="do"))
        await running.wait()
        await bus.request_and_reply(STREAM, "a:undo", {}, timeout=20, supersedes=["do"])
        with pytest.raises(RequestCancelled):
            await forward


async def test_a_request_that_was_superseded_before_its_emit_is_refused(bus: Bus) -> None:
    """A forward request that comes after its compensation does not begin."""
    recorder = Recorder()
    async with listening(bus, recorder.handlers()):
        await bus.request_and_reply(STREAM, "a:undo", {}, request_id="undo", supersedes=["do"])
        with pytest.raises(RequestCancelled):
            await bus.request_and_reply(STREAM, "a:do", {}, request_id="do")
    assert recorder.ran == ["a:undo"]


async def test_a_superseded_pending_request_never_begins(bus: Bus) -> None:
    """It was in the stream before its compensation, and has ended when it is read."""
    recorder = Recorder()
    await bus.emit_command(STREAM, event_type="a:do", payload={}, request_id="do")
    undo = asyncio.create_task(
        bus.request_and_reply(STREAM, "a:undo", {}, request_id="undo", supersedes=["do"])
    )
    await eventually(lambda: bus.outcome("do"), within_s=10, why="the superseded request has ended")
    async with listening(bus, recorder.handlers()):
        await undo
    assert recorder.ran == ["a:undo"]
    outcome = await bus.outcome("do")
    assert outcome is not None
    assert outcome["status"] == "cancelled"


async def test_a_superseded_request_keeps_its_outcome(bus: Bus) -> None:
    """A request that has ended keeps its first terminal outcome."""
    recorder = Recorder()
    async with listening(bus, recorder.handlers()):
        await bus.request_and_reply(STREAM, "a:do", {}, request_id="do")
        await bus.request_and_reply(STREAM, "a:undo", {}, request_id="undo", supersedes=["do"])
        reply = await bus.request_and_reply(STREAM, "a:do", {}, request_id="do")
    assert reply["status"] == "completed"
    assert recorder.ran == ["a:do", "a:undo"]


@pytest.mark.invariant(9)
async def test_a_compensation_waits_for_the_lease_of_a_dead_handler(bus: Bus) -> None:
    """The undo begins when the lease has lapsed; a late result of the dead claim is refused."""
    functions = bus.session().requests
    entry = await bus.emit_command(STREAM, event_type="a:do", payload={}, request_id="do")
    await deliver(bus, STREAM, consumer="dead")
    claim: dict[str, Any] = {"group": GROUP, "entry_id": entry, "token": "dead-token"}
    lease_ms = 600
    answer = await functions.begin(
        *(bus.key("request:do"), bus.key(STREAM)),
        **claim,
        consumer="dead",
        lease_ms=lease_ms,
        retention=Retention(),
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
        retention=Retention(),
    )
    assert late.outcome == "stale"
    assert recorder.ran == ["a:undo"]


@pytest.mark.invariant(8)
async def test_a_step_may_require_an_effect_policy(bus: Bus) -> None:
    """A handler that declares another policy does not run, and the step fails."""
    recorder = Recorder()
    saga = Saga("strict", (_step("a", undo=False, effect="atomic"),))
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, saga)
        outcome = await runner.run(await runner.start({}))
    assert outcome.status == "compensated"
    assert outcome.error["error_type"] == "EffectMismatch"
    assert "must be atomic" in outcome.error["message"]
    assert recorder.ran == []


async def test_a_handler_that_takes_over_gets_the_last_progress(bus: Bus) -> None:
    """`last_progress` is the last report of the earlier claim, and empty for the first one."""
    seen: list[dict[str, Any]] = []
    reported: list[int] = []

    def note(stage: dict[str, Any]) -> None:
        if stage["status"] == "progress":
            reported.append(stage["payload"]["done"])

    @multi_stage_reply(stream=STREAM, event_type="a:do")
    async def count(command: Command, progress: Progress) -> dict[str, Any]:
        seen.append(command.last_progress)
        done = command.last_progress.get("done", 0) + 1
        await progress(0.5, {"done": done})
        if done < 3:
            await asyncio.Event().wait()
        return {"done": done}

    request = asyncio.create_task(
        bus.request_and_reply(STREAM, "a:do", {}, request_id="r", on_progress=note)
    )
    for run in (1, 2):
        async with listening(bus, [count], lease_s=1.0, drain_s=0.05):
            await eventually(
                lambda run=run: run in reported,  # type: ignore[misc]
                within_s=20,
                why=f"handler {run} has reported its progress",
            )
    async with listening(bus, [count], lease_s=1.0):
        reply = await request
    assert [progress.get("done") for progress in seen] == [None, 1, 2]
    assert reply["payload"] == {"done": 3}


async def test_a_saga_with_a_payload_that_is_too_large_is_compensated(bus: Bus) -> None:
    """A command that cannot be sent fails its step, without further attempts."""
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
    """The id is an idempotency key; with another input it is an error."""
    runner = SagaRunner(bus, TRIP)
    assert await runner.start({"n": 1}, saga_id="s") == "s"
    assert await runner.start({"n": 1}, saga_id="s") == "s"
    with pytest.raises(SagaError, match="another input"):
        await runner.start({"n": 2}, saga_id="s")
    await runner.compensate("s", "enough")
    assert (await runner.wait("s")).status == "compensated"


async def test_an_unknown_saga_is_named(bus: Bus) -> None:
    """A saga of another declaration is unknown too."""
    runner = SagaRunner(bus, TRIP)
    with pytest.raises(NoSuchSaga, match="nobody"):
        await runner.journal("nobody")
    await SagaRunner(bus, Saga("other", (_step("a"),))).start({}, saga_id="s")
    with pytest.raises(NoSuchSaga, match="'other', not a 'trip'"):
        await runner.journal("s")


@pytest.mark.invariant(7)
async def test_all_keys_of_an_ended_saga_expire(bus: Bus) -> None:
    """Journal, journal stream, replies and records get their TTL when the saga ends."""
    recorder = Recorder(c_do=1)
    async with listening(bus, recorder.handlers()):
        runner = SagaRunner(bus, TRIP)
        saga_id = await runner.start({})
        outcome = await runner.run(saga_id)
    names = [f"saga:{saga_id}", f"saga:{saga_id}:journal", f"saga:{saga_id}:replies"]
    names += [f"request:{entry.request_id}" for entry in outcome.entries]
    assert len(names) == 9
    for name in names:
        assert await call(bus, "PTTL", name) > 0, name


async def test_a_saga_that_an_operator_compensates_ends_with_a_runner_that_dispatches(
    bus: Bus,
) -> None:
    """It has nothing to undo: any call of a runner, which has the declaration, ends it."""
    step = Step("wait", "nobody:commands", "nobody:does", lambda given, _results: given)
    saga = Saga("undone", (step,))
    sent: list[str] = []

    async def dispatch(saga_id: str, _step: str) -> None:
        sent.append(saga_id)

    runner = SagaRunner(bus, saga, dispatch=dispatch)
    for drive in (runner.wake, runner.advance):
        saga_id = await runner.start({})
        await compensate_saga(bus, await runner.journal(saga_id), "no stock")
        assert (await runner.journal(saga_id)).status == "compensating"
        assert (await drive(saga_id)).status == "compensated"
        assert (await runner.journal(saga_id)).error["message"] == "no stock"
    assert len(sent) == 2, "nothing is dispatched after the start"


def _tenant(data: dict[str, Any], _results: object) -> Priority:
    return Priority("high", fairness_key=data["tenant"])


async def test_a_step_and_its_compensation_have_its_priority(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that a function makes from the input, so that tenants take turns."""
    sent: dict[str, Priority | None] = {}
    send = bus.request_and_reply

    async def noted(stream: str, event_type: str, *args: Any, **options: Any) -> dict[str, Any]:
        sent[event_type] = options["priority"]
        return await send(stream, event_type, *args, **options)

    monkeypatch.setattr(bus, "request_and_reply", noted)
    low = Priority("low")
    saga = Saga("trip", (_step("a", priority=_tenant), _step("b", priority=low), _step("c")))
    async with listening(bus, Recorder(c_do=1).handlers()):
        runner = SagaRunner(bus, saga)
        outcome = await runner.run(await runner.start({"tenant": "acme"}))
    assert outcome.status == "compensated"
    acme = Priority("high", fairness_key="acme")
    forward = {"a:do": acme, "b:do": low, "c:do": None}
    assert sent == forward | {"c:undo": None, "b:undo": low, "a:undo": acme}


async def test_a_priority_that_cannot_be_made_compensates_the_saga(bus: Bus) -> None:
    """As a payload that cannot be made: the step is not sent, and its compensation is."""
    saga = Saga("trip", (_step("a", priority=lambda data, results: "high"),))
    recorder, runner = Recorder(), SagaRunner(bus, saga)
    async with listening(bus, recorder.handlers()):
        outcome = await runner.run(await runner.start({}))
    assert (outcome.status, recorder.ran) == ("compensated", ["a:undo"])
    assert "cannot make the priority of step 'a' (forward)" in outcome.error["message"]
    with pytest.raises(SagaError, match="priority must be a Priority or a function"):
        _step("a", priority="high")
