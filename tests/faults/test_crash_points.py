"""A role, or the server, is killed before and after each command of the role, one run each."""

import threading
from collections.abc import Callable
from typing import Literal

import pytest

from sagastream.testing import EmbeddedServer, Fault
from tests.faults import crash_points
from tests.faults.crash_points import CrashPoint, ScenarioRun, crash_at_each_command
from tests.faults.invariants import STREAM
from tests.faults.report import Report
from tests.plain_client import connect

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(900)]

# The short form tries each ninth command, with another first one in each case.
_STEP = 9

_SCENARIOS = [
    ("request with progress", crash_points.request, ("requester", "listener")),
    ("redelivery", crash_points.redelivery, ("requester", "listener")),
    ("retry", crash_points.retry, ("requester", "listener")),
    ("cancel", crash_points.cancel, ("requester", "listener", "canceller")),
    ("poison", crash_points.poison, ("requester", "listener")),
]
_CASES = [
    pytest.param(name, scenario, role, number, id=f"{name.split()[0]}-{role}")
    for number, (name, scenario, role) in enumerate(
        (name, scenario, role) for name, scenario, roles in _SCENARIOS for role in roles
    )
]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER], ids=["before", "after"])
@pytest.mark.parametrize("fsync", [None, "everysec", "always"], ids=["role", "server", "fsync"])
@pytest.mark.parametrize(("name", "scenario", "role", "number"), _CASES)
@pytest.mark.invariant(1)
@pytest.mark.invariant(2)
@pytest.mark.invariant(3)
@pytest.mark.invariant(4)
@pytest.mark.invariant(5)
def test_a_kill_at_any_command_loses_and_doubles_nothing(
    name: str,
    scenario: Callable[[ScenarioRun], str],
    role: str,
    number: int,
    *,
    fsync: Literal["everysec", "always"] | None,
    fault: Fault,
    report: Report,
    is_long: bool,
    server_binary: str | None,
) -> None:
    """Whatever is killed, the request ends once, with one entry and one effect."""
    victim = "server" if fsync else role
    whose = f"server (`{fsync}`)" if fsync else role
    row = report.row(f"{name}: {whose} killed at each command of the {role}")
    counting = threading.Lock()

    def run(command: int) -> bool:
        with EmbeddedServer(aof=True, fsync=fsync or "everysec", binary=server_binary) as store:
            point = CrashPoint(role, victim, fault, command)
            attempt = ScenarioRun(store, point, loses_writes=fsync == "everysec")
            with attempt.open():
                status = scenario(attempt)
                if attempt.has_crashed:
                    recovery_s = attempt.recovery_s()
                    was_kept = attempt.wait_until_ended()
                    assert was_kept or fsync == "everysec", "a confirmed outcome was lost"
                    if not was_kept:
                        row.notes["outcomes confirmed, lost and reached again"] = "some"
                    with counting:
                        row.check(store, "r", status=status)
                        row.points[f"{fault.name.lower()} {attempt.crash_command}"] += 1
                        if recovery_s is not None:
                            row.recoveries.append(recovery_s)
                    with connect(store.url) as client:
                        assert client.xlen(f"{STREAM}:dead") == int(status == "failed")
            return attempt.has_crashed

    if is_long:
        crash_at_each_command(run)
    else:
        first = 1 + (number + (fault is Fault.AFTER)) % 3
        crash_at_each_command(run, first=first, step=_STEP)
