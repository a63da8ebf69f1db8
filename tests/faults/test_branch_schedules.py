"""Random schedules of sagas with branches, conditions, lists, children and waits."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.faults.report import Report
from tests.saga_schedules import described, run_schedule

pytestmark = pytest.mark.timeout(7200)


@pytest.mark.invariant(9)
def test_no_schedule_breaks_the_order_or_forgets_an_undo(report: Report, is_long: bool) -> None:
    """After each move the order holds; at the end all that was intended is undone, or nothing is."""
    schedules, ends = 1_000_000 if is_long else 1_500, Counter[str]()
    for seed in range(schedules):
        chance = random.Random(seed)

        def choose(values: Sequence[Any], chance: random.Random = chance) -> Any:
            return values[int(chance.random() * len(values))]

        nodes = described(choose)
        try:
            ends[run_schedule(nodes, choose, is_stored=seed % 20 == 0).status] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {nodes}") from error
    assert set(ends) == {"completed", "compensated", "stuck"}
    row = report.row("sagas with branches and waits in random schedules of the pure journal")
    row.tries = schedules
    row.notes |= {name: f"{count:,}" for name, count in sorted(ends.items())}
