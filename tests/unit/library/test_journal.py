import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagastream.errors import SagaError
from sagastream.saga.definition import Compensation, Saga, Step
from sagastream.saga.journal import (
    Journal,
    abandon,
    conclude,
    dump,
    event_fields,
    intend,
    load,
    next_action,
    request_id_of,
    resume,
    superseded_by,
)

_ERROR = {"error_type": "Boom", "message": "it broke", "trace_id": ""}


def _step(name: str, *, undo: bool = True) -> Step:
    compensation = Compensation(f"{name}:undo", lambda data, results: {"known": sorted(results)})
    return Step(
        name,
        f"{name}:commands",
        f"{name}:do",
        lambda data, results: data | {"known": sorted(results)},
        compensation if undo else None,
    )


SAGA = Saga("trip", (_step("a"), _step("b", undo=False), _step("c"), _step("d")))


def _journal() -> Journal:
    return Journal(saga_id="s1", saga="trip", correlation_id="c1", input={"who": "me"})


def _drive(
    fails: Callable[[str, str, int], bool], *, saga: Saga = SAGA, journal: Journal | None = None
) -> tuple[Journal, list[tuple[str, str]]]:
    """Run a saga by its pure part alone, on from a journal; what was asked for, in order."""
    journal = journal or _journal()
    asked: list[tuple[str, str]] = []
    for now in range(200):
        what = next_action(saga, journal)
        if what is None:
            return journal, asked
        journal = intend(saga, journal, what, now=float(now), max_attempts=3)
        entry = journal.last(what.step.name, what.direction)
        assert entry is not None
        asked.append((what.step.name, what.direction))
        failed = fails(what.step.name, what.direction, what.attempt)
        journal = conclude(
            saga,
            journal,
            entry.request_id,
            now=float(now),
            result=None if failed else {"by": what.step.name},
            error=_ERROR if failed else None,
            max_attempts=3,
        )
    raise AssertionError("the saga does not end")


def test_all_steps_forward_in_order() -> None:
    """A saga in which nothing fails does each step once and is completed."""
    journal, asked = _drive(lambda step, direction, attempt: False)
    assert journal.status == "completed"
    assert asked == [(name, "forward") for name in "abcd"]
    assert journal.results() == {name: {"by": name} for name in "abcd"}


@pytest.mark.invariant(9)
def test_a_failure_undoes_in_reverse_with_the_failed_step() -> None:
    """The failed step may have acted, so it is undone too; one without effect is not."""
    journal, asked = _drive(lambda step, direction, attempt: step == "c" and direction == "forward")
    assert journal.status == "compensated"
    assert asked[3:] == [("c", "undo"), ("a", "undo")]
    assert journal.error == _ERROR


def test_a_compensation_is_retried_with_a_new_identity() -> None:
    """Another try is another request, so that the first one's outcome does not answer it."""
    journal, _ = _drive(
        lambda step, direction, attempt: step == "d" and (direction == "forward" or attempt < 3)
    )
    assert journal.status == "compensated"
    undone = [e for e in journal.entries if (e.step, e.direction) == ("d", "undo")]
    assert [e.status for e in undone] == ["failed", "failed", "completed"]
    assert len({e.request_id for e in undone}) == 3


@pytest.mark.invariant(9)
def test_a_compensation_that_always_fails_is_stuck() -> None:
    """It does not go on to earlier steps, and does not pretend to have ended well."""
    journal, asked = _drive(lambda step, direction, attempt: step == "c")
    assert journal.status == "stuck"
    assert asked[-3:] == [("c", "undo")] * 3
    assert ("a", "undo") not in asked


@given(st.sets(st.sampled_from([(s, d) for s in "abcd" for d in ("forward", "undo")])))
@pytest.mark.invariant(9)
def test_every_saga_ends_and_never_turns_forward_again(failing: set[tuple[str, str]]) -> None:
    """Whatever fails, it ends, and after the first undo nothing goes forward."""
    journal, asked = _drive(lambda step, direction, attempt: (step, direction) in failing)
    assert journal.is_over
    directions = [direction for _, direction in asked]
    assert directions == sorted(directions)
    undone = [step for step, direction in asked if direction == "undo"]
    assert undone == sorted(undone, reverse=True)


def test_a_second_outcome_changes_nothing() -> None:
    """The first terminal outcome of a request stays."""
    what = next_action(SAGA, _journal())
    assert what is not None
    journal = intend(SAGA, _journal(), what, now=0.0, max_attempts=3)
    request_id = journal.entries[0].request_id
    once = conclude(SAGA, journal, request_id, now=1.0, result={"n": 1}, max_attempts=3)
    assert conclude(SAGA, once, request_id, now=2.0, error=_ERROR, max_attempts=3) == once


@pytest.mark.invariant(9)
def test_an_intent_is_written_once() -> None:
    """Two engines that see the same state write the same intent."""
    what = next_action(SAGA, _journal())
    assert what is not None
    once = intend(SAGA, _journal(), what, now=0.0, max_attempts=3)
    assert intend(SAGA, once, what, now=5.0, max_attempts=3) == once


@pytest.mark.invariant(9)
def test_turning_back_covers_the_doubtful_step() -> None:
    """A step whose end is unknown is undone as well."""
    journal = _journal()
    what = next_action(SAGA, journal)
    assert what is not None
    journal = intend(SAGA, journal, what, now=0.0, max_attempts=3)
    journal = abandon(SAGA, journal, _ERROR, now=1.0, max_attempts=3)
    assert journal.error == _ERROR
    undo = next_action(SAGA, journal)
    assert undo is not None
    assert (undo.step.name, undo.direction) == ("a", "undo")


def test_an_ended_saga_does_not_turn_back() -> None:
    """What is completed is not undone by a late cancel."""
    journal, _ = _drive(lambda step, direction, attempt: False)
    assert abandon(SAGA, journal, _ERROR, now=1.0, max_attempts=3) == journal


@pytest.mark.invariant(1)
def test_identity_depends_on_all_that_makes_a_request() -> None:
    """Saga, step, direction and attempt each make another request; nothing else does."""
    ids = {
        request_id_of("s1", "a", "forward", 1),
        request_id_of("s2", "a", "forward", 1),
        request_id_of("s1", "b", "forward", 1),
        request_id_of("s1", "a", "undo", 1),
        request_id_of("s1", "a", "forward", 2),
    }
    assert len(ids) == 5
    assert request_id_of("s1", "a", "forward", 1) in ids


def test_a_journal_survives_its_json() -> None:
    """What is stored is what is read."""
    journal, _ = _drive(lambda step, direction, attempt: step == "d")
    assert load(dump(journal)) == journal


def test_a_journal_of_the_future_is_refused() -> None:
    """Code does not guess at schemas that it does not know."""
    text = dump(_journal()).replace('"v":2', '"v":99')
    with pytest.raises(SagaError, match="99"):
        load(text)


def test_a_payload_that_cannot_be_made_names_its_step() -> None:
    """A wrong declaration is found by the name of the step."""

    def broken(data: dict[str, Any], results: Any) -> dict[str, Any]:
        return {"missing": results["nobody"]}

    saga = Saga("broken", (Step("only", "s:commands", "s:do", broken),))
    what = next_action(saga, _journal())
    assert what is not None
    journal = intend(saga, _journal(), what, now=0.0, max_attempts=3)
    assert journal.status == "compensated"
    assert journal.error["message"].startswith(
        "cannot make the payload of step 'only' (forward): KeyError"
    )


def test_a_step_is_retried_before_the_saga_turns_round() -> None:
    """A step with two retries is tried three times, each with an identity of its own."""
    saga = Saga("trip", (replace(_step("a"), retries=2), _step("b")))
    journal, _ = _drive(lambda step, _, attempt: step == "a" and attempt < 3, saga=saga)
    assert journal.status == "completed"
    assert [(e.step, e.attempt, e.status) for e in journal.entries] == [
        ("a", 1, "failed"),
        ("a", 2, "failed"),
        ("a", 3, "completed"),
        ("b", 1, "completed"),
    ]
    assert len({e.request_id for e in journal.entries}) == 4


def test_a_resumed_saga_tries_its_compensation_anew() -> None:
    """It has as many tries as the first time, and goes on where it stood."""
    stuck, _ = _drive(lambda step, direction, attempt: step == "c")
    resumed = resume(stuck)
    assert resume(resumed) == resumed
    journal, _ = _drive(lambda step, _, attempt: step == "c" and attempt < 6, journal=resumed)
    assert journal.status == "compensated"
    undone = [(e.step, e.attempt) for e in journal.entries if e.direction == "undo"]
    assert undone == [("c", 1), ("c", 2), ("c", 3), ("c", 4), ("c", 5), ("c", 6), ("a", 1)]


@pytest.mark.invariant(9)
def test_what_may_still_act_is_closed_by_what_comes_after_it() -> None:
    """An undo closes every forward request in doubt, and its own earlier attempts."""
    saga = Saga("trip", (replace(_step("a"), retries=1), _step("b"), _step("c")))
    fails = {("a", "forward", 1), ("b", "forward", 1), ("b", "undo", 1)}
    journal, _ = _drive(lambda *request: request in fails, saga=saga)
    ids = {e.request_id: (e.step, e.direction, e.attempt) for e in journal.entries}
    closes = [
        (ids[e.request_id], [ids[closed] for closed in superseded_by(journal, e)])
        for e in journal.entries
    ]
    assert closes == [
        (("a", "forward", 1), []),
        (("a", "forward", 2), [("a", "forward", 1)]),
        (("b", "forward", 1), []),
        (("b", "undo", 1), [("a", "forward", 1), ("b", "forward", 1)]),
        (("b", "undo", 2), [("a", "forward", 1), ("b", "forward", 1), ("b", "undo", 1)]),
        (("a", "undo", 1), [("a", "forward", 1), ("b", "forward", 1)]),
    ]


def test_the_stream_of_a_journal_tells_each_move() -> None:
    """Which step, in which direction, how it ended, and where the saga stands."""
    what = next_action(SAGA, _journal())
    assert what is not None
    intended = intend(SAGA, _journal(), what, now=0.0, max_attempts=3)
    failed = conclude(
        SAGA,
        intended,
        intended.entries[0].request_id,
        now=1.0,
        error=_ERROR,
        max_attempts=3,
    )
    assert event_fields(None, _journal()) == {"status": "running"}
    assert event_fields(_journal(), intended)["step_status"] == "intended"
    fields = event_fields(intended, failed)
    assert (fields["status"], fields["step"], fields["step_status"]) == (
        "compensating",
        "a",
        "failed",
    )
    assert json.loads(fields["error"]) == _ERROR


def test_steps_need_names_of_their_own() -> None:
    """Identity comes from the step's name."""
    with pytest.raises(SagaError, match="unique name"):
        Saga("twice", (_step("a"), _step("a")))
