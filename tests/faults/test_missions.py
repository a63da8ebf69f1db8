"""Missions whose processes, or whose server, are killed at any command."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sagastream.testing import EmbeddedServer, Fault
from tests.faults.crash_points import CrashPoint
from tests.faults.deployment import (
    LEASE_S,
    CrashedMission,
    Deployment,
    run_deployment,
    run_deployments,
)
from tests.faults.mission_chaos import run
from tests.faults.mission_handlers import failing_seed
from tests.faults.mission_invariants import MissionViolations, journal_of
from tests.faults.report import Report, Row

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(7200)]

_MAX_POINTS = 2000
_DEPLOYMENTS = 3
_COUNTING = threading.Lock()

_SEEDS = {"completes": 0} | {
    f"fails at {name}": failing_seed(step)
    for step, name in enumerate(("allocate", "plan", "explore", "integrate"))
}
_VICTIMS = [
    ("orchestrator", "orchestrator", "threads"),
    ("celery", "celery", "threads"),
    ("broker", "celery", "threads"),
    ("celery", "child", "prefork"),
    ("broker", "celery", "prefork"),
    ("listener", "listener", "threads"),
    ("robots", "robots", "threads"),
    ("listener", "server", "threads"),
    ("celery", "server", "threads"),
]
_NAMES = {
    "child": "the Celery child",
    "celery": "the Celery worker",
    "listener": "the listener, and with it the coordinator,",
    "robots": "a robot's process",
    "server": "the server",
    "orchestrator": "the orchestrator",
}


def _row(report: Report, role: str, victim: str, pool: str) -> Row:
    name = f"mission: {_NAMES[victim]} killed at each command of the {role} ({pool})"
    return report.row(name, "leases")


def _run_crashed_mission(
    deployment: Deployment, row: Row, point: CrashPoint, scenario: str
) -> bool:
    """Run one mission with one crash point and check it; returns whether a process was killed."""
    mission = CrashedMission(deployment, point)
    saga_id = (
        f"{scenario.rsplit(maxsplit=1)[-1]}-{point.role}-{point.victim}"
        f"-{point.fault.name}-{point.number}"
    )
    mission.run(saga_id, 2, _SEEDS[scenario])
    expected = {"completed"} if scenario == "completes" else {"compensated"}
    if point.role == "robots" and scenario == "completes":
        # A mission that loses a robot before the exploration is compensated.
        expected = {"completed", "compensated"}
    violations = deployment.check(saga_id, expected)
    with _COUNTING:
        _count(row, violations)
        if mission.has_crashed:
            row.points[f"{point.fault.name.lower()} {mission.crash_command}"] += 1
            row.recoveries.append(mission.recovery_s / LEASE_S)
    assert not violations.all, f"{point} at {mission.crash_command}: {violations.all}"
    return mission.has_crashed


def _count(row: Row, violations: MissionViolations) -> None:
    row.tries += 1
    row.lost += len(violations.unfinished)
    row.doubled += len(violations.doubled)
    row.out_of_order += len(violations.out_of_order)


def test_missions_end_correctly_when_processes_are_killed(
    store: EmbeddedServer, tmp_path: Path, report: Report
) -> None:
    """A kill at some commands of each role, in missions that complete and that fail at a step."""
    with run_deployment(store, tmp_path) as deployment:
        for (role, victim, _), (scenario, number) in zip(
            [parts for parts in _VICTIMS if parts[2] == "threads"],
            zip(itertools.cycle(_SEEDS), itertools.count(3), strict=False),
            strict=False,
        ):
            fault = Fault.BEFORE if number % 2 else Fault.AFTER
            while_compensating = scenario != "completes"
            point = 1 + number % 3 if while_compensating else 6 * number
            row = _row(report, role, victim, "threads")
            # A mission may have compensated before the role reaches its later commands.
            assert any(
                _run_crashed_mission(
                    deployment,
                    row,
                    CrashPoint(role, victim, fault, earlier, while_compensating=while_compensating),
                    scenario,
                )
                for earlier in range(point, 0, -1)
            )


@pytest.mark.parametrize(
    ("role", "victim", "pool"), _VICTIMS, ids=["-".join(parts) for parts in _VICTIMS]
)
def test_a_mission_ends_correctly_whatever_is_killed(
    role: str,
    victim: str,
    pool: str,
    *,
    tmp_path: Path,
    report: Report,
    is_long: bool,
    server_binary: str | None,
) -> None:
    """It completes or is compensated in reverse, does nothing twice and leaves no robot reserved.

    In a mission that fails, commands are counted from the start of the compensation: those
    before are the same as in a mission that completes.
    """
    if not is_long:
        pytest.skip("every command of a role takes minutes: with --long")
    row = _row(report, role, victim, pool)
    with (
        run_deployments(_DEPLOYMENTS, tmp_path, server_binary, pool=pool) as deployments,
        ThreadPoolExecutor(_DEPLOYMENTS) as threads,
    ):
        for scenario, fault in itertools.product(_SEEDS, (Fault.BEFORE, Fault.AFTER)):

            def run_at(
                deployment: Deployment, number: int, scenario: str = scenario, fault: Fault = fault
            ) -> bool:
                point = CrashPoint(
                    role, victim, fault, number, while_compensating=scenario != "completes"
                )
                return _run_crashed_mission(deployment, row, point, scenario)

            for first in range(1, _MAX_POINTS, _DEPLOYMENTS):
                if not all(
                    list(threads.map(run_at, deployments, range(first, first + _DEPLOYMENTS)))
                ):
                    break
            else:
                raise AssertionError(f"the mission does not end within {_MAX_POINTS} commands")


def _results(deployment: Deployment, saga_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the status, the journal entries and the map file of each mission."""
    found: list[tuple[Any, ...]] = []
    with deployment.client() as client:
        for saga_id in saga_ids:
            journal = journal_of(client, saga_id)
            assert journal is not None
            entries = [(e.step, e.direction, e.attempt, e.status) for e in journal.entries]
            folder = deployment.out_dir / saga_id / "map.pgm"
            grid = folder.read_bytes() if folder.exists() else b""
            found.append((journal.status, entries, grid))
    return found


def _run_all(deployment: Deployment, seeds: Sequence[int], name: str) -> list[str]:
    saga_ids = [f"{name}{number}" for number in range(len(seeds))]
    for saga_id, seed in zip(saga_ids, seeds, strict=True):
        deployment.start_mission(saga_id, 2, seed)
    deployment.wait_for_end(*saga_ids)
    return saga_ids


_FLEET = (tuple(f"a{n}" for n in range(8)), tuple(f"b{n}" for n in range(8)))


@pytest.mark.invariant(10)
def test_repeated_and_shuffled_messages_change_no_result(
    store: EmbeddedServer, tmp_path: Path, report: Report, server_binary: str | None
) -> None:
    """Statuses, journals and maps are the same as in a run where each message is sent once."""
    seeds = [0, 1, *(failing_seed(step) for step in range(4))]
    with run_deployment(store, tmp_path / "once", robots=_FLEET) as deployment:
        ids = _run_all(deployment, seeds, "m")
        once = _results(deployment, ids)
    with (
        EmbeddedServer(aof=True, binary=server_binary) as other,
        run_deployment(other, tmp_path / "thrice", robots=_FLEET, repeat=3) as deployment,
    ):
        ids = _run_all(deployment, seeds, "m")
        assert _results(deployment, ids) == once
        row = report.row("mission: each Celery message three times and shuffled")
        _check(row, deployment, ids, {"completed", "compensated"})
    assert [status for status, _, _ in once] == ["completed"] * 2 + ["compensated"] * 4


@pytest.mark.invariant(10)
def test_missions_end_although_celerys_queue_is_deleted(
    store: EmbeddedServer, tmp_path: Path, report: Report
) -> None:
    """The queue is deleted repeatedly for 3 s; the sweeper sends new messages."""
    with run_deployment(store, tmp_path, robots=_FLEET) as deployment:
        deleted = 0
        saga_ids = [f"m{number}" for number in range(6)]
        for saga_id in saga_ids:
            deployment.start_mission(saga_id, 2, 0)
        with deployment.client() as client:
            until = time.monotonic() + 3.0
            while time.monotonic() < until or not deleted:
                deleted += int(client.delete("celery"))
                client.delete("unacked", "unacked_index")
        deployment.wait_for_end(*saga_ids)
        row = report.row("mission: Celery's queue deleted while it runs")
        row.notes["queues with something in them"] = str(deleted)
        _check(row, deployment, saga_ids, {"completed"})


def _check(row: Row, deployment: Deployment, saga_ids: Sequence[str], expected: set[str]) -> None:
    for saga_id in saga_ids:
        violations = deployment.check(saga_id, expected)
        _count(row, violations)
        assert not violations.all


def _mission(deployment: Deployment, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a subcommand of `mission` with the settings of a deployment."""
    own = {name.upper(): str(value) for name, value in deployment.settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_compensation_that_fails_three_times_is_tried_again(
    store: EmbeddedServer, tmp_path: Path, report: Report
) -> None:
    """The fourth attempt succeeds, and the mission is compensated."""
    with run_deployment(store, tmp_path) as deployment:
        with deployment.client() as client:
            client.set("failing", 3)
        saga_ids = _run_all(deployment, [failing_seed(3)], "m")
        row = report.row("mission: a compensation fails three times")
        _check(row, deployment, saga_ids, {"compensated"})


def test_a_stuck_mission_is_resumed_after_the_repair(
    store: EmbeddedServer, tmp_path: Path, report: Report
) -> None:
    """`mission watch` exits with 4 and the mission stays; `mission resume` compensates it."""
    with run_deployment(store, tmp_path) as deployment:
        with deployment.client() as client:
            client.set("failing", 1000)
        _run_all(deployment, [failing_seed(3)], "m")
        assert _mission(deployment, "watch", "m0").returncode == 4
        listed = json.loads(_mission(deployment, "list", "-o", "json").stdout)
        assert [(row["saga_id"], row["status"]) for row in listed] == [("m0", "stuck")]
        with deployment.client() as client:
            assert client.pttl("saga:m0") == -1
            client.set("failing", 0)
        resumed = _mission(deployment, "resume", "m0")
        assert resumed.returncode == 3, resumed.stderr
        row = report.row("mission: a compensation that always fails, then repaired")
        _check(row, deployment, ["m0"], {"compensated"})


def test_chaos(store: EmbeddedServer, tmp_path: Path, report: Report, *, is_long: bool) -> None:
    """Many missions at once end correctly while processes and the server are killed at random."""
    missions, seconds, server_kills = (60, 300.0, 3) if is_long else (12, 12.0, 1)
    chaos = run(store, tmp_path, missions=missions, seconds=seconds, server_kills=server_kills)
    row = report.row(f"mission: {missions} at once, processes and server killed at random")
    row.tries += chaos.started
    row.lost += len(chaos.unfinished)
    row.doubled += len(chaos.doubled)
    row.out_of_order += len(chaos.out_of_order)
    row.notes |= {
        "killed": str(chaos.kills),
        "stopped": str(chaos.stops),
        "server killed": str(chaos.server_kills),
    }
    assert chaos.started >= missions
    assert chaos.completed > 0
    assert chaos.compensated > 0
    violations = chaos.unfinished + chaos.doubled + chaos.out_of_order + chaos.other
    assert not violations
