"""A role, or the server, is killed before and after every command of the role, one run a point."""

import threading
from collections.abc import Callable
from typing import Literal

import pytest

from sagastream.testing import EmbeddedServer, Fault
from tests.faults import crash_points
from tests.faults.crash_points import Attack, Stage, strike_each
from tests.faults.figures import Figures
from tests.faults.invariants import STREAM, look

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]

# In the short form one point in so many is tried, beginning elsewhere in each story.
_STEP = 9

_CAST = [
    ("request with progress", crash_points.request, ("requester", "listener")),
    ("redelivery", crash_points.redelivery, ("requester", "listener")),
    ("cancel", crash_points.cancel, ("requester", "listener", "canceller")),
    ("poison", crash_points.poison, ("requester", "listener")),
]
_STORIES = [
    pytest.param(name, story, role, number, id=f"{name.split()[0]}-{role}")
    for number, (name, story, role) in enumerate(
        (name, story, role) for name, story, roles in _CAST for role in roles
    )
]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER], ids=["before", "after"])
@pytest.mark.parametrize("fsync", [None, "everysec", "always"], ids=["role", "server", "fsync"])
@pytest.mark.parametrize(("scenario", "story", "role", "number"), _STORIES)
@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
@pytest.mark.invariant(3)
@pytest.mark.invariant(4)
@pytest.mark.invariant(5)
def test_a_kill_at_any_command_loses_and_doubles_nothing(
    scenario: str,
    story: Callable[[Stage], str],
    role: str,
    number: int,
    *,
    fsync: Literal["everysec", "always"] | None,
    fault: Fault,
    figures: Figures,
    is_long: bool,
    server_binary: str | None,
) -> None:
    """Whatever was killed, the request ends once, as it should, with one entry and one effect."""
    victim = "server" if fsync else role
    whose = f"server (`{fsync}`)" if fsync else role
    row = figures.row(f"{scenario}: {whose} killed at each command of the {role}")
    counting = threading.Lock()

    def run(point: int) -> bool:
        with EmbeddedServer(aof=True, fsync=fsync or "everysec", binary=server_binary) as store:
            attack = Attack(role, victim, fault, point)
            stage = Stage(store, attack, forgets=fsync == "everysec")
            with stage.set_up():
                status = story(stage)
                if stage.was_hit:
                    recovery_s = stage.recovery_s()
                    kept = stage.until_ended()
                    assert kept or fsync == "everysec", "an end that was told was taken back"
                    if not kept:
                        row.notes["ends told, taken back, and reached again"] = "some"
                    with counting:
                        row.check(store, "r", status=status)
                        row.points[f"{fault.name.lower()} {stage.struck}"] += 1
                        if recovery_s is not None:
                            row.recoveries.append(recovery_s)
                    with look(store) as client:
                        assert client.xlen(f"{STREAM}:dead") == int(status == "failed")
            return stage.was_hit

    if is_long:
        strike_each(run)
    else:
        first = 1 + (number + (fault is Fault.AFTER)) % 3
        strike_each(run, first=first, step=_STEP)
