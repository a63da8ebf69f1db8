"""When a team first saw each cell, and how much it saw twice."""

import numpy as np
import pytest

from app.exploration.driver import DriveReport, Patch, Pose
from app.exploration.evaluation.first_seen import FirstSeenTimes, time_to
from app.exploration.grid import GridFrame

ALL = np.ones((1, 10), np.bool_)


def report(time: float, col0: int, cells: int) -> DriveReport:
    """Report some cells of one row, all free."""
    patch = Patch(0, col0, np.full((1, cells), -17, np.int8))
    return DriveReport(time, Pose(0, 0), 0.0, (), 0, arrived=False, blocked=False, patch=patch)


def test_a_cell_counts_from_the_first_report_that_shows_it() -> None:
    """A later report of the same cell, by any robot, changes nothing."""
    times = FirstSeenTimes(GridFrame(1, 10, 0.1), 2)

    times.record(0, report(3.0, 0, 5))
    times.record(1, report(7.0, 4, 6))

    assert times.first_known.tolist() == [[3.0] * 5 + [7.0] * 5]


def test_the_time_to_a_share_is_that_of_the_cell_that_completes_it() -> None:
    """Half is known at 3 s, ninety percent only with the second report, all of it never."""
    first_known = np.array([[3.0] * 5 + [7.0] * 4 + [np.inf]], np.float32)

    assert time_to(0.5, first_known, ALL) == 3.0
    assert time_to(0.9, first_known, ALL) == 7.0
    assert time_to(1.0, first_known, ALL) == np.inf


def test_overlap_is_what_was_seen_more_than_once() -> None:
    """Two robots that share half of the cells have an overlap of one half."""
    team, alone = FirstSeenTimes(GridFrame(1, 10, 0.1), 2), FirstSeenTimes(GridFrame(1, 10, 0.1), 1)

    team.record(0, report(1.0, 0, 6))
    team.record(1, report(2.0, 2, 6))
    alone.record(0, report(1.0, 0, 6))

    assert team.overlap(ALL) == pytest.approx(4 / 8)
    assert alone.overlap(ALL) == 0.0


def test_overlap_can_be_evaluated_at_any_second() -> None:
    """Cells that a robot sees again later do not count; cells that it saw before do."""
    times = FirstSeenTimes(GridFrame(1, 10, 0.1), 2)

    times.record(0, report(1.0, 0, 5))
    times.record(1, report(2.0, 4, 6))
    times.record(1, report(9.0, 0, 10))

    assert times.overlap(ALL, until=2.0) == pytest.approx(1 / 10)
    assert times.overlap(ALL) == pytest.approx(5 / 10)
