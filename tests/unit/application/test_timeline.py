"""Timelines of recorded journals; each recording lacks its last transition."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from app.missions.mission_saga import mission_saga
from app.web.timeline import Timeline, timeline_of
from sagastream.saga.journal_json import load

_JOURNALS = Path(__file__).parents[2] / "journals"


def _timelines(name: str) -> list[tuple[str, Timeline]]:
    """Return the status and timeline after each recorded transition."""
    journals = [load(line) for line in (_JOURNALS / f"{name}.jsonl").read_text().splitlines()]
    saga = mission_saga(Settings())
    return [(journal.status, timeline_of(saga, journal)) for journal in journals]


def _states(timeline: Timeline) -> list[str]:
    return [item.state for item in timeline.steps]


def test_all_steps_are_shown_from_the_start() -> None:
    """Each step goes from `to do` to `running` to `done`, one after the other."""
    told = [_states(timeline) for _, timeline in _timelines("v1-completed")]
    assert told[0] == ["to do"] * 4
    assert told[-1] == ["done", "done", "done", "running"]
    assert ["done", "running", "to do", "to do"] in told
    for states in told:
        order = ["done", "running", "to do"]
        assert [order.index(state) for state in states] == sorted(map(order.index, states))


def test_the_lane_has_the_compensations_in_reverse() -> None:
    """It is empty while the mission runs, then has every started step, the failed one first."""
    for status, timeline in _timelines("v1-compensated"):
        lane = [item.step for item in timeline.lane]
        if status == "running":
            assert lane == []
        else:
            assert lane == ["integrate_maps", "perform_exploration", "allocate_resources"]
    _, last = _timelines("v1-compensated")[-1]
    assert _states(last) == ["done", "done", "done", "failed"]
    assert [item.state for item in last.lane] == ["undone", "undone", "running"]
    assert last.steps[3].attempts[0]["error"]["error_type"]


@pytest.mark.parametrize("name", ["v1-completed", "v1-compensated"])
def test_a_cancel_would_undo_the_started_steps(name: str) -> None:
    """Started steps with a compensation, latest first."""
    told = _timelines(name)
    assert told[0][1].undoes == ()
    for _, timeline in told:
        begun = [item.step for item in timeline.steps if item.attempts]
        undoes = [step for step in reversed(begun) if step != "plan_route"]
        assert list(timeline.undoes) == undoes


def test_a_step_that_is_tried_again_waits() -> None:
    """As long as the mission runs; in a mission that is undone it has failed."""
    journals = [
        load(line) for line in (_JOURNALS / "v1-compensated.jsonl").read_text().splitlines()
    ]
    failed = next(j for j in journals if j.status == "compensating")
    retried = replace(failed, status="running")
    saga = mission_saga(Settings())
    assert _states(timeline_of(saga, failed))[3] == "failed"
    assert _states(timeline_of(saga, retried))[3] == "waiting"


def test_a_wait_for_approval_is_a_step() -> None:
    """Only of a mission that has it; it waits, and nothing undoes it."""
    journals = [load(line) for line in (_JOURNALS / "v1-completed.jsonl").read_text().splitlines()]
    explored = next(j for j in journals if j.last("integrate_maps", "forward"))
    *done, last = explored.entries
    wait = replace(last, step="approval", status="waiting", kind="wait")
    waiting = replace(explored, entries=(*done, wait), version=2)
    timeline = timeline_of(mission_saga(Settings(), approval=True), waiting)
    names = [item.step for item in timeline.steps]
    assert names[2:] == ["perform_exploration", "approval", "integrate_maps"]
    assert _states(timeline)[2:] == ["done", "waiting", "to do"]
    assert timeline.steps[3].attempts[0]["is_wait"]
    assert timeline.undoes == ("perform_exploration", "allocate_resources")
