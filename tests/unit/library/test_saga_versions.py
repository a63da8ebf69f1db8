"""What breaks for open sagas before a declaration is deployed, and signals by verb."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sagastream import Bus
from sagastream.cli.main import main
from sagastream.saga import (
    Child,
    Compensation,
    ForEach,
    Journal,
    Parallel,
    Saga,
    SagaRunner,
    Step,
    WaitFor,
    next_actions,
)
from sagastream.saga.administration import check_sagas
from sagastream.saga.compatibility import problems_of
from sagastream.saga.journal import conclude, intend, settle, start_compensating
from tests.plain_client import call

ERROR = {"error_type": "Boom", "message": "it broke", "trace_id": ""}


def _step(name: str, *, undo: bool = True, event_type: str = "s:do") -> Step:
    compensation = Compensation("s:undo", lambda _given, _results: {})
    return Step(
        name,
        "s:commands",
        event_type,
        lambda _given, _results: {},
        compensation if undo else None,
    )


def _after(saga: Saga, count: int) -> Journal:
    """The journal of a saga after some requests."""
    journal = settle(saga, Journal("s", "trip", "c", {}, v=3, version=saga.version), now=0.0)
    for _ in range(count):
        action = next_actions(saga, journal)[0]
        journal = intend(saga, journal, action, now=0.0, max_attempts=3)
        entry = journal.last(*action.key)
        assert entry
        journal = conclude(saga, journal, entry.request_id, now=1.0, result={}, max_attempts=3)
    return journal


TRIP = Saga("trip", (_step("a"), _step("b"), _step("c")))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (TRIP, None),
        (Saga("trip", (_step("a"), _step("b"), _step("c"), _step("d"))), None),
        (Saga("trip", (_step("a"), _step("b"), _step("x"), _step("c"))), None),
        (Saga("trip", (_step("a"), _step("b"))), None),
        (Saga("trip", (_step("b"), _step("c"))), "step 'a' has run and is no longer declared"),
        (
            Saga("trip", (_step("x"), _step("a"), _step("b"), _step("c"))),
            "step 'x' is declared before 'a', which has begun",
        ),
        (
            Saga("trip", (_step("a"), Parallel(_step("x"), _step("y")), _step("b"))),
            "step 'x | y' is declared before 'b'",
        ),
        (
            Saga("trip", (_step("a"), WaitFor("b"), _step("c"))),
            "step 'b' is of another kind now",
        ),
        (
            Saga("trip", (_step("a"), Child("b", TRIP, lambda given, _: given), _step("c"))),
            "step 'b' is of another kind now",
        ),
    ],
)
def test_changes_of_a_declaration(changed: Saga, problem: str | None) -> None:
    """For a saga that has done its first two steps; the third is still free."""
    found = problems_of(changed, _after(TRIP, 2))
    if problem is None:
        assert found == []
    else:
        assert found
        assert problem in found[0]


def test_a_version_that_is_not_declared() -> None:
    """Its sagas cannot go on."""
    assert "version 1 is not declared" in problems_of(None, _after(TRIP, 1))[0]


def test_a_compensation_that_is_needed_and_gone() -> None:
    """While it is under way."""
    journal = _after(TRIP, 1)
    journal = settle(TRIP, start_compensating(journal, ERROR, now=1.0), now=1.0)
    (undo,) = next_actions(TRIP, journal)
    journal = intend(TRIP, journal, undo, now=1.0, max_attempts=3)
    without = Saga("trip", (_step("a", undo=False), _step("b"), _step("c")))
    assert "has no compensation now" in problems_of(without, journal)[0]
    assert problems_of(TRIP, journal) == []


def test_inside_branches_lists_and_children() -> None:
    """The same rules; an item belongs to its list."""
    each = ForEach(
        Step("ship", "s:commands", "s:do", lambda _given, _results, _item: {}),
        lambda _given, _results: [1, 2],
    )
    child = Saga("inner", (_step("p"), _step("q")))
    saga = Saga("trip", (Parallel((_step("a"), _step("b")), each), Child("in", child, _given)))
    journal = _after(saga, 5)
    assert problems_of(saga, journal) == []
    inner = Saga("inner", (_step("x"), _step("p"), _step("q")))
    late = Saga("trip", (Parallel((_step("a"), _step("b")), each), Child("in", inner, _given)))
    assert "step 'in/x' is declared before 'in/p'" in problems_of(late, journal)[0]
    in_branch = Saga("trip", (Parallel((_step("x"), _step("a"), _step("b")), each),))
    assert any(
        "step 'x' is declared before 'a'" in each for each in problems_of(in_branch, journal)
    )


def _given(given: Any, _results: Any) -> Any:
    return given


async def test_a_running_step_with_another_event_type(bus: Bus) -> None:
    """Its request would be refused when it is sent again."""
    runner = SagaRunner(bus, TRIP)
    driving = asyncio.create_task(runner.advance(await runner.start({}, saga_id="t")))
    while not await call(bus, "XLEN", "s:commands"):
        await asyncio.sleep(0)
    changed = Saga("trip", (_step("a", event_type="s:other"), _step("b"), _step("c")))
    assert await check_sagas(bus, [TRIP]) == []
    (found,) = await check_sagas(bus, [changed])
    assert "runs as s:do on s:commands, and is s:other on s:commands now" in found.problem
    assert found.saga_ids == ("t",)
    await runner.compensate("t", "the end of the test")
    await driving


@pytest.mark.blocking
async def test_the_verb_names_what_breaks(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And exits with 1; without modules it lists the versions of open sagas."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = """
from sagastream.saga import Saga, Step
NEW = Saga("trip", (Step("x", "s:commands", "s:do", lambda given, _: given),), version=2)
"""
    (tmp_path / "flows_of_a_test.py").write_text(source)
    old = "\nOLD = Saga('trip', (Step('a', 's:commands', 's:do', lambda given, _: given),))\n"
    (tmp_path / "both_flows_of_a_test.py").write_text(source + old)
    await SagaRunner(bus, TRIP).start({}, saga_id="t-1")

    async def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        options = ["--url", bus.url, "--namespace", bus.namespace, "saga", "check", *arguments]
        code = await asyncio.to_thread(main, [*options, "-o", "json"])
        return code, json.loads(capsys.readouterr().out)

    code, rows = await run("flows_of_a_test")
    assert code == 1
    assert (rows[0]["saga"], rows[0]["version"], rows[0]["first"]) == ("trip", 1, "t-1")
    assert "version 1 is not declared" in rows[0]["problem"]
    assert await run("both_flows_of_a_test") == (0, [])
    code, rows = await run()
    assert (code, rows[0]["sagas"], rows[0]["verdict"]) == (0, 1, "ok")


@pytest.mark.blocking
async def test_the_verb_signals(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    """A saga that waits, one that will, and none that has ended."""
    saga = Saga("order", (WaitFor("approval"), WaitFor("later")))
    runner = SagaRunner(bus, saga)
    await runner.start({}, saga_id="o-1")

    async def run(*arguments: str) -> tuple[int, str, str]:
        options = ["--url", bus.url, "--namespace", bus.namespace, "saga", "signal", *arguments]
        code = await asyncio.to_thread(main, options)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert await run("o-1", "later") == (
        *(0, "o-1 has got later\n"),
        "the saga does not wait for later now; the event is kept for 7 days\n",
    )
    assert await run("o-", "approval", "--payload", '{"by": "ada"}') == (
        *(0, "o-1 has got approval\n", ""),
    )
    outcome = await runner.run("o-1")
    assert outcome.results == {"approval": {"by": "ada"}, "later": {}}
    code, _, err = await run("o-1", "approval")
    assert code == 1
    assert err == "sagastream: saga o-1 is completed; it waits for no event\n"
