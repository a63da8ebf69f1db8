"""Missions while their processes, or their server, are killed at any command."""

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
from tests.faults.chaos import run
from tests.faults.figures import Figures, Row
from tests.faults.mission_handlers import failing_seed
from tests.faults.mission_rules import Faults, journal_of
from tests.faults.mission_world import LEASE_S, Attack, Blow, World, world_of, worlds_of

pytestmark = [pytest.mark.blocking, pytest.mark.timeout(7200)]

_MOST_POINTS = 2000
_WORLDS = 3
_COUNTING = threading.Lock()

_STORIES = {"completes": 0} | {
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


def _row(figures: Figures, role: str, victim: str, pool: str) -> Row:
    name = f"mission: {_NAMES[victim]} killed at each command of the {role} ({pool})"
    return figures.row(name, "leases")


def _strike(world: World, row: Row, blow: Blow, story: str) -> bool:
    """Run one mission with one blow, and judge it; whether the blow fell."""
    attack = Attack(world, blow)
    saga_id = (
        f"{story.rsplit(maxsplit=1)[-1]}-{blow.role}-{blow.victim}-{blow.fault.name}-{blow.number}"
    )
    attack.run(saga_id, 2, _STORIES[story])
    right = {"completed"} if story == "completes" else {"compensated"}
    if blow.role == "robots" and story == "completes":
        # With a robot lost before it explored, a mission is undone.
        right = {"completed", "compensated"}
    faults = world.judge(saga_id, right)
    with _COUNTING:
        _count(row, faults)
        if attack.was_hit:
            row.points[f"{blow.fault.name.lower()} {attack.struck}"] += 1
            row.recoveries.append(attack.recovery_s / LEASE_S)
    assert not faults.all, f"{blow} at {attack.struck}: {faults.all}"
    return attack.was_hit


def _count(row: Row, faults: Faults) -> None:
    row.tries += 1
    row.lost += len(faults.unfinished)
    row.doubled += len(faults.doubled)
    row.out_of_order += len(faults.out_of_order)


def test_missions_end_right_though_processes_are_killed(
    store: EmbeddedServer, tmp_path: Path, figures: Figures
) -> None:
    """Some commands of each role, in missions that complete and that fail at each step."""
    with world_of(store, tmp_path) as world:
        for (role, victim, _), (story, number) in zip(
            [parts for parts in _VICTIMS if parts[2] == "threads"],
            zip(itertools.cycle(_STORIES), itertools.count(3), strict=False),
            strict=False,
        ):
            fault = Fault.BEFORE if number % 2 else Fault.AFTER
            back = story != "completes"
            point = 1 + number % 3 if back else 6 * number
            row = _row(figures, role, victim, "threads")
            # One that goes back may be over before a role has come to its later commands.
            assert any(
                _strike(world, row, Blow(role, victim, fault, earlier, going_back=back), story)
                for earlier in range(point, 0, -1)
            )


@pytest.mark.parametrize(
    ("role", "victim", "pool"), _VICTIMS, ids=["-".join(parts) for parts in _VICTIMS]
)
def test_a_mission_ends_right_whatever_is_killed(
    role: str,
    victim: str,
    pool: str,
    *,
    tmp_path: Path,
    figures: Figures,
    is_long: bool,
    server_binary: str | None,
) -> None:
    """It completes, or is undone in reverse; nothing twice, no robot stays reserved.

    Of a mission that fails the commands count from where it turns round: what comes before is
    what comes in one that completes.
    """
    if not is_long:
        pytest.skip("every command of a role takes minutes: with --long")
    row = _row(figures, role, victim, pool)
    with (
        worlds_of(_WORLDS, tmp_path, server_binary, pool=pool) as worlds,
        ThreadPoolExecutor(_WORLDS) as threads,
    ):
        for story, fault in itertools.product(_STORIES, (Fault.BEFORE, Fault.AFTER)):

            def strike(world: World, number: int, story: str = story, fault: Fault = fault) -> bool:
                blow = Blow(role, victim, fault, number, going_back=story != "completes")
                return _strike(world, row, blow, story)

            for first in range(1, _MOST_POINTS, _WORLDS):
                if not all(list(threads.map(strike, worlds, range(first, first + _WORLDS)))):
                    break
            else:
                raise AssertionError(f"the story does not end within {_MOST_POINTS} commands")


def _results(world: World, saga_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """How missions ended: status, what their journals hold, and the bytes of their maps."""
    found: list[tuple[Any, ...]] = []
    with world.client() as client:
        for saga_id in saga_ids:
            journal = journal_of(client, saga_id)
            assert journal is not None
            entries = [(e.step, e.direction, e.attempt, e.status) for e in journal.entries]
            place = world.out_dir / saga_id / "map.pgm"
            grid = place.read_bytes() if place.exists() else b""
            found.append((journal.status, entries, grid))
    return found


def _run_all(world: World, seeds: Sequence[int], name: str) -> list[str]:
    saga_ids = [f"{name}{number}" for number in range(len(seeds))]
    for saga_id, seed in zip(saga_ids, seeds, strict=True):
        world.ask(saga_id, 2, seed)
    world.until(lambda: all(map(world.has_ended, saga_ids)), f"{name}: not all missions end")
    return saga_ids


_FLEET = (tuple(f"a{n}" for n in range(8)), tuple(f"b{n}" for n in range(8)))


@pytest.mark.invariant(10)
def test_messages_three_times_and_shuffled_change_no_result(
    store: EmbeddedServer, tmp_path: Path, figures: Figures, server_binary: str | None
) -> None:
    """Statuses, journals and maps are those of a run in which each message comes once."""
    seeds = [0, 1, *(failing_seed(step) for step in range(4))]
    with world_of(store, tmp_path / "once", robots=_FLEET) as world:
        ids = _run_all(world, seeds, "m")
        once = _results(world, ids)
    with (
        EmbeddedServer(aof=True, binary=server_binary) as other,
        world_of(other, tmp_path / "thrice", robots=_FLEET, repeat=3) as world,
    ):
        ids = _run_all(world, seeds, "m")
        assert _results(world, ids) == once
        row = figures.row("mission: each Celery message three times and shuffled")
        _note(row, world, ids, {"completed", "compensated"})
    assert [status for status, _, _ in once] == ["completed"] * 2 + ["compensated"] * 4


@pytest.mark.invariant(10)
def test_a_mission_ends_though_celerys_queue_is_deleted(
    store: EmbeddedServer, tmp_path: Path, figures: Figures
) -> None:
    """Again and again, with everything that is in it: the missions get new messages."""
    with world_of(store, tmp_path, robots=_FLEET) as world:
        deleted = 0
        saga_ids = [f"m{number}" for number in range(6)]
        for saga_id in saga_ids:
            world.ask(saga_id, 2, 0)
        with world.client() as client:
            give_up = time.monotonic() + 3.0
            while time.monotonic() < give_up or not deleted:
                deleted += int(client.delete("celery"))
                client.delete("unacked", "unacked_index")
        world.until(lambda: all(map(world.has_ended, saga_ids)), "not all missions end")
        row = figures.row("mission: Celery's queue deleted while it runs")
        row.notes["queues with something in them"] = str(deleted)
        _note(row, world, saga_ids, {"completed"})


def _note(row: Row, world: World, saga_ids: Sequence[str], right: set[str]) -> None:
    for saga_id in saga_ids:
        faults = world.judge(saga_id, right)
        _count(row, faults)
        assert not faults.all


def _mission(world: World, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a verb of `mission` beside a world."""
    own = {name.upper(): str(value) for name, value in world.settings.items()}
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
    store: EmbeddedServer, tmp_path: Path, figures: Figures
) -> None:
    """Then it works, and the mission is compensated."""
    with world_of(store, tmp_path) as world:
        with world.client() as client:
            client.set("failing", 3)
        saga_ids = _run_all(world, [failing_seed(3)], "m")
        row = figures.row("mission: a compensation fails three times")
        _note(row, world, saga_ids, {"compensated"})


def test_a_mission_that_is_stuck_is_resumed_when_it_is_mended(
    store: EmbeddedServer, tmp_path: Path, figures: Figures
) -> None:
    """It says so with exit code 4 and stays; `mission resume` brings it to its end."""
    with world_of(store, tmp_path) as world:
        with world.client() as client:
            client.set("failing", 1000)
        _run_all(world, [failing_seed(3)], "m")
        assert _mission(world, "watch", "m0").returncode == 4
        listed = json.loads(_mission(world, "list", "-o", "json").stdout)
        assert [(row["saga_id"], row["status"]) for row in listed] == [("m0", "stuck")]
        with world.client() as client:
            assert client.pttl("saga:m0") == -1
            client.set("failing", 0)
        resumed = _mission(world, "resume", "m0")
        assert resumed.returncode == 3, resumed.stderr
        row = figures.row("mission: a compensation that always fails, then mended")
        _note(row, world, ["m0"], {"compensated"})


def test_chaos(store: EmbeddedServer, tmp_path: Path, figures: Figures, *, is_long: bool) -> None:
    """Many missions at once, processes killed and stopped at random, and the server too."""
    missions, seconds, server_kills = (60, 300.0, 3) if is_long else (12, 12.0, 1)
    chaos = run(store, tmp_path, missions=missions, seconds=seconds, server_kills=server_kills)
    row = figures.row(f"mission: {missions} at once, processes and server killed at random")
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
    wrong = chaos.unfinished + chaos.doubled + chaos.out_of_order + chaos.other
    assert not wrong
