"""Sagas with branches, conditions, lists, children and waits as a pure state machine."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagastream.errors import SagaError
from sagastream.saga import (
    Child,
    ForEach,
    Journal,
    Parallel,
    Saga,
    Step,
    WaitFor,
    next_actions,
)
from sagastream.saga.journal import conclude, intend, resume, settle, start_compensating
from sagastream.saga.state import JournalEntry
from sagastream.saga.walk import open_waits
from tests.saga_schedules import (
    ATTEMPTS,
    ERROR,
    described,
    item_step,
    new_journal,
    run_schedule,
    step,
)


def _begin(saga: Saga, **given: Any) -> Journal:
    return settle(saga, new_journal(**given), now=0.0)


def _names(saga: Saga, journal: Journal) -> list[str]:
    return [f"{'-' * (a.direction == 'undo')}{a.step.name}" for a in next_actions(saga, journal)]


def _end(
    saga: Saga, journal: Journal, name: str, *, error: dict[str, Any] | None = None
) -> Journal:
    """Let the request of a step end that is needed now; `-name` is its compensation."""
    action = next(
        each
        for each in next_actions(saga, journal)
        if (each.step.name, each.direction)
        == (name.removeprefix("-"), "undo" if name.startswith("-") else "forward")
    )
    journal = intend(saga, journal, action, now=1.0, max_attempts=ATTEMPTS)
    entry = journal.last(*action.key)
    assert entry
    return conclude(
        *(saga, journal, entry.request_id),
        now=2.0,
        result={"by": action.step.name},
        error=error,
        max_attempts=ATTEMPTS,
    )


def test_branches_run_at_the_same_time() -> None:
    """The saga goes on when all have ended, in any order."""
    saga = Saga(
        "trip",
        (
            step("a"),
            Parallel(step("b"), (step("c"), step("d"))),
            step("e"),
        ),
    )
    journal = _begin(saga)
    assert _names(saga, journal) == ["a"]
    journal = _end(saga, journal, "a")
    assert _names(saga, journal) == ["b", "c"]
    journal = _end(saga, journal, "c")
    assert _names(saga, journal) == ["b", "d"]
    journal = _end(saga, journal, "d")
    journal = _end(saga, journal, "b")
    assert _names(saga, journal) == ["e"]
    journal = _end(saga, journal, "e")
    assert journal.status == "completed"


@pytest.mark.invariant(9)
def test_branches_are_compensated_at_the_same_time_after_what_came_later() -> None:
    """Each branch in reverse; what came before the branches is undone when all are."""
    saga = Saga(
        "trip",
        (
            step("a"),
            Parallel(step("b"), (step("c"), step("d"))),
            step("e"),
        ),
    )
    journal = _begin(saga)
    for name in ("a", "b", "c", "d"):
        journal = _end(saga, journal, name)
    journal = _end(saga, journal, "e", error=ERROR)
    assert (journal.status, journal.error) == ("compensating", ERROR)
    assert _names(saga, journal) == ["-e"]
    journal = _end(saga, journal, "-e")
    assert _names(saga, journal) == ["-b", "-d"]
    journal = _end(saga, journal, "-d")
    assert _names(saga, journal) == ["-b", "-c"]
    journal = _end(saga, journal, "-c")
    journal = _end(saga, journal, "-b")
    assert _names(saga, journal) == ["-a"]
    assert _end(saga, journal, "-a").status == "compensated"


def test_the_first_failure_compensates_what_runs_too() -> None:
    """The running branch counts as failed, and late news of it change nothing."""
    saga = Saga("trip", (Parallel(step("a"), step("b")),))
    journal = _begin(saga)
    for action in next_actions(saga, journal):
        journal = intend(saga, journal, action, now=0.0, max_attempts=ATTEMPTS)
    running = journal.last("a", "forward")
    assert running
    journal = _end(saga, journal, "b", error=ERROR)
    assert journal.status == "compensating"
    assert _names(saga, journal) == ["-a", "-b"]
    late = conclude(saga, journal, running.request_id, now=3.0, result={}, max_attempts=ATTEMPTS)
    assert late == journal


def test_all_branches_may_end_before_the_saga_is_compensated() -> None:
    """If it is asked for: the steps of the others still run."""
    saga = Saga(
        "trip",
        (Parallel(step("a"), (step("b"), step("c")), failure="all"),),
    )
    journal = _end(saga, _begin(saga), "a", error=ERROR)
    assert journal.status == "running"
    assert _names(saga, journal) == ["b"]
    journal = _end(saga, journal, "b")
    journal = _end(saga, journal, "c")
    assert journal.status == "compensating"
    assert journal.error == ERROR
    assert _names(saga, journal) == ["-a", "-c"]


def test_a_step_is_skipped_by_a_condition() -> None:
    """It has no result, and is not undone; the decision stays though the condition changes."""
    is_needed = False
    saga = Saga("trip", (step("a", when=lambda _given, _results: is_needed), step("b")))
    journal = _begin(saga)
    is_needed = True
    assert _names(saga, journal) == ["b"]
    assert [(e.step, e.status, e.kind) for e in journal.entries] == [("a", "skipped", "decision")]
    journal = _end(saga, journal, "b", error=ERROR)
    assert _names(saga, journal) == ["-b"]
    assert _end(saga, journal, "-b").status == "compensated"


def test_a_condition_sees_input_and_results() -> None:
    """Those of the steps before it."""
    saga = Saga(
        "trip",
        (
            step("a"),
            step("b", when=lambda given, results: results["a"]["by"] == given["who"]),
            step("c", when=lambda given, results: "b" in results),
        ),
    )
    assert _names(saga, _end(saga, _begin(saga, who="a"), "a")) == ["b"]
    journal = _end(saga, _begin(saga, who="me"), "a")
    assert journal.status == "completed"
    assert journal.results() == {"a": {"by": "a"}}


def test_a_condition_that_raises_compensates() -> None:
    """The step had no effect, so only those before it are undone."""
    saga = Saga("trip", (step("a"), step("b", when=lambda given, _results: given["x"])))
    journal = _end(saga, _begin(saga), "a")
    assert journal.status == "compensating"
    assert journal.error["error_type"] == "KeyError"
    assert "'b'" in journal.error["message"]
    assert _names(saga, journal) == ["-a"]


def test_a_step_for_each_item() -> None:
    """A bounded number at once; the results are in the order of the items."""
    saga = Saga("trip", (ForEach(item_step("ship"), lambda given, _: given["parcels"], 2),))
    journal = _begin(saga, parcels=["p", "q", "r"])
    assert _names(saga, journal) == ["ship[0]", "ship[1]"]
    journal = _end(saga, journal, "ship[1]")
    assert _names(saga, journal) == ["ship[0]", "ship[2]"]
    payloads = []
    for name in ("ship[2]", "ship[0]"):
        journal = _end(saga, journal, name)
        payloads.append(journal.entries[-1].payload)
    assert journal.status == "completed"
    assert payloads == [{"item": "r"}, {"item": "p"}]
    by_item = [{"by": f"ship[{index}]"} for index in range(3)]
    assert journal.results() == {"ship": {"items": ["p", "q", "r"], "results": by_item}}


def test_a_failed_item_compensates_those_that_began() -> None:
    """A bounded number at once, with their items; the others never begin."""
    saga = Saga("trip", (ForEach(item_step("ship"), lambda given, _: given["parcels"], 2),))
    journal = _begin(saga, parcels=[1, 2, 3, 4])
    for name in ("ship[0]", "ship[1]"):
        journal = _end(saga, journal, name)
    journal = _end(saga, journal, "ship[2]", error=ERROR)
    assert _names(saga, journal) == ["-ship[0]", "-ship[1]"]
    journal = _end(saga, journal, "-ship[0]")
    assert journal.entries[-1].payload == {"item": 1}
    assert _names(saga, journal) == ["-ship[1]", "-ship[2]"]
    journal = _end(saga, _end(saga, journal, "-ship[1]"), "-ship[2]")
    assert journal.status == "compensated"


@pytest.mark.parametrize(
    ("items", "status"), [([], "completed"), ("text", "compensated"), (None, "compensated")]
)
def test_lists_that_are_empty_or_none(items: Any, status: str) -> None:
    """An empty one is done; what is no list compensates."""
    saga = Saga("trip", (ForEach(item_step("ship"), lambda given, _: given["parcels"]),))
    assert _begin(saga, parcels=items).status == status


def test_a_child_saga_has_its_own_input_and_results() -> None:
    """Its steps are undone with the saga, also after it has completed."""
    seen: list[Any] = []

    def pay(given: Any, results: Any) -> dict[str, Any]:
        seen.append((given, dict(results)))
        return {}

    inner = Saga("payment", (step("hold"), Step("pay", "p:commands", "p:do", pay)))
    saga = Saga(
        "trip",
        (
            step("a"),
            Child("money", inner, lambda _given, results: results["a"]),
            step("z"),
        ),
    )
    journal = _end(saga, _begin(saga), "a")
    assert _names(saga, journal) == ["money/hold"]
    journal = _end(saga, journal, "money/hold")
    journal = _end(saga, journal, "money/pay")
    assert seen == [({"by": "a"}, {"hold": {"by": "money/hold"}})]
    assert journal.results() == {
        "a": {"by": "a"},
        "money": {"hold": {"by": "money/hold"}, "pay": {"by": "money/pay"}},
    }
    journal = _end(saga, journal, "z", error=ERROR)
    journal = _end(saga, journal, "-z")
    assert _names(saga, journal) == ["-money/hold"]
    journal = _end(saga, _end(saga, journal, "-money/hold"), "-a")
    assert journal.status == "compensated"


def test_an_exhausted_compensation_lets_other_branches_be_undone_first() -> None:
    """Then the saga is stuck; a resume tries it again."""
    saga = Saga(
        "trip",
        (
            step("a"),
            Parallel(step("b"), step("c")),
            step("d"),
        ),
    )
    journal = _begin(saga)
    for name in ("a", "b", "c"):
        journal = _end(saga, journal, name)
    journal = _end(saga, _end(saga, journal, "d", error=ERROR), "-d")
    for _ in range(ATTEMPTS):
        journal = _end(saga, journal, "-b", error=ERROR)
    assert journal.status == "compensating"
    assert _names(saga, journal) == ["-c"]
    journal = _end(saga, journal, "-c")
    assert journal.status == "stuck"
    journal = resume(journal)
    assert _names(saga, journal) == ["-b"]
    journal = _end(saga, _end(saga, journal, "-b"), "-a")
    assert journal.status == "compensated"


def _wait_entry(journal: Journal) -> JournalEntry:
    (entry,) = open_waits(journal)
    return entry


def test_a_wait_needs_no_request() -> None:
    """Its event is its result, and the saga goes on."""
    saga = Saga(
        "trip",
        (
            step("a"),
            WaitFor("paid", key=lambda given, _: given["k"]),
            step("b"),
        ),
    )
    journal = _end(saga, _begin(saga, k="pay:1"), "a")
    assert (journal.status, _names(saga, journal)) == ("running", [])
    entry = _wait_entry(journal)
    assert entry.payload == {"key": "pay:1", "timeout_s": 86_400.0, "on_timeout": "fail"}
    journal = conclude(
        saga, journal, entry.request_id, now=5.0, result={"sum": 1}, max_attempts=ATTEMPTS
    )
    assert journal.results()["paid"] == {"sum": 1}
    assert _names(saga, journal) == ["b"]
    assert list(open_waits(journal)) == []


def test_a_wait_that_times_out_fails_or_goes_on() -> None:
    """As it says."""
    saga = Saga("trip", (step("a"), WaitFor("paid"), step("b")))
    journal = _end(saga, _begin(saga), "a")
    entry = _wait_entry(journal)
    options: dict[str, Any] = {"now": 5.0, "max_attempts": ATTEMPTS}
    failed = conclude(saga, journal, entry.request_id, error=ERROR, **options)
    assert _names(saga, failed) == ["-a"]
    gone_on = conclude(saga, journal, entry.request_id, is_skipped=True, **options)
    assert _names(saga, gone_on) == ["b"]
    assert "paid" not in gone_on.results()


def test_a_wait_ends_when_the_saga_is_compensated() -> None:
    """Its event then changes nothing."""
    saga = Saga("trip", (step("a"), WaitFor("paid")))
    journal = _end(saga, _begin(saga), "a")
    entry = _wait_entry(journal)
    journal = settle(saga, start_compensating(journal, ERROR, now=1.0), now=1.0)
    assert _names(saga, journal) == ["-a"]
    assert list(open_waits(journal)) == []
    late = conclude(saga, journal, entry.request_id, now=5.0, result={}, max_attempts=ATTEMPTS)
    assert late == journal


@pytest.mark.parametrize(
    "make",
    [
        Parallel,
        lambda: Parallel(()),
        lambda: Parallel(step("a"), failure="some"),  # type: ignore[arg-type]
        lambda: ForEach(item_step("a"), lambda given, _: given, at_once=0),
        lambda: ForEach(step("a", when=lambda given, _: True), lambda given, _: given),
        lambda: WaitFor("a", timeout=0.0),
        lambda: WaitFor("a", on_timeout="wait"),  # type: ignore[arg-type]
        lambda: Saga("trip", (Parallel(step("a"), step("b")), step("a"))),
        lambda: Saga("trip", (Parallel(step("a[0]"), step("b")),)),
        lambda: Saga("trip", (step("a"),), version=0),
    ],
)
def test_declarations_that_cannot_work_are_refused(make: Callable[[], Any]) -> None:
    """Where they are made."""
    with pytest.raises(SagaError):
        make()


# -- any declaration, any schedule of outcomes, deaths and re-reads -------------------


@settings(max_examples=300)
@given(st.data())
@pytest.mark.invariant(9)
def test_any_schedule_of_outcomes_compensates_right(data: Any) -> None:
    """Whatever ends, fails, dies and is read again: order, bounds, and everything intended undone."""

    def choose(values: Sequence[Any]) -> Any:
        return data.draw(st.sampled_from(values))

    run_schedule(described(choose), choose, is_stored=True)
