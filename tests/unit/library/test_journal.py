"""The saga's journal as a pure state machine: no server, no clock."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagastream import RetryPolicy
from sagastream.errors import SagaError
from sagastream.saga.definition import Compensation, Saga, Step
from sagastream.saga.journal import (
    conclude,
    event_fields,
    intend,
    next_action,
    resume,
    retry_at,
    settle,
    start_compensating,
    superseded_by,
)
from sagastream.saga.journal_json import dump, load
from sagastream.saga.state import Journal, request_id_of

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
    """Run a saga in memory, from a journal; returns the last one and the requests in order.

    Args:
        fails: Whether a request (step, direction, attempt) fails.
        saga: The declaration.
        journal: Where to start; None for a new saga.
    """
    journal = journal or _journal()
    requested: list[tuple[str, str]] = []
    for now in range(200):
        action = next_action(saga, journal)
        if action is None:
            return journal, requested
        journal = intend(saga, journal, action, now=float(now), max_attempts=3)
        entry = journal.last(action.step.name, action.direction)
        assert entry is not None
        requested.append((action.step.name, action.direction))
        failed = fails(action.step.name, action.direction, action.attempt)
        journal = conclude(
            saga,
            journal,
            entry.request_id,
            now=float(now),
            result=None if failed else {"by": action.step.name},
            error=_ERROR if failed else None,
            max_attempts=3,
        )
    raise AssertionError("the saga does not end")


def test_steps_run_forward_in_order() -> None:
    """A saga without failure runs each step once and is completed."""
    journal, requested = _drive(lambda step, direction, attempt: False)
    assert journal.status == "completed"
    assert requested == [(name, "forward") for name in "abcd"]
    assert journal.results() == {name: {"by": name} for name in "abcd"}


@pytest.mark.invariant(9)
def test_a_failure_compensates_in_reverse_with_the_failed_step() -> None:
    """The failed step may have had an effect; a step without compensation is left out."""
    journal, requested = _drive(
        lambda step, direction, attempt: step == "c" and direction == "forward"
    )
    assert journal.status == "compensated"
    assert requested[3:] == [("c", "undo"), ("a", "undo")]
    assert journal.error == _ERROR


def test_a_compensation_is_retried_with_a_new_request_id() -> None:
    """Each attempt is another request, so that no earlier outcome answers it."""
    journal, _ = _drive(
        lambda step, direction, attempt: step == "d" and (direction == "forward" or attempt < 3)
    )
    assert journal.status == "compensated"
    undone = [e for e in journal.entries if (e.step, e.direction) == ("d", "undo")]
    assert [e.status for e in undone] == ["failed", "failed", "completed"]
    assert len({e.request_id for e in undone}) == 3


@pytest.mark.invariant(9)
def test_a_compensation_that_always_fails_is_stuck() -> None:
    """It does not compensate earlier steps, and its status is `stuck`."""
    journal, requested = _drive(lambda step, direction, attempt: step == "c")
    assert journal.status == "stuck"
    assert requested[-3:] == [("c", "undo")] * 3
    assert ("a", "undo") not in requested


def _undo_failed(journal: Journal, at: float, *, unhandled: bool, max_attempts: int = 3) -> Journal:
    """Send the next compensation at a time, and let it fail a second later."""
    action = next_action(SAGA, journal)
    assert action is not None
    assert action.direction == "undo"
    journal = intend(SAGA, journal, action, now=at, max_attempts=max_attempts)
    error = _ERROR | ({"unhandled": True} if unhandled else {})
    return conclude(
        *(SAGA, journal, journal.entries[-1].request_id),
        now=at + 1.0,
        error=error,
        max_attempts=max_attempts,
    )


def _compensating() -> Journal:
    action = next_action(SAGA, _journal())
    assert action is not None
    journal = intend(SAGA, _journal(), action, now=0.0, max_attempts=3)
    return settle(SAGA, start_compensating(journal, _ERROR, now=0.0))


@pytest.mark.invariant(9)
def test_a_compensation_without_a_listener_is_tried_for_a_minute() -> None:
    """It is stuck with the first attempt that was sent 60 s after the first one had failed."""
    journal = _compensating()
    for at in range(0, 61, 6):  # the first attempt fails at 1 s
        journal = _undo_failed(journal, float(at), unhandled=True)
        assert journal.status == "compensating", at
    assert _undo_failed(journal, 60.9, unhandled=True).status == "compensating"
    assert _undo_failed(journal, 61.0, unhandled=True).status == "stuck"
    assert len(journal.entries) == 12


@pytest.mark.invariant(9)
def test_a_compensation_without_a_listener_has_all_its_attempts() -> None:
    """However long they take, it is not stuck before `max_attempts`."""
    journal = _compensating()
    for attempt in range(1, 5):
        assert journal.status == "compensating"
        journal = _undo_failed(journal, 100.0 * attempt, unhandled=True, max_attempts=4)
    assert journal.status == "stuck"


@pytest.mark.invariant(9)
def test_a_compensation_whose_handler_fails_is_stuck_at_once() -> None:
    """It has `max_attempts` of them, however many attempts no handler began."""
    journal = _compensating()
    for at, unhandled in enumerate([True, False, True, True, True, False, True]):
        journal = _undo_failed(journal, float(at), unhandled=unhandled)
        assert journal.status == "compensating"
    assert _undo_failed(journal, 8.0, unhandled=True).status == "compensating"
    assert _undo_failed(journal, 8.0, unhandled=False).status == "stuck"


@pytest.mark.invariant(9)
def test_a_resumed_compensation_without_a_listener_has_another_minute() -> None:
    """The time counts from the first attempt after the resume."""
    journal = _compensating()
    for at in (0.0, 30.0, 90.0):
        journal = _undo_failed(journal, at, unhandled=True)
    assert journal.status == "stuck"
    journal = resume(journal)
    for at in (1000.0, 1030.0, 1060.0):
        journal = _undo_failed(journal, at, unhandled=True)
        assert journal.status == "compensating"
    assert _undo_failed(journal, 1061.0, unhandled=True).status == "stuck"


def _wait_s(journal: Journal, retry_s: float) -> float:
    """The wait before the next undo of `a`; its attempts fail at 1 s."""
    action = next_action(SAGA, journal)
    assert action is not None
    return retry_at(journal, action, retry_s=retry_s) - 1.0


def test_the_waits_before_retries_grow_up_to_a_limit() -> None:
    """They double up to 5 s; a longer first wait stays as it is."""
    journal, waits = _compensating(), []
    for _ in range(7):
        journal = _undo_failed(journal, 0.0, unhandled=True)
        waits.append(_wait_s(journal, 0.2))
        assert _wait_s(journal, 7.0) == 7.0
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    many = replace(journal, entries=journal.entries * 500)
    assert _wait_s(many, 0.2) == 5.0


def test_a_first_attempt_does_not_wait() -> None:
    """Only a retry does."""
    action = next_action(SAGA, _compensating())
    assert action is not None
    assert retry_at(_compensating(), action, retry_s=7.0) == 0.0


@given(st.sets(st.sampled_from([(s, d) for s in "abcd" for d in ("forward", "undo")])))
@pytest.mark.invariant(9)
def test_a_saga_ends_and_never_runs_forward_after_an_undo(failing: set[tuple[str, str]]) -> None:
    """Whichever requests fail, it ends, and compensates in reverse after the forward steps."""
    journal, requested = _drive(lambda step, direction, attempt: (step, direction) in failing)
    assert journal.is_over
    directions = [direction for _, direction in requested]
    assert directions == sorted(directions)
    undone = [step for step, direction in requested if direction == "undo"]
    assert undone == sorted(undone, reverse=True)


def test_a_second_outcome_changes_nothing() -> None:
    """The first terminal outcome of a request is kept."""
    action = next_action(SAGA, _journal())
    assert action is not None
    journal = intend(SAGA, _journal(), action, now=0.0, max_attempts=3)
    request_id = journal.entries[0].request_id
    once = conclude(SAGA, journal, request_id, now=1.0, result={"n": 1}, max_attempts=3)
    assert conclude(SAGA, once, request_id, now=2.0, error=_ERROR, max_attempts=3) == once


@pytest.mark.invariant(9)
def test_an_intent_is_written_once() -> None:
    """Two runners that read the same journal write the same intent."""
    action = next_action(SAGA, _journal())
    assert action is not None
    once = intend(SAGA, _journal(), action, now=0.0, max_attempts=3)
    assert intend(SAGA, once, action, now=5.0, max_attempts=3) == once


@pytest.mark.invariant(9)
def test_compensation_covers_a_step_with_unknown_outcome() -> None:
    """A step with an intent and without outcome is undone too."""
    journal = _journal()
    action = next_action(SAGA, journal)
    assert action is not None
    journal = intend(SAGA, journal, action, now=0.0, max_attempts=3)
    journal = settle(SAGA, start_compensating(journal, _ERROR, now=1.0))
    assert journal.error == _ERROR
    undo = next_action(SAGA, journal)
    assert undo is not None
    assert (undo.step.name, undo.direction) == ("a", "undo")


def test_an_ended_saga_is_not_compensated() -> None:
    """A late cancel does not change a completed saga."""
    journal, _ = _drive(lambda step, direction, attempt: False)
    assert settle(SAGA, start_compensating(journal, _ERROR, now=1.0)) == journal


@pytest.mark.invariant(1)
def test_the_request_id_depends_on_saga_step_direction_and_attempt() -> None:
    """Each of them makes another id, and the same ones make the same id."""
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
    """A stored journal is equal to the loaded one."""
    journal, _ = _drive(lambda step, direction, attempt: step == "d")
    assert load(dump(journal)) == journal


def test_a_journal_with_a_newer_schema_version_is_refused() -> None:
    """The error names the version."""
    text = dump(_journal()).replace('"v":2', '"v":99')
    with pytest.raises(SagaError, match="99"):
        load(text)


def test_a_payload_function_that_fails_is_named_by_its_step() -> None:
    """The saga is compensated, and its error names step, direction and error."""

    def broken(data: dict[str, Any], results: Any) -> dict[str, Any]:
        return {"missing": results["nobody"]}

    saga = Saga("broken", (Step("only", "s:commands", "s:do", broken),))
    action = next_action(saga, _journal())
    assert action is not None
    journal = intend(saga, _journal(), action, now=0.0, max_attempts=3)
    assert journal.status == "compensated"
    assert journal.error["message"].startswith(
        "cannot make the payload of step 'only' (forward): KeyError"
    )


def test_a_step_is_retried_before_the_saga_is_compensated() -> None:
    """A step with two retries has three attempts, each with its own request id."""
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


def test_a_resumed_saga_retries_its_compensation() -> None:
    """It gets as many attempts as before, and continues with the step that was stuck."""
    stuck, _ = _drive(lambda step, direction, attempt: step == "c")
    resumed = resume(stuck)
    assert resume(resumed) == resumed
    journal, _ = _drive(lambda step, _, attempt: step == "c" and attempt < 6, journal=resumed)
    assert journal.status == "compensated"
    undone = [(e.step, e.attempt) for e in journal.entries if e.direction == "undo"]
    assert undone == [("c", 1), ("c", 2), ("c", 3), ("c", 4), ("c", 5), ("c", 6), ("a", 1)]


@pytest.mark.invariant(9)
def test_a_request_supersedes_earlier_ones_that_may_still_run() -> None:
    """An undo supersedes each failed or unknown forward request, and its own earlier attempts."""
    saga = Saga("trip", (replace(_step("a"), retries=1), _step("b"), _step("c")))
    fails = {("a", "forward", 1), ("b", "forward", 1), ("b", "undo", 1)}
    journal, _ = _drive(lambda *request: request in fails, saga=saga)
    ids = {e.request_id: (e.step, e.direction, e.attempt) for e in journal.entries}
    superseded = [
        (ids[e.request_id], [ids[other] for other in superseded_by(journal, e)])
        for e in journal.entries
    ]
    assert superseded == [
        (("a", "forward", 1), []),
        (("a", "forward", 2), [("a", "forward", 1)]),
        (("b", "forward", 1), []),
        (("b", "undo", 1), [("a", "forward", 1), ("b", "forward", 1)]),
        (("b", "undo", 2), [("a", "forward", 1), ("b", "forward", 1), ("b", "undo", 1)]),
        (("a", "undo", 1), [("a", "forward", 1), ("b", "forward", 1)]),
    ]


def test_the_journal_stream_has_the_fields_of_each_change() -> None:
    """Each entry has the status of the saga, the step, its status and its error."""
    action = next_action(SAGA, _journal())
    assert action is not None
    intended = intend(SAGA, _journal(), action, now=0.0, max_attempts=3)
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


def test_steps_need_unique_names() -> None:
    """The name of a step is part of its request ids."""
    with pytest.raises(SagaError, match="unique name"):
        Saga("twice", (_step("a"), _step("a")))


def test_a_policy_says_when_a_step_is_tried_again() -> None:
    """Every runner computes the same wait; the last attempt, and a refused error, compensate."""
    policy = RetryPolicy(attempts=3, first_delay_s=10, factor=2, never_on=("Declined",))
    saga = Saga("trip", (replace(_step("a"), retries=policy), _step("b")))

    def fail(journal: Journal, kind: str) -> Journal:
        action = next_action(saga, journal)
        assert action
        journal = intend(saga, journal, action, now=100.0, max_attempts=5)
        error = {"error_type": kind, "message": "", "trace_id": ""}
        request_id = journal.entries[-1].request_id
        return conclude(saga, journal, request_id, now=200.0, error=error, max_attempts=5)

    journal, waits = _journal(), []
    for _ in range(2):
        journal = fail(journal, "Busy")
        action = next_action(saga, journal)
        assert action
        waits.append(retry_at(journal, action, retry_s=0.2) - 200.0)
    assert 9 <= waits[0] <= 11
    assert 18 <= waits[1] <= 22
    assert journal.status == "running"
    assert fail(journal, "Busy").status != "running"
    assert fail(_journal(), "Declined").status != "running"
