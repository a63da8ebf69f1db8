"""The console command `mission`: runs a mission or the workers that missions need."""

import asyncio
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Collection
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import acl, agv, dev, diagnose, export, map_log, mission_commands, ros2_bridge  # noqa: F401 - registers their commands
from app.cli.base import (
    EXIT_USAGE,
    Approve,
    Format,
    KnownPoses,
    Output,
    Radio,
    Robots,
    Seed,
    Timeout,
    Until,
    app,
    exit_with_report,
    leave,
    print_json,
    refuse_invalid,
    run_or_exit,
    say_waiting,
    settings_of_command,
    stage_printer,
)
from app.cli.dev_server import page_of_dev_server
from app.cli.display import MissionDisplay
from app.cli.kept_missions import new_server
from app.cli.replay import show_live_map
from app.cli.serve import serve_page
from app.cli.workers import KINDS, Workers, missing_kinds
from app.config import choose_settings, get_settings
from app.exploration.map_files import MapError, load_map, save_map
from app.missions.mission import (
    Mission,
    MissionHandle,
    MissionInterrupted,
    MissionTimeout,
    follow_or_undo,
    run_saga,
)
from app.missions.reports import final_report, undone_line
from app.observability import providers
from app.redis_utils import get_bus
from app.shutdown import GRACE_S, shutdown
from sagastream import SagastreamError
from sagastream.saga import SagaOutcome, SagaRunner, outcome_of

__all__ = ["app", "run_mission"]

# The time to stop the workers and the server after the mission was undone, in seconds.
_STOP_S = 1.2


@app.command()
def run(
    *,
    area: Annotated[str | None, typer.Option(help="The name of a map in MAP_DIR.")] = None,
    map: Annotated[  # noqa: A002 - the option's name
        Path | None, typer.Option(help="The path of a map file (yaml); excludes --area.")
    ] = None,
    robots: Robots = 2,
    seed: Seed = 0,
    known_poses: KnownPoses = True,
    approve: Approve = False,
    until: Until = "everything",
    radio: Radio = "perfect",
    out: Annotated[Path | None, typer.Option(help="Folder for results; default: OUT_DIR.")] = None,
    timeout: Timeout = None,
    attach: Annotated[bool, typer.Option(help="Use running workers; start none.")] = False,
    page: Annotated[
        bool | None,
        typer.Option(help="Serve the mission's page while it runs; default: only on a terminal."),
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Run one mission: start the workers it needs, follow it, and stop them at its end.

    It uses the server at REDIS_URL, else that of a running `mission dev`; if there is neither, it
    starts a server, and keeps the mission in DATA_DIR, where `mission list`, `show` and `replay`
    find it. Exit codes: 0
    completed, 1 error, 2 usage, 3 failed and compensated, 4 compensation stuck,
    5 timeout, 130 interrupted. Ctrl-C undoes the mission; a second one ends the command at once.

    Example: mission run --map floor.yaml --robots 3 --seed 7
    """
    given = settings_of_command(embedded=not attach, dev=not (map or out), same_folders=not attach)
    if area and map:
        leave(EXIT_USAGE, "--area and --map: give one of them")
    if attach and (map or out):
        leave(
            EXIT_USAGE,
            "--attach uses the MAP_DIR and OUT_DIR of the running workers: give --area only",
        )
    shared = attach or "redis_url" in given.model_fields_set
    with ExitStack() as stack:
        if out:
            choose_settings(out_dir=out.resolve())
        if not attach:
            _refuse_unwritable("--out" if out else "OUT_DIR", get_settings().out_dir)
        saga_id = SagaRunner.new_id()
        if map:
            area = _use_map(map, stack)
        mission = Mission(area or "office", robots, seed, known_poses, approve, until, radio)
        refuse_invalid(mission)
        if not shared:
            choose_settings(redis_url=stack.enter_context(new_server(saga_id)))
        kinds = None if attach else KINDS
        running = run_mission(
            *(mission, timeout, kinds, output),
            shared=shared,
            other_folders=bool(map or out),
            page=sys.stderr.isatty() if page is None else page,
            saga_id=saga_id,
        )
        exit_with_report(run_or_exit(running), output)


@app.command()
def workers() -> None:
    """Run the workers of missions until Ctrl-C: Celery, command listeners, robots.

    Processes that end are restarted. Example: REDIS_URL=redis://127.0.0.1:6379/0 mission workers
    """
    settings = settings_of_command()

    async def supervise() -> None:
        async with get_bus() as bus:
            await bus.ping()
            with Workers(settings) as running:
                await running.ready()
                print(f"ready at {bus.address}; Ctrl-C stops them", flush=True)
                await running.keep()

    run_or_exit(supervise(), "stopped", grace_s=settings.listener_drain_s + GRACE_S)


async def run_mission(
    mission: Mission,
    timeout: float | None,
    kinds: Collection[str] | None,
    output: Output,
    *,
    shared: bool,
    other_folders: bool = False,
    page: bool = False,
    saga_id: str | None = None,
) -> dict[str, Any]:
    """Run one mission to its end and return its final report; undo it if this call is cancelled.

    Args:
        mission: The mission.
        timeout: Seconds after which it is undone; None for no limit.
        kinds: The kinds of workers to start; None to use running workers.
        output: The format of stages on standard output.
        shared: Whether other processes may use the server: only missing workers are started.
        other_folders: Whether MAP_DIR or OUT_DIR was overridden for this mission.
        page: Whether to serve the mission's page.
        saga_id: The mission's id; a new one if None.

    Raises:
        MissionInterrupted: This call was cancelled; `shutdown.report` has what was undone.
        MissionTimeout: It took too long and has been undone.
        SagastreamError: It could not be started.
    """
    settings = get_settings()
    shutdown.report = "interrupted before the mission was started"
    async with get_bus() as bus:
        await bus.ping()
        with ExitStack() as stack:
            if kinds:
                kinds = await missing_kinds(settings) if shared else kinds
                if other_folders and kinds != KINDS:
                    raise SagastreamError(
                        f"workers with another MAP_DIR and OUT_DIR already run on {bus.address}: "
                        "use --attach and --area, or another server"
                    )
                running = stack.enter_context(Workers(settings, kinds))
                # Flush while the workers stop: an unresponsive collector then delays only once.
                stack.callback(threading.Thread(target=providers.shut_down).start)
                # A slow import that starting the mission needs: done while the workers start.
                importing = asyncio.to_thread(import_module, "app.celery_app")
                await asyncio.gather(running.ready(), importing)
                keeping = asyncio.create_task(running.keep())
                stack.callback(keeping.cancel)
            how_to_continue = "its server has ended"
            if shared:
                how_to_continue = "its workers continue; see: mission watch {}"
                if kinds:
                    how_to_continue = "to continue: mission workers"
            outcome, saga_input = await _run_to_end(
                *(mission, timeout, output, saga_id),
                page=page,
                how_to_continue=how_to_continue,
            )
    return final_report(outcome, saga_input)


async def _run_to_end(
    mission: Mission,
    timeout: float | None,
    output: Output,
    saga_id: str | None,
    *,
    page: bool,
    how_to_continue: str,
) -> tuple[SagaOutcome, dict[str, Any]]:
    """Start a mission and follow it; return how it ended, and the input of its saga."""
    with ExitStack() as stack:
        display = stack.enter_context(MissionDisplay())
        handle = await _start_completely(mission, saga_id)
        saga_id = display.saga_id = handle.saga_id
        how_to_continue = how_to_continue.format(saga_id)
        shutdown.report = f"mission {saga_id} was not undone; {how_to_continue}"

        def on_interrupt() -> float:
            print(
                f"mission: undoing mission {saga_id}; Ctrl-C again ends at once",
                file=sys.stderr,
            )
            return shutdown.left_s(GRACE_S) - _STOP_S

        if page and (at := page_of_dev_server(get_settings())):
            print(f"{at}missions/{saga_id}", file=sys.stderr)
        elif page:
            stack.enter_context(serve_page(saga_id, get_settings()))
        try:
            async with show_live_map(display, saga_id):
                outcome = await follow_or_undo(
                    handle,
                    stage_printer(output, display.show),
                    timeout=timeout,
                    on_interrupt=on_interrupt,
                    on_wait=say_waiting,
                )
        except MissionInterrupted as interrupted:
            shutdown.report = undone_line(interrupted.journal, how_to_continue)
            print_json(final_report(outcome_of(interrupted.journal), handle.input), output)
            raise
        except MissionTimeout as late:
            print_json(final_report(late.outcome, handle.input), output)
            raise
        shutdown.report = f"interrupted after mission {saga_id} had ended: {outcome.status}"
    return outcome, handle.input


async def _start_completely(mission: Mission, saga_id: str | None) -> MissionHandle:
    """Start a mission, also if this call is cancelled: what was started can be undone."""
    starting = asyncio.create_task(
        run_saga(
            mission.robot_count,
            mission.area,
            seed=mission.seed,
            saga_id=saga_id,
            known_poses=mission.known_poses,
            approve=mission.approve,
            until=mission.until,
            radio=mission.radio,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        handle = await starting
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # raised again where the mission is followed
        return handle


def _refuse_unwritable(name: str, folder: Path) -> None:
    """End the command with a usage error if the results cannot be written to a folder."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent  # the mission makes what is missing, when it has results
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".writable-"):
            pass
    except OSError as error:
        leave(EXIT_USAGE, f"{name}: cannot write in {folder}: {error.strerror}")


def _use_map(path: Path, stack: ExitStack) -> str:
    """Set MAP_DIR so that it has a map file; return the area name that refers to it in messages."""
    try:
        floor = load_map(path)
    except MapError as error:
        leave(EXIT_USAGE, str(error))
    area = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-")[:64] or "map"
    if path.name == f"{area}.yaml":
        choose_settings(map_dir=path.resolve().parent)
    else:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mission-map-")))
        stack.enter_context(shutdown.killing(lambda: shutil.rmtree(folder)))
        save_map(folder / f"{area}.yaml", floor.grid, floor.frame)
        choose_settings(map_dir=folder)
    return area
