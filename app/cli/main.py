"""`mission`: run a mission from the terminal, or the workers that missions need."""

import asyncio
import re
import sys
import tempfile
import threading
from collections.abc import Collection
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import missions, trace  # noqa: F401 - their commands
from app.cli.base import (
    EXIT_USAGE,
    Area,
    Format,
    KnownPoses,
    Output,
    Robots,
    Seed,
    app,
    finish,
    guarded,
    leave,
    refuse_bad,
    settings_of_command,
    teller,
)
from app.cli.display import MissionDisplay
from app.cli.replay import drawn
from app.cli.serve import page_of
from app.cli.workers import KINDS, Workers, absent
from app.config import choose_settings, get_settings
from app.exploration.map_files import MapError, load_map, save_map
from app.observability import providers
from app.orchestrator import Mission, report, run_saga, see_through
from app.redis_utils import get_bus
from sagastream import SagastreamError
from sagastream.testing import EmbeddedServer

__all__ = ["app", "main", "orchestrate"]

orchestrator_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_UNDONE = "interrupted; what the mission had done is undone"

Timeout = Annotated[
    float | None, typer.Option(help="Seconds after which the mission is undone.", min=0.001)
]


@app.command()
def run(
    *,
    area: Annotated[str | None, typer.Option(help="The name of a map in MAP_DIR.")] = None,
    map: Annotated[  # noqa: A002 - the option's name
        Path | None, typer.Option(help="A map file (yaml) anywhere; not with --area.")
    ] = None,
    robots: Robots = 2,
    seed: Seed = 0,
    known_poses: KnownPoses = True,
    out: Annotated[Path | None, typer.Option(help="Where results go.")] = None,
    timeout: Timeout = None,
    attach: Annotated[bool, typer.Option(help="Use workers that already run.")] = False,
    page: Annotated[
        bool | None,
        typer.Option(help="Serve the mission's page while it runs; on a terminal, unless told."),
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Run one mission: start what it needs, watch it, and stop it all at the end.

    With REDIS_URL set it uses that server, otherwise one of its own. Exit codes: 0
    completed, 1 error, 2 usage, 3 failed and compensated, 4 compensation stuck,
    5 timeout, 130 interrupted.

    Example: mission run --map floor.yaml --robots 3 --seed 7
    """
    given = settings_of_command(embedded=not attach)
    if area and map:
        leave(EXIT_USAGE, "--area and --map: give one of them")
    if attach and (map or out):
        leave(EXIT_USAGE, "--attach uses the workers' own MAP_DIR and OUT_DIR: give --area alone")
    shared = attach or "redis_url" in given.model_fields_set
    with ExitStack() as stack:
        if out:
            choose_settings(out_dir=out.resolve())
        if map:
            area = _use_map(map, stack)
        mission = Mission(area or "office", robots, seed, known_poses)
        refuse_bad(mission)
        if not shared:
            choose_settings(redis_url=stack.enter_context(EmbeddedServer()).url)
        kinds = None if attach else KINDS
        running = _run(
            *(mission, timeout, kinds, output),
            shared=shared,
            own_folders=bool(map or out),
            page=sys.stderr.isatty() if page is None else page,
        )
        finish(guarded(running, _UNDONE), output)


@orchestrator_app.command()
def orchestrate_command(
    *,
    area: Area,
    robots: Robots = 2,
    seed: Seed = 0,
    known_poses: KnownPoses = True,
    timeout: Timeout = None,
    output: Format = Output.TEXT,
) -> None:
    """Run one mission on workers that already run."""
    settings_of_command()
    mission = Mission(area, robots, seed, known_poses)
    refuse_bad(mission)
    finish(guarded(_run(mission, timeout, None, output, shared=True), _UNDONE), output)


@app.command()
def workers() -> None:
    """Run what missions need beside a server, until Ctrl-C: Celery, listeners, robots.

    What dies is started again. Example: REDIS_URL=redis://127.0.0.1:6379/0 mission workers
    """
    settings = settings_of_command()

    async def keep() -> None:
        async with get_bus() as bus:
            await bus.ping()
            with Workers(settings) as running:
                await running.ready()
                print(f"ready at {bus.address}; Ctrl-C stops them", flush=True)
                await running.keep()

    guarded(keep(), "stopped")


def orchestrate() -> None:
    """Entry point of `python -m app.orchestrator`."""
    orchestrator_app()


def main() -> None:
    """Entry point of `mission`."""
    app()


async def _run(
    mission: Mission,
    timeout: float | None,
    kinds: Collection[str] | None,
    output: Output,
    *,
    shared: bool,
    own_folders: bool = False,
    page: bool = False,
) -> dict[str, Any]:
    settings = get_settings()
    async with get_bus() as bus:
        await bus.ping()
        with ExitStack() as stack:
            if kinds:
                kinds = await absent(settings) if shared else kinds
                if own_folders and kinds != KINDS:
                    raise SagastreamError(
                        f"workers run on {bus.address} already, with a MAP_DIR and OUT_DIR of "
                        "their own: use --attach and --area, or another server"
                    )
                running = stack.enter_context(Workers(settings, kinds))
                # While they stop, not after: a collector that is down is waited for once.
                stack.callback(threading.Thread(target=providers.shut_down).start)
                # A slow import, which starting the mission needs: while they get ready.
                await asyncio.gather(running.ready(), asyncio.to_thread(import_module, "app.tasks"))
                keeping = asyncio.create_task(running.keep())
                stack.callback(keeping.cancel)
            display = stack.enter_context(MissionDisplay())
            handle = await run_saga(
                mission.robot_count,
                mission.area,
                seed=mission.seed,
                known_poses=mission.known_poses,
            )
            if page:
                stack.enter_context(page_of(handle.saga_id, settings))
            async with drawn(display, handle.saga_id):
                outcome = await see_through(handle, teller(output, display.show), timeout=timeout)
    return report(outcome, handle.input)


def _use_map(path: Path, stack: ExitStack) -> str:
    """Make a map file the mission's; returns the name by which messages call it."""
    try:
        floor = load_map(path)
    except MapError as error:
        leave(EXIT_USAGE, str(error))
    area = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-")[:64] or "map"
    if area == path.stem:
        choose_settings(map_dir=path.resolve().parent)
    else:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mission-map-")))
        save_map(place / f"{area}.yaml", floor.grid, floor.frame)
        choose_settings(map_dir=place)
    return area
