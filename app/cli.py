"""`mission`: run a mission from the terminal, and look at the fleet."""

import asyncio
import json
import math
import re
import signal
import sys
import tempfile
from collections.abc import Collection, Coroutine
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app import fleet
from app.config import Settings, choose_settings, get_settings
from app.display import MissionDisplay
from app.exploration.map_files import MapError, load_map, save_map
from app.logging_config import configure
from app.orchestrator import BadMission, Mission, MissionTimeout, report, run_saga
from app.processes import KINDS, Workers, absent
from app.redis_utils import get_bus
from sagastream import SagastreamError
from sagastream.testing import EmbeddedServer

EXIT = {"completed": 0, "compensated": 3, "stuck": 4}
EXIT_ERROR, EXIT_USAGE, EXIT_TIMEOUT, EXIT_INTERRUPTED = 1, 2, 5, 130

app = typer.Typer(
    name="mission",
    help="Mission control for collaborative exploration.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
orchestrator_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Output(StrEnum):
    """How results are written to standard output."""

    TEXT = "text"
    JSON = "json"


Robots = Annotated[int, typer.Option(help="How many robots, 1 to 64.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal missions.")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds after which the mission is undone.", min=0.001)
]
Format = Annotated[Output, typer.Option("--output", "-o", help="text or json.")]


@app.command()
def run(
    *,
    area: Annotated[str | None, typer.Option(help="The name of a map in MAP_DIR.")] = None,
    map: Annotated[  # noqa: A002 - the option's name
        Path | None, typer.Option(help="A map file (yaml) anywhere; not with --area.")
    ] = None,
    robots: Robots = 2,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where results go.")] = None,
    timeout: Timeout = None,
    attach: Annotated[bool, typer.Option(help="Use workers that already run.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Run one mission: start what it needs, watch it, and stop it all at the end.

    With REDIS_URL set it uses that server, otherwise one of its own. Exit codes: 0
    completed, 1 error, 2 usage, 3 failed and compensated, 4 compensation stuck,
    5 timeout, 130 interrupted.

    Example: mission run --map floor.yaml --robots 3 --seed 7
    """
    given = _settings()
    if area and map:
        _leave(EXIT_USAGE, "--area and --map: give one of them")
    if attach and (map or out):
        _leave(EXIT_USAGE, "--attach uses the workers' own MAP_DIR and OUT_DIR: give --area alone")
    shared = attach or "redis_url" in given.model_fields_set
    with ExitStack() as stack:
        if out:
            choose_settings(out_dir=out.resolve())
        if map:
            area = _use_map(map, stack)
        mission = Mission(area or "office", robots, seed)
        _refuse_bad(mission)
        if not shared:
            choose_settings(redis_url=stack.enter_context(EmbeddedServer()).url)
        kinds = None if attach else KINDS
        running = _run(mission, timeout, kinds, shared=shared, own_folders=bool(map or out))
        _finish(running, mission, output)


@orchestrator_app.command()
def orchestrate_command(
    *,
    area: Annotated[str, typer.Option(help="The name of a map in MAP_DIR.")],
    robots: Robots = 2,
    seed: Seed = 0,
    timeout: Timeout = None,
    output: Format = Output.TEXT,
) -> None:
    """Run one mission on workers that already run."""
    _settings()
    mission = Mission(area, robots, seed)
    _refuse_bad(mission)
    _finish(_run(mission, timeout, None, shared=True), mission, output)


@app.command("fleet")
def show_fleet(*, output: Format = Output.TEXT) -> None:
    """Show the robots, their batteries, and who holds them.

    Example: REDIS_URL=redis://127.0.0.1:6379/0 mission fleet
    """
    _settings()

    async def ask() -> list[fleet.Robot]:
        async with get_bus() as bus:
            await bus.ping()
            return await fleet.robots()

    robots = _guarded(ask())
    if output is Output.JSON:
        rows = [{name: getattr(robot, name) for name in robot.__slots__} for robot in robots]
        print(json.dumps(rows))
        return
    if not robots:
        print(f"no robots at {get_bus().address}; start some with `mission run`")
        return
    table = Table("robot", "battery", "there", "held by")
    for robot in robots:
        there = "yes" if robot.present else "no"
        table.add_row(robot.name, f"{robot.battery:.0f} %", there, robot.holder or "-")
    Console().print(table)


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
    *,
    shared: bool,
    own_folders: bool = False,
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
                workers = stack.enter_context(Workers(settings, kinds))
                await workers.ready()
            display = stack.enter_context(MissionDisplay())
            outcome = await run_saga(
                mission.robot_count,
                mission.area,
                seed=mission.seed,
                timeout=timeout,
                on_stage=display.show,
            )
    return report(outcome, mission)


def _finish(running: Coroutine[Any, Any, dict[str, Any]], mission: Mission, output: Output) -> None:
    ended = _guarded(running)
    if output is Output.JSON:
        print(json.dumps(ended))
    else:
        _print_text(ended, mission)
    sys.exit(EXIT[ended["status"]])


def _print_text(ended: dict[str, Any], mission: Mission) -> None:
    lines = [f"mission {ended['saga_id']} {ended['status']} in {ended['duration_s']:.1f} s"]
    if ended["status"] == "completed":
        figures = f"coverage {_percent(ended['coverage'])}, accuracy {_percent(ended['accuracy'])}"
        lines += [
            f"  {mission.area}, {mission.robot_count} robots: {figures}",
            f"  map      {ended['artifacts']['map_yaml']}",
            f"  picture  {ended['artifacts']['picture']}",
        ]
    else:
        failed = next((s["name"] for s in ended["steps"] if s["status"] == "failed"), "a step")
        error = ended.get("error", {})
        lines.append(f"  {failed} failed: {error.get('error_type')}: {error.get('message')}")
        undone = [s["name"] for s in ended["steps"] if s["status"] == "compensated"]
        lines.append(f"  undone: {', '.join(reversed(undone)) or 'nothing was done'}")
    lines.append(f"  trace    {ended['trace_id']}")
    print("\n".join(lines))


def _percent(share: float) -> str:
    """Rounded down: what is not all is not 100 %."""
    return f"{math.floor(share * 1000) / 10} %"


def _guarded(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine; SIGTERM and Ctrl-C cancel it, errors become one line and a code."""

    async def watched() -> Any:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await coroutine

    try:
        return asyncio.run(watched())
    except (KeyboardInterrupt, asyncio.CancelledError):
        _leave(EXIT_INTERRUPTED, "interrupted; what the mission had done is undone")
    except MissionTimeout as error:
        _leave(EXIT_TIMEOUT, str(error))
    except (SagastreamError, OSError) as error:
        _leave(EXIT_ERROR, str(error))


def _settings() -> Settings:
    try:
        settings = get_settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        _leave(EXIT_USAGE, f"{name}: {first['msg']}")
    configure(settings, "orchestrator")
    return settings


def _use_map(path: Path, stack: ExitStack) -> str:
    """Make a map file the mission's; returns the name by which messages call it."""
    try:
        floor = load_map(path)
    except MapError as error:
        _leave(EXIT_USAGE, str(error))
    area = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-")[:64] or "map"
    if area == path.stem:
        choose_settings(map_dir=path.resolve().parent)
    else:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mission-map-")))
        save_map(place / f"{area}.yaml", floor.grid, floor.frame)
        choose_settings(map_dir=place)
    return area


def _refuse_bad(mission: Mission) -> None:
    try:
        mission.check()
    except (BadMission, MapError) as error:
        _leave(EXIT_USAGE, str(error))


def _leave(code: int, message: str) -> Any:
    print(f"mission: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
