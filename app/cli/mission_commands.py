"""Commands for missions on running workers: start, list, show, watch, cancel, resume, fleet.

Interrupting a command that waits does not affect the mission.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from app.cli.base import (
    EXIT_ERROR,
    Approve,
    Area,
    Format,
    KnownPoses,
    Output,
    Radio,
    Robots,
    Seed,
    Until,
    app,
    exit_with_report,
    leave,
    print_json,
    printable,
    refuse_invalid,
    run_or_exit,
    say_waiting,
    settings_of_command,
    stage_printer,
)
from app.cli.display import MissionDisplay
from app.cli.kept_missions import all_summaries, server_of
from app.cli.replay import show_live_map
from app.cli.workers import missing_kinds
from app.config import get_settings
from app.missions.approval import decide
from app.missions.mission import Mission, MissionHandle, follow, run_saga
from app.missions.mission_saga import mission_runner
from app.missions.reports import final_report, requests_of, summary_of
from app.redis_utils import get_bus
from app.robots import fleet
from sagastream.saga import Journal, outcome_of

SagaId = Annotated[
    str, typer.Argument(help="The id of the mission, or its beginning; see `mission list`.")
]
_ENDED = {
    "completed": "completed; nothing was undone",
    "compensated": "been undone; nothing was done",
}


@app.command()
def start(
    *,
    area: Area,
    robots: Robots = 2,
    seed: Seed = 0,
    known_poses: KnownPoses = True,
    approve: Approve = False,
    until: Until = "everything",
    radio: Radio = "perfect",
    key: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="The mission's id: letters, digits, - and _. An existing id returns its mission.",
        ),
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Start a mission on running workers, and do not wait for its end.

    Example: mission start --area office --robots 3
    """
    settings_of_command()
    mission = Mission(area, robots, seed, known_poses, approve, until, radio)
    refuse_invalid(mission)

    async def begin() -> MissionHandle:
        async with get_bus():
            return await run_saga(
                robots,
                area,
                seed=seed,
                saga_id=key,
                known_poses=known_poses,
                approve=approve,
                until=until,
                radio=radio,
            )

    async def missing() -> set[str]:
        async with get_bus():
            return await missing_kinds(get_settings())

    saga_id = run_or_exit(begin()).saga_id
    if not print_json({"saga_id": saga_id}, output):
        print(f"started mission {saga_id}; watch it with: mission watch {saga_id}")
    if absent := run_or_exit(missing()):
        print(
            f"mission: nothing runs mission {saga_id} yet, there are no workers of this kind: "
            f"{', '.join(sorted(absent))}; start them with: mission workers",
            file=sys.stderr,
        )


@app.command("list")
def list_missions(*, output: Format = Output.TEXT) -> None:
    """List the missions that are kept, newest first.

    Example: mission list -o json
    """
    settings_of_command()
    summaries = all_summaries()
    if print_json(summaries, output):
        return
    if not summaries:
        print(f"no missions at {get_bus().address}, and none kept in {get_settings().data_dir}")
        return
    table = Table(
        _whole("mission", (each["saga_id"] for each in summaries)),
        "status",
        "area",
        "robots",
        "step",
        "age",
    )
    for summary in summaries:
        table.add_row(
            *map(printable, (summary["saga_id"], summary["status"], summary["area"] or "-")),
            *map(printable, (summary["robots"] or "-", summary["at"] or "-")),
            "-" if summary["age_s"] is None else f"{summary['age_s']:.0f} s",
        )
    Console(width=None if Console().is_terminal else 120, markup=False).print(table)


@app.command()
def show(mission: SagaId, *, output: Format = Output.TEXT) -> None:
    """Show one mission with each request in its journal, forward and undo.

    Example: mission show 3f2b6f6c-6a5d-4d57-9a3e-0d1f2a9c1b11
    """
    settings_of_command()
    with server_of(mission) as saga_id:
        journal = _journal(saga_id)
    summary = summary_of(journal)
    if print_json(summary | {"error": journal.error, "entries": requests_of(journal)}, output):
        return
    about = f"{summary['status']}: {summary['area']}, {summary['robots']} robots"
    print(printable(f"mission {saga_id} {about}"))
    table = Table(
        "step",
        "",
        "attempt",
        "status",
        "took",
        _whole("request", (entry["request_id"] for entry in requests_of(journal))),
        "error",
    )
    for entry in requests_of(journal):
        took = "-" if entry["duration_s"] is None else f"{entry['duration_s']:.1f} s"
        error = entry["error"].get("message", "")
        table.add_row(
            *map(printable, (entry["step"], entry["direction"], entry["attempt"], entry["status"])),
            *map(printable, (took, entry["request_id"], error)),
        )
    Console(width=None if Console().is_terminal else 160, markup=False).print(table)
    print(f"trace {outcome_of(journal).trace_id}")


@app.command()
def watch(mission: SagaId, *, output: Format = Output.TEXT) -> None:
    """Follow a mission from its first stage to its end; Ctrl-C does not stop the mission.

    Exit codes: as for `mission run`. Example: mission watch ID
    """
    settings_of_command()
    with server_of(mission) as saga_id:
        _follow_to_end(saga_id, output)


@app.command()
def cancel(
    mission: SagaId,
    *,
    reason: Annotated[str, typer.Option(help="Recorded in the journal.")] = "cancelled by hand",
    output: Format = Output.TEXT,
) -> None:
    """Undo a mission that has not ended, and wait until it is undone.

    Exit codes: as for `mission run`; 3 when it is undone. Example: mission cancel ID
    """
    settings_of_command()
    with server_of(mission, changes=True) as saga_id:
        _refuse_ended(_journal(saga_id), output)
        _refuse_completed(
            _change_mission(lambda runner: runner.compensate(saga_id, reason)), output
        )
        _follow_to_end(saga_id, output)


@app.command()
def resume(mission: SagaId, *, output: Format = Output.TEXT) -> None:
    """Resume a mission, a stuck one with new attempts, and wait for its end.

    Exit codes: as for `mission run`. Example: mission resume ID
    """
    settings_of_command()
    with server_of(mission, changes=True) as saga_id:
        _refuse_ended(_journal(saga_id), output)
        _change_mission(lambda runner: runner.resume(saga_id))
        _follow_to_end(saga_id, output)


@app.command()
def approve(mission: SagaId, *, output: Format = Output.TEXT) -> None:
    """Approve the exploration of a mission that waits for it, and wait for the mission's end.

    Exit codes: as for `mission run`. Example: mission approve ID
    """
    _decide(mission, output, approved=True)


@app.command()
def reject(
    mission: SagaId,
    *,
    reason: Annotated[str, typer.Option(help="Recorded in the journal.")] = "rejected by hand",
    output: Format = Output.TEXT,
) -> None:
    """Reject the exploration of a mission that waits for approval, and wait until it is undone.

    Exit codes: as for `mission run`; 3 when it is undone. Example: mission reject ID
    """
    _decide(mission, output, approved=False, reason=reason)


def _decide(mission: str, output: Output, *, approved: bool, reason: str = "") -> None:
    settings_of_command()
    with server_of(mission, changes=True) as saga_id:
        _refuse_ended(_journal(saga_id), output)

        async def apply() -> Journal:
            async with get_bus():
                return await decide(saga_id, approved=approved, reason=reason)

        run_or_exit(apply())
        _follow_to_end(saga_id, output)


@app.command()
def compensate(mission: SagaId, *, output: Format = Output.TEXT) -> None:
    """Undo a mission in any state: compensate a running one, retry a stuck one.

    Exit codes: as for `mission run`. Example: mission compensate ID
    """
    settings_of_command()
    with server_of(mission, changes=True) as saga_id:
        _refuse_ended(_journal(saga_id), output)
        _refuse_completed(
            _change_mission(lambda runner: runner.compensate(saga_id, "compensated by hand")),
            output,
        )
        _change_mission(lambda runner: runner.resume(saga_id))
        _follow_to_end(saga_id, output)


@app.command("fleet")
def show_fleet(*, output: Format = Output.TEXT) -> None:
    """Show the robots, their batteries, and the missions that hold them.

    Example: REDIS_URL=redis://127.0.0.1:6379/0 mission fleet
    """
    settings_of_command()

    async def ask() -> list[fleet.Robot]:
        async with get_bus() as bus:
            await bus.ping()
            return await fleet.robots()

    robots = run_or_exit(ask())
    if print_json([asdict(robot) for robot in robots], output):
        return
    if not robots:
        print(f"no robots at {get_bus().address}; start some with `mission workers`")
        return
    table = Table(
        "robot", "battery", "present", _whole("held by", (robot.holder for robot in robots))
    )
    for robot in robots:
        present = "yes" if robot.present else "no"
        if robot.present and robot.unavailable:
            present = printable(f"yes, but {robot.unavailable}")
        name, holder = printable(robot.name), printable(robot.holder or "-")
        battery = robot.battery if robot.measured is None else robot.measured
        table.add_row(name, f"{battery:.0f} %", present, holder)
    Console(markup=False).print(table)


def _whole(header: str, ids: Iterable[str | None]) -> Column:
    """A column whose ids are never cut."""
    width = max((len(printable(one or "")) for one in ids), default=0)
    return Column(header, no_wrap=True, min_width=width)


def _refuse_ended(journal: Journal, output: Output) -> None:
    """End the command with an error if the mission has ended: nothing can be done."""
    if journal.status in {"completed", "compensated"}:
        print_json(final_report(outcome_of(journal), journal.input), output)
        leave(EXIT_ERROR, f"mission {journal.saga_id} has already {_ENDED[journal.status]}")


def _refuse_completed(journal: Journal, output: Output) -> None:
    """End the command with an error if the mission completed before it could be undone."""
    if journal.status == "completed":
        _refuse_ended(journal, output)


def _journal(saga_id: str) -> Journal:
    async def ask() -> Journal:
        async with get_bus():
            return await mission_runner().journal(saga_id)

    found: Journal = run_or_exit(ask())
    return found


def _change_mission(change: Any) -> Journal:
    async def apply() -> Journal:
        async with get_bus():
            changed: Journal = await change(mission_runner())
            return changed

    found: Journal = run_or_exit(apply())
    return found


def _follow_to_end(saga_id: str, output: Output) -> None:
    async def follow_with_display() -> dict[str, Any]:
        async with get_bus():
            journal = await mission_runner().journal(saga_id)
            with MissionDisplay(journal.started, journal.saga_id) as display:
                handle = MissionHandle(saga_id, journal.input)
                async with show_live_map(display, saga_id):
                    show = stage_printer(output, display.show)
                    outcome = await follow(handle, show, on_wait=say_waiting)
            return final_report(outcome, journal.input)

    interrupted = f"the mission continues; watch it with: mission watch {saga_id}"
    exit_with_report(run_or_exit(follow_with_display(), interrupted), output)
