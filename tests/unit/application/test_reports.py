"""What a command says about a mission that was interrupted, or has ended."""

from typing import Any

import pytest

from app.cli.base import Output, exit_with_report
from app.missions.reports import final_report, undone_line
from sagastream.saga import Direction, Journal, JournalEntry, outcome_of


def _journal(status: str, forward: int, undone: int) -> Journal:
    """A mission whose first steps were started, and whose last compensations have completed."""
    steps = ["allocate_resources", "plan_route", "perform_exploration", "integrate_maps"][:forward]
    compensated = [step for step in reversed(steps) if step != "plan_route"][:undone]
    directions: list[tuple[str, Direction]] = [(step, "forward") for step in steps]
    directions += [(step, "undo") for step in compensated]
    entries = [
        JournalEntry(step, direction, 1, f"{step}-{direction}", {}, status="completed")
        for step, direction in directions
    ]
    return Journal("m", "mission", "c", {}, status=status, entries=tuple(entries))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("journal", "line"),
    [
        (_journal("compensated", 3, 2), "undone: perform_exploration, allocate_resources"),
        (_journal("compensated", 0, 0), "undone: nothing"),
        (_journal("completed", 4, 0), "mission m had completed; nothing was undone"),
        (
            _journal("compensating", 4, 1),
            (
                "undone: integrate_maps; not undone yet: perform_exploration, allocate_resources; "
                "watch it"
            ),
        ),
        (
            _journal("stuck", 1, 0),
            (
                "undone: nothing; not undone yet: allocate_resources; it is stuck; "
                "see: mission resume m"
            ),
        ),
    ],
    ids=["compensated", "nothing begun", "completed", "compensating", "stuck"],
)
def test_the_line_about_an_interrupted_mission(journal: Journal, line: str) -> None:
    """It names the undone steps in their order, those that are left, and how to continue."""
    assert undone_line(journal, "watch it") == line


_RESULTS: tuple[dict[str, Any], ...] = (
    {},
    {"coverage": "all", "accuracy": None, "partial": [], "artifacts": "here"},
    {"coverage": 1e300, "accuracy": -1, "artifacts": {}},
)


@pytest.mark.invariant(14)
@pytest.mark.parametrize("result", _RESULTS)
@pytest.mark.parametrize("given", [{}, {"area": 5, "robot_count": "two"}])
def test_a_report_of_odd_results_is_printed(
    result: dict[str, Any], given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is malformed is left out; the exit code is that of the mission."""
    entry = JournalEntry("integrate_maps", "forward", 1, "r", {}, "completed", result)
    journal = Journal("m", "mission", "c", given, status="completed", entries=(entry,))
    with pytest.raises(SystemExit) as exited:
        exit_with_report(final_report(outcome_of(journal), given), Output.TEXT)
    assert exited.value.code == 0
    assert "mission m completed" in capsys.readouterr().out
