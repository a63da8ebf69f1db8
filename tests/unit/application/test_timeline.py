"""A mission's journal as a timeline; the recorded missions lack their very last move."""

from pathlib import Path

import pytest

from app.config import Settings
from app.missions.mission_saga import mission_saga
from app.web.timeline import Timeline, timeline_of
from sagastream.saga.journal import load

_JOURNALS = Path(__file__).parents[2] / "journals"


def _timelines(name: str) -> list[tuple[str, Timeline]]:
    """A recorded mission's timelines, from its start to its end, with its status."""
    journals = [load(line) for line in (_JOURNALS / f"{name}.jsonl").read_text().splitlines()]
    saga = mission_saga(Settings())
    return [(journal.status, timeline_of(saga, journal)) for journal in journals]


def _states(timeline: Timeline) -> list[str]:
    return [item.state for item in timeline.steps]


def test_steps_that_remain_are_shown_from_the_beginning() -> None:
    """Each step goes from to do over running to done, one after the other."""
    told = [_states(timeline) for _, timeline in _timelines("v1-completed")]
    assert told[0] == ["to do"] * 4
    assert told[-1] == ["done", "done", "done", "running"]
    assert ["done", "running", "to do", "to do"] in told
    for states in told:
        order = ["done", "running", "to do"]
        assert [order.index(state) for state in states] == sorted(map(order.index, states))


def test_the_lane_is_what_is_undone_in_reverse() -> None:
    """Nothing while it runs; then every step that was intended, the failed one first."""
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
def test_what_a_cancel_would_undo_is_what_was_begun(name: str) -> None:
    """Only steps that have a compensation, the latest first; nothing before the first one."""
    told = _timelines(name)
    assert told[0][1].undoes == ()
    for _, timeline in told:
        begun = [item.step for item in timeline.steps if item.attempts]
        undoes = [step for step in reversed(begun) if step != "plan_route"]
        assert list(timeline.undoes) == undoes
