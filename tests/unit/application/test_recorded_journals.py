from pathlib import Path

import pytest

from app.config import Settings
from app.missions.mission_saga import mission_saga
from sagastream.saga.journal import intend, next_action
from sagastream.saga.journal_json import dump, load


@pytest.mark.parametrize("name", ["v1-completed", "v1-compensated"])
def test_journals_of_the_last_release_continue(name: str) -> None:
    """From each recorded journal the next request asks for what was asked for then."""
    lines = Path(__file__).parents[2].joinpath("journals", f"{name}.jsonl").read_text()
    recorded = [load(line) for line in lines.splitlines()]
    saga = mission_saga(Settings())
    final = recorded[-1]
    for journal in recorded:
        what = next_action(saga, journal)
        if what is None:
            assert journal.is_over
            continue
        gone_on = intend(saga, journal, what, now=1.0, max_attempts=5)
        asked = gone_on.last(what.step.name, what.direction)
        then = final.last(what.step.name, what.direction)
        assert asked is not None
        assert then is not None
        assert (asked.attempt, asked.payload) == (then.attempt, then.payload)
        kept = [entry.request_id for entry in journal.entries]
        assert [entry.request_id for entry in gone_on.entries][: len(kept)] == kept
        assert load(dump(gone_on)) == gone_on
    assert final.error == ({} if final.status == "completed" else final.entries[3].error)
