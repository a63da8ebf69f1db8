"""Sagas with branches, waits and versions on a server."""

import asyncio
import time
from typing import Any

import pytest

from sagastream import Bus, Command, InvalidMessage, multi_stage_reply
from sagastream.errors import SagaError
from sagastream.saga import (
    Child,
    Compensation,
    ForEach,
    Parallel,
    Saga,
    SagaRunner,
    Step,
    WaitFor,
    send_event,
    signal_saga,
)
from sagastream.saga.store import SagaStore
from tests.listeners import listening
from tests.plain_client import call
from tests.polling import eventually

STREAM = "shop:commands"
did: list[str] = []
running: set[str] = set()
most: list[int] = []
gate = asyncio.Event()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    """Each test notes its own work."""
    global gate  # noqa: PLW0603 - an event belongs to the loop of its test
    did.clear()
    running.clear()
    most.clear()
    gate = asyncio.Event()


@multi_stage_reply(stream=STREAM, event_type="shop:do")
async def do(command: Command) -> dict[str, Any]:
    """Note what is done; wait or fail as the payload says."""
    name = command.payload["name"]
    running.add(name)
    most.append(len(running))
    try:
        if command.payload.get("waits"):
            await gate.wait()
        if command.payload.get("fails"):
            raise ValueError(f"{name} fails")
        await asyncio.sleep(command.payload.get("for_s", 0))
        did.append(name)
    finally:
        running.discard(name)
    return {"name": name}


@multi_stage_reply(stream=STREAM, event_type="shop:undo")
async def undo(command: Command) -> dict[str, Any]:
    """Note what is undone."""
    did.append(f"-{command.payload['name']}")
    return {}


def _step(name: str, *, compensated: bool = True, **payload: Any) -> Step:
    undoing = Compensation("shop:undo", lambda _given, _results: {"name": name})
    return Step(
        name,
        STREAM,
        "shop:do",
        lambda _given, _results: {"name": name} | payload,
        undoing if compensated else None,
    )


def _each(name: str, **payload: Any) -> Step:
    return Step(
        name,
        STREAM,
        "shop:do",
        lambda _given, _results, item: {"name": f"{name}-{item}"} | payload,
        Compensation("shop:undo", lambda _given, _results, item: {"name": f"{name}-{item}"}),
    )


async def _run(bus: Bus, saga: Saga, given: dict[str, Any] | None = None) -> Any:
    runner = SagaRunner(bus, saga)
    return await asyncio.wait_for(runner.run(await runner.start(given or {})), 20)


async def test_branches_run_at_the_same_time(bus: Bus) -> None:
    """All of them run before one has ended; then the saga goes on."""
    saga = Saga(
        "trip",
        (Parallel(*(_step(name, waits=True) for name in "abc")), _step("d")),
    )
    runner = SagaRunner(bus, saga)
    async with listening(bus, [do, undo]):
        driving = asyncio.create_task(runner.run(await runner.start({})))
        await eventually(lambda: len(running) == 3, within_s=10, why="all branches run")
        gate.set()
        outcome = await asyncio.wait_for(driving, 20)
    assert outcome.status == "completed"
    assert sorted(did[:3]) == ["a", "b", "c"]
    assert did[3] == "d"
    assert sorted(outcome.results) == ["a", "b", "c", "d"]


async def test_a_failure_stops_and_undoes_the_other_branches(bus: Bus) -> None:
    """One that runs is cancelled, also without a compensation; what came before is undone last."""
    saga = Saga(
        "trip",
        (
            _step("a"),
            Parallel(
                _step("b", waits=True),
                _step("c", waits=True, compensated=False),
                (_step("d"), _step("e", fails=True)),
            ),
        ),
    )
    async with listening(bus, [do, undo]):
        outcome = await _run(bus, saga)
        assert outcome.status == "compensated"
        await eventually(lambda: not running, within_s=10, why="what ran is cancelled")
    assert did[:2] == ["a", "d"]
    assert set(did[2:-1]) == {"-b", "-d", "-e"}
    assert did.index("-e") < did.index("-d")
    assert did[-1] == "-a"
    assert outcome.error["message"] == "e fails"


async def test_items_of_a_list_run_in_bounded_numbers(bus: Bus) -> None:
    """Each once; the results are in their order."""
    saga = Saga("trip", (ForEach(_each("ship", for_s=0.05), lambda given, _: given["of"], 3),))
    async with listening(bus, [do, undo]):
        outcome = await _run(bus, saga, {"of": list(range(8))})
    assert outcome.status == "completed"
    assert max(most) == 3
    names = [f"ship-{index}" for index in range(8)]
    assert sorted(did) == names
    assert outcome.results["ship"]["results"] == [{"name": name} for name in names]


async def test_a_child_saga_is_undone_with_its_parent(bus: Bus) -> None:
    """Its steps are in the parent's journal."""
    child = Saga("payment", (_step("hold"), _step("pay")))
    saga = Saga("trip", (Child("money", child, lambda given, _: given), _step("z", fails=True)))
    async with listening(bus, [do, undo]):
        outcome = await _run(bus, saga)
    assert outcome.status == "compensated"
    assert did == ["hold", "pay", "-z", "-pay", "-hold"]


async def test_two_runners_run_each_branch_once(bus: Bus) -> None:
    """They share the journal: its compare-and-set decides."""
    saga = Saga("trip", (Parallel(*(_step(f"s{n}", for_s=0.02) for n in range(6))), _step("z")))
    runners = [SagaRunner(bus, saga) for _ in range(3)]
    async with listening(bus, [do, undo]):
        saga_id = await runners[0].start({})
        outcomes = await asyncio.gather(*(runner.run(saga_id) for runner in runners))
    assert {outcome.status for outcome in outcomes} == {"completed"}
    assert sorted(did) == sorted([f"s{n}" for n in range(6)] + ["z"])


async def test_branches_are_dispatched_to_other_processes(bus: Bus) -> None:
    """Each by its name; a message that is lost or repeated does no harm."""
    saga = Saga("trip", (Parallel(_step("a"), (_step("b"), _step("c"))), _step("d")))
    tasks: list[asyncio.Task[Any]] = []

    async def dispatch(saga_id: str, step: str) -> None:
        tasks.extend(asyncio.create_task(runner.advance(saga_id, step)) for _ in range(2))

    runner = SagaRunner(bus, saga, dispatch=dispatch)
    async with listening(bus, [do, undo]):
        outcome = await asyncio.wait_for(runner.run(await runner.start({})), 20)
        await asyncio.gather(*tasks)
    assert outcome.status == "completed"
    assert sorted(did) == ["a", "b", "c", "d"]
    assert did[-1] == "d"


WAITING = Saga("order", (_step("a"), WaitFor("approval"), _step("b")))


async def _waiting(bus: Bus, saga_id: str, saga: Saga = WAITING) -> None:
    async def waits() -> bool:
        journal = await SagaRunner(bus, saga).journal(saga_id)
        return any(entry.status == "waiting" for entry in journal.entries)

    await eventually(waits, within_s=10, why="it waits")


async def test_an_event_wakes_its_saga(bus: Bus) -> None:
    """Soon, by any process that serves; meanwhile no task belongs to it."""
    runner = SagaRunner(bus, WAITING)
    async with listening(bus, [do, undo]):
        serving = asyncio.create_task(runner.serve())
        saga_id = await runner.start({})
        await _waiting(bus, saga_id)
        await eventually(lambda: _is_registered(bus, saga_id), within_s=10, why="it has registered")
        assert not [task for task in asyncio.all_tasks() if "_drive" in repr(task)]
        due = float(await call(bus, "ZSCORE", "sagas:order:open", saga_id))
        assert due / 1000 > time.time() + 80_000
        sent = time.monotonic()
        assert await signal_saga(bus, saga_id, "approval", {"by": "ada"})
        outcome = await asyncio.wait_for(runner.wait(saga_id), 10)
        took = time.monotonic() - sent
        serving.cancel()
    assert outcome.status == "completed"
    assert outcome.results["approval"] == {"by": "ada"}
    assert took < 3.0
    assert did == ["a", "b"]


async def _is_registered(bus: Bus, saga_id: str) -> bool:
    return bool(await call(bus, "EXISTS", f"signal:{saga_id}:approval"))


@pytest.mark.parametrize("serves", [True, False])
async def test_an_event_goes_on_while_another_branch_runs(bus: Bus, *, serves: bool) -> None:
    """Its branch does not wait for the other one; a runner that dies leaves the saga due soon."""
    saga = Saga("order", (Parallel(_step("long", waits=True), (WaitFor("go"), _step("b"))),))
    runner = SagaRunner(bus, saga)
    async with listening(bus, [do, undo]):
        saga_id = await runner.start({})
        driving = asyncio.create_task(runner.serve() if serves else runner.run(saga_id))
        await eventually(lambda: running == {"long"}, within_s=10, why="the other branch runs")
        await call(bus, "DEL", f"signal:{saga_id}:go")
        await eventually(
            lambda: call(bus, "EXISTS", f"signal:{saga_id}:go"), within_s=10, why="it looks again"
        )
        due = float(await call(bus, "ZSCORE", "sagas:order:open", saga_id))
        assert due / 1000 < time.time() + 15
        assert await signal_saga(bus, saga_id, "go")
        await eventually(lambda: did == ["b"], within_s=10, why="the other branch goes on")
        gate.set()
        outcome = await asyncio.wait_for(runner.wait(saga_id), 10)
        driving.cancel()
    assert outcome.status == "completed"
    assert did == ["b", "long"]


async def test_an_event_that_comes_early_is_kept(bus: Bus) -> None:
    """It ends the wait at once."""
    runner = SagaRunner(bus, WAITING)
    assert not await signal_saga(bus, "early", "approval", {"by": "ada"})
    async with listening(bus, [do, undo]):
        outcome = await runner.run(await runner.start({}, saga_id="early"))
    assert outcome.results["approval"] == {"by": "ada"}


async def test_an_event_by_key_wakes_all_that_wait_for_it(bus: Bus) -> None:
    """The key follows from the input; the first payload stays."""
    saga = Saga("order", (WaitFor("paid", key=lambda given, _: f"payment:{given['n']}"),))
    runner = SagaRunner(bus, saga)
    ids = [await runner.start({"n": n}, saga_id=f"o-{n}-{m}") for n in (1, 2) for m in (1, 2)]
    driving = [asyncio.create_task(runner.run(saga_id)) for saga_id in ids]
    for n in (1, 2):
        await eventually(
            lambda n=n: call(bus, "HLEN", f"event:payment:{n}"),  # type: ignore[misc]
            within_s=10,
            why="they have registered",
        )
    await send_event(bus, "payment:1", {"sum": 5})
    await send_event(bus, "payment:1", {"sum": 5})
    with pytest.raises(SagaError, match="event payment:1 was sent before, with another payload"):
        await send_event(bus, "payment:1", {"sum": 6})
    woken, waiting = driving[:2], driving[2:]
    outcomes = await asyncio.wait_for(asyncio.gather(*woken), 20)
    assert [outcome.results["paid"]["sum"] for outcome in outcomes] == [5, 5]
    done, _ = await asyncio.wait(waiting, timeout=0.5)
    assert not done
    await send_event(bus, "payment:2")
    outcomes = await asyncio.gather(*waiting)
    assert [outcome.results["paid"] for outcome in outcomes] == [{}, {}]


@pytest.mark.parametrize(
    ("on_timeout", "status", "done"),
    [("fail", "compensated", ["a", "-a"]), ("continue", "completed", ["a", "b"])],
)
async def test_a_wait_times_out(bus: Bus, on_timeout: Any, status: str, done: list[str]) -> None:
    """By the server's time, whichever process serves then."""
    wait = WaitFor("approval", timeout=0.4, on_timeout=on_timeout)
    saga = Saga("order", (_step("a"), wait, _step("b")))
    runner = SagaRunner(bus, saga)
    async with listening(bus, [do, undo]):
        serving = asyncio.create_task(runner.serve())
        saga_id = await runner.start({})
        outcome = await asyncio.wait_for(runner.wait(saga_id), 10)
        serving.cancel()
    assert outcome.status == status
    assert did == done
    if on_timeout == "fail":
        assert outcome.error["error_type"] == "EventTimeout"


async def test_an_event_may_be_refused(bus: Bus) -> None:
    """By its payload: the saga is compensated."""
    wait = WaitFor("approval", accept=lambda event: event["ok"])
    saga = Saga("order", (_step("a"), wait, _step("b")))
    async with listening(bus, [do, undo]):
        for saga_id, payload, kind in (
            ("no", {"ok": False}, "EventRejected"),
            ("x", {}, "KeyError"),
        ):
            await signal_saga(bus, saga_id, "approval", payload)
            runner = SagaRunner(bus, saga)
            outcome = await runner.run(await runner.start({}, saga_id=saga_id))
            assert (outcome.status, outcome.error["error_type"]) == ("compensated", kind)


async def test_a_runner_that_dies_while_its_saga_waits_loses_no_event(bus: Bus) -> None:
    """It died before it had noted the wait; another one does when the saga is due."""
    runner = SagaRunner(bus, WAITING, wake_after_s=0.5)
    async with listening(bus, [do, undo]):
        saga_id = await runner.start({})
        await runner.advance(saga_id, "a")
        await _waiting(bus, saga_id)
        await call(bus, "DEL", f"signal:{saga_id}:approval")
        await call(bus, "ZADD", "sagas:order:open", 0, saga_id)
        await signal_saga(bus, saga_id, "approval")
        serving = asyncio.create_task(runner.serve())
        outcome = await asyncio.wait_for(runner.wait(saga_id), 10)
        serving.cancel()
    assert outcome.status == "completed"


async def test_a_waiting_saga_is_compensated_by_an_operator(bus: Bus) -> None:
    """Its wait ends; an event that comes later changes nothing."""
    runner = SagaRunner(bus, WAITING)
    async with listening(bus, [do, undo]):
        saga_id = await runner.start({})
        await runner.advance(saga_id)
        await runner.compensate(saga_id, "enough")
        outcome = await runner.run(saga_id)
        await signal_saga(bus, saga_id, "approval")
        assert (await runner.run(saga_id)).status == outcome.status == "compensated"
    assert did == ["a", "-a"]


@pytest.mark.parametrize(("name", "keep_s"), [("", 1.0), ("a b", 1.0), ("a", 0.0)])
async def test_a_wrong_signal_is_refused(bus: Bus, name: str, keep_s: float) -> None:
    """With the name of the argument."""
    with pytest.raises(InvalidMessage):
        await signal_saga(bus, "s", name, keep_s=keep_s)


OLD = Saga("trip", (_step("a"), _step("b")))
NEW = Saga("trip", (_step("a"), _step("x"), _step("b")), version=2)


async def test_open_sagas_go_on_with_the_version_that_they_began_with(bus: Bus) -> None:
    """New ones begin with the new one; a runner that has both drives both."""
    old = await SagaRunner(bus, OLD).start({})
    runner = SagaRunner(bus, NEW, older=[OLD])
    new = await runner.start({})
    async with listening(bus, [do, undo]):
        assert (await runner.run(old)).status == "completed"
        assert did == ["a", "b"]
        did.clear()
        assert (await runner.run(new)).status == "completed"
    assert did == ["a", "x", "b"]


async def test_runners_of_two_versions_live_side_by_side(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """Each drives its own sagas, and leaves the others alone."""
    first, second = SagaRunner(bus, OLD), SagaRunner(bus, NEW)
    ids = [await runner.start({}) for _ in range(4) for runner in (first, second)]
    async with listening(bus, [do, undo]):
        serving = [asyncio.create_task(runner.serve()) for runner in (first, second)]
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(first.wait(saga_id) for saga_id in ids)), 30
        )
        for task in serving:
            task.cancel()
    assert {outcome.status for outcome in outcomes} == {"completed"}
    steps = [[entry.step for entry in outcome.entries] for outcome in outcomes]
    assert steps == [["a", "b"], ["a", "x", "b"]] * 4
    with pytest.raises(SagaError, match="began with version 2 of 'trip', and this runner has"):
        await first.advance(await second.start({}))


def test_a_runner_drives_the_sagas_of_one_name(bus: Bus) -> None:
    """Versions of another declaration are refused."""
    with pytest.raises(SagaError, match="older"):
        SagaRunner(bus, NEW, older=[Saga("other", (_step("a"),))])


class Died(BaseException):
    """The process of a runner was killed."""


DYING = Saga(
    "trip",
    (
        _step("a"),
        Parallel(_step("b"), (_step("c"), _step("d")), failure="all"),
        ForEach(_each("ship"), lambda _given, _results: [1, 2], at_once=1),
        WaitFor("approval"),
        Child("in", Saga("inner", (_step("p"),)), lambda given, _results: given),
        _step("z", fails=True),
    ),
)


@pytest.mark.invariant(9)
@pytest.mark.parametrize("is_written", [False, True], ids=["before", "after"])
async def test_a_runner_may_die_at_each_move(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    """Before or after each write of the journal; another one goes on, and nothing is doubled."""
    put, left = SagaStore.put, 0

    async def dying(self: SagaStore, *args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        dies = left == 0
        if dies and not is_written:
            raise Died
        written = await put(self, *args, **options)
        if dies:
            raise Died
        return written

    monkeypatch.setattr(SagaStore, "put", dying)
    async with listening(bus, [do, undo]):
        for moves in range(1, 40):
            did.clear()
            saga_id, left = f"t-{moves}", 0
            await SagaRunner(bus, DYING).start({}, saga_id=saga_id)
            await signal_saga(bus, saga_id, "approval")
            left = moves
            has_died = await _dies(SagaRunner(bus, DYING), saga_id)
            left = 0
            outcome = await asyncio.wait_for(SagaRunner(bus, DYING).run(saga_id), 20)
            assert outcome.status == "compensated"
            forward = [name for name in did if not name.startswith("-")]
            undone = [name for name in did if name.startswith("-")]
            assert sorted(forward) == sorted(["a", "b", "c", "d", "ship-1", "ship-2", "p"])
            assert sorted(undone) == sorted([f"-{name}" for name in (*forward, "z")])
            assert undone[:2] == ["-z", "-p"]
            assert undone.index("-d") < undone.index("-c")
            assert undone[-1] == "-a"
            if not has_died:
                break
    assert moves > 25, "it died at each move"


async def _dies(runner: SagaRunner, saga_id: str) -> bool:
    """Drive a saga; returns whether the runner died before its end."""
    try:
        await runner.run(saga_id)
    except Died:
        return True
    return False
