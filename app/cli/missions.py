"""The verbs for missions that run on workers: start, list, show, watch, cancel, resume, and the fleet.

Watching and waiting may be given up at any time: the mission does not need it.
"""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.cli.base import (
    EXIT_ERROR,
    Area,
    Format,
    KnownPoses,
    Output,
    Robots,
    Seed,
    app,
    as_json,
    finish,
    guarded,
    leave,
    refuse_bad,
    settings_of_command,
    teller,
)
from app.cli.display import MissionDisplay
from app.cli.replay import drawn
from app.missions.mission_saga import mission_runner
from app.missions.summaries import entries_of, row_of
from app.orchestrator import Mission, MissionHandle, follow, report, run_saga
from app.redis_utils import get_bus
from app.robots import fleet
from sagastream.saga.journal import Journal
from sagastream.saga.outcome import outcome_of

SagaId = Annotated[str, typer.Argument(help="The mission, as `mission list` names it.")]


@app.command()
def start(
    *,
    area: Area,
    robots: Robots = 2,
    seed: Seed = 0,
    known_poses: KnownPoses = True,
    key: Annotated[
        str | None,
        typer.Option(
            "--id", help="Its id: letters, digits, - and _. The same again is the same mission."
        ),
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Start a mission on workers that run, and do not wait for it.

    Example: mission start --area office --robots 3
    """
    settings_of_command()
    mission = Mission(area, robots, seed, known_poses)
    refuse_bad(mission)

    async def begin() -> MissionHandle:
        async with get_bus():
            return await run_saga(robots, area, seed=seed, saga_id=key, known_poses=known_poses)

    saga_id = guarded(begin(), "interrupted").saga_id
    if not as_json({"saga_id": saga_id}, output):
        print(f"mission {saga_id} is started; see it with: mission watch {saga_id}")


@app.command("list")
def list_missions(*, output: Format = Output.TEXT) -> None:
    """Show the missions that are kept, the newest first.

    Example: mission list -o json
    """
    settings_of_command()

    async def ask() -> list[Journal]:
        async with get_bus() as bus:
            await bus.ping()
            return await mission_runner().journals()

    journals: list[Journal] = list(reversed(guarded(ask(), "interrupted")))
    rows = [row_of(journal) for journal in journals]
    if as_json(rows, output):
        return
    if not rows:
        print(f"no missions at {get_bus().address}")
        return
    table = Table("mission", "status", "area", "robots", "at", "age")
    for row in rows:
        table.add_row(
            *(row["saga_id"], row["status"], row["area"], str(row["robots"])),
            *(row["at"] or "-", f"{row['age_s']:.0f} s"),
        )
    Console(width=None if Console().is_terminal else 120).print(table)


@app.command()
def show(saga_id: SagaId, *, output: Format = Output.TEXT) -> None:
    """Show one mission: each request that its journal has, forward and back.

    Example: mission show 3f2b6f6c-6a5d-4d57-9a3e-0d1f2a9c1b11
    """
    settings_of_command()
    journal = _journal(saga_id)
    row = row_of(journal)
    if as_json(row | {"error": journal.error, "entries": entries_of(journal)}, output):
        return
    print(f"mission {saga_id} {row['status']}: {row['area']}, {row['robots']} robots")
    table = Table("step", "", "attempt", "status", "took", "request", "error")
    for entry in entries_of(journal):
        took = "-" if entry["duration_s"] is None else f"{entry['duration_s']:.1f} s"
        error = entry["error"].get("message", "")
        table.add_row(
            *(entry["step"], entry["direction"], str(entry["attempt"]), entry["status"], took),
            *(entry["request_id"], error),
        )
    Console(width=None if Console().is_terminal else 160).print(table)
    print(f"trace {outcome_of(journal).trace_id}")


@app.command()
def watch(saga_id: SagaId, *, output: Format = Output.TEXT) -> None:
    """Follow a mission to its end, from its first stage; Ctrl-C only stops the watching.

    Exit codes as those of `mission run`. Example: mission watch ID
    """
    settings_of_command()
    _see_end(saga_id, output)


@app.command()
def cancel(
    saga_id: SagaId,
    *,
    reason: Annotated[str, typer.Option(help="What its journal will say.")] = "cancelled by hand",
    output: Format = Output.TEXT,
) -> None:
    """Undo a mission that has not ended, and wait for that.

    Exit codes as those of `mission run`: 3 when it is undone. Example: mission cancel ID
    """
    settings_of_command()
    ended = _move(lambda runner: runner.compensate(saga_id, reason))
    if ended.status == "completed":
        leave(EXIT_ERROR, f"mission {saga_id} had completed; nothing is undone")
    _see_end(saga_id, output)


@app.command()
def resume(saga_id: SagaId, *, output: Format = Output.TEXT) -> None:
    """Have a mission gone on with, a stuck one with new tries, and wait for its end.

    Exit codes as those of `mission run`. Example: mission resume ID
    """
    settings_of_command()
    _move(lambda runner: runner.resume(saga_id))
    _see_end(saga_id, output)


@app.command()
def compensate(saga_id: SagaId, *, output: Format = Output.TEXT) -> None:
    """Undo a mission whatever it is at: a running one turns round, a stuck one tries again.

    Exit codes as those of `mission run`. Example: mission compensate ID
    """
    settings_of_command()
    ended = _move(lambda runner: runner.compensate(saga_id, "compensated by hand"))
    if ended.status == "completed":
        leave(EXIT_ERROR, f"mission {saga_id} had completed; nothing is undone")
    _move(lambda runner: runner.resume(saga_id))
    _see_end(saga_id, output)


@app.command("fleet")
def show_fleet(*, output: Format = Output.TEXT) -> None:
    """Show the robots, their batteries, and who holds them.

    Example: REDIS_URL=redis://127.0.0.1:6379/0 mission fleet
    """
    settings_of_command()

    async def ask() -> list[fleet.Robot]:
        async with get_bus() as bus:
            await bus.ping()
            return await fleet.robots()

    robots = guarded(ask(), "interrupted")
    if as_json([asdict(robot) for robot in robots], output):
        return
    if not robots:
        print(f"no robots at {get_bus().address}; start some with `mission workers`")
        return
    table = Table("robot", "battery", "there", "held by")
    for robot in robots:
        there = "yes" if robot.present else "no"
        table.add_row(robot.name, f"{robot.battery:.0f} %", there, robot.holder or "-")
    Console().print(table)


def _journal(saga_id: str) -> Journal:
    async def ask() -> Journal:
        async with get_bus():
            return await mission_runner().journal(saga_id)

    found: Journal = guarded(ask(), "interrupted")
    return found


def _move(change: Any) -> Journal:
    async def move() -> Journal:
        async with get_bus():
            moved: Journal = await change(mission_runner())
            return moved

    found: Journal = guarded(move(), "interrupted")
    return found


def _see_end(saga_id: str, output: Output) -> None:
    async def see() -> dict[str, Any]:
        async with get_bus():
            journal = await mission_runner().journal(saga_id)
            with MissionDisplay() as display:
                handle = MissionHandle(saga_id, journal.input)
                async with drawn(display, saga_id):
                    return report(await follow(handle, teller(output, display.show)), journal.input)

    finish(guarded(see(), f"it goes on; see it with: mission watch {saga_id}"), output)
