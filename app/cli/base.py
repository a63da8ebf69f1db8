"""Shared by all `mission` commands: options, settings, exit codes, errors as one line."""

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

import sagastream
from app.cli.dev_server import use_dev_server
from app.config import Settings, choose_settings, explain, get_settings
from app.exploration.map_files import MapError
from app.missions.mission import BadMission, Mission, MissionTimeout
from app.observability.providers import configure
from app.shutdown import GRACE_S, shutdown
from sagastream import SagastreamError

_ORDER = (
    *("run", "dev", "start", "list", "show", "watch", "replay", "export", "trace"),
    *("approve", "reject", "cancel", "resume", "compensate"),
    *("fleet", "workers", "agv", "ros2", "serve", "map-log", "doctor", "acl"),
)
EXIT_CODES = {"completed": 0, "compensated": 3, "stuck": 4}
_MAX_TRACE_FILES = 50
EXIT_ERROR, EXIT_USAGE, EXIT_TIMEOUT = 1, 2, 5


class Output(StrEnum):
    """The format of results on standard output."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


Area = Annotated[str, typer.Option(help="The name of a map in MAP_DIR.")]
Robots = Annotated[int, typer.Option(help="How many robots, 1 to 64.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal missions.")]
KnownPoses = Annotated[
    bool,
    typer.Option(
        "--known-poses/--unknown-poses",
        help="Whether robots know their poses, or each localises itself in its own map.",
    ),
]
Approve = Annotated[
    bool,
    typer.Option(
        "--approve",
        help="Wait for a person's approval before the maps are merged: see `mission approve`.",
    ),
]
Until = Annotated[
    str,
    typer.Option(
        help="When enough is explored: everything, coverage:SHARE of what is in sight, "
        "frontier:METRES (no longer frontier is left), time:SECONDS, or battery:PERCENT."
    ),
]
Radio = Annotated[
    str,
    typer.Option(
        help="Which robots hear one another: perfect (all), ir2 (walls and distance count), "
        "or distance:METRES. The others explore for themselves until they meet."
    ),
]
Format = Annotated[
    Output, typer.Option("--output", "-o", help="text, json, or jsonl: one line per item.")
]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds after which the mission is undone.", min=0.001)
]


class CommandsInOrder(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    name="mission",
    cls=CommandsInOrder,
    help="Mission control for collaborative exploration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=lambda wanted: _print_version() if wanted else None,
        ),
    ] = False,
) -> None:
    """Mission control for collaborative exploration."""


def _print_version() -> NoReturn:
    print(f"mission {sagastream.__version__}")
    raise typer.Exit


def settings_of_command(
    *, embedded: bool = False, dev: bool = True, same_folders: bool = False
) -> Settings:
    """Return the settings, and set up logs and telemetry; an invalid variable ends the command.

    Args:
        embedded: Whether the command starts a server if REDIS_URL is not set. It then also
            writes spans to a new file in TRACE_DIR, unless TRACE_FILE is set.
        dev: Whether to use the server of a running `mission dev` if REDIS_URL is not set.
        same_folders: Whether that must have the MAP_DIR and OUT_DIR of these settings.
    """
    try:
        settings = get_settings()
        if dev:
            settings = use_dev_server(settings, same_folders=same_folders)
        if embedded and not {"redis_url", "trace_file"} & settings.model_fields_set:
            settings = choose_settings(trace_file=_new_trace_file(settings.trace_dir))
    except ValidationError as error:
        leave(EXIT_USAGE, explain(error))
    configure(settings, "orchestrator")
    return settings


def _new_trace_file(folder: Path) -> Path:
    """Return the trace file of this run; delete all but the newest of earlier runs."""
    for path in sorted(folder.glob("*.jsonl"), reverse=True)[_MAX_TRACE_FILES - 1 :]:
        path.unlink(missing_ok=True)
    return folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.jsonl"


def run_or_exit(
    coroutine: Coroutine[Any, Any, Any],
    interrupted: str = "interrupted",
    *,
    grace_s: float = GRACE_S,
) -> Any:
    """Run a coroutine and return its result; on an error print one line and exit with its code.

    Args:
        coroutine: What to run; Ctrl-C and SIGTERM cancel it.
        interrupted: The line to print if one of them did.
        grace_s: How many seconds it may take to stop after SIGTERM.
    """

    async def cancellable() -> Any:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        with shutdown.graceful(lambda: loop.call_soon_threadsafe(task.cancel), grace_s=grace_s):
            return await coroutine

    shutdown.report = interrupted
    code, line = EXIT_ERROR, ""
    try:
        result = asyncio.run(cancellable())
        if not shutdown.number:
            return result
    except asyncio.CancelledError:
        if not shutdown.number:
            raise
    except MissionTimeout as error:
        code, line = EXIT_TIMEOUT, str(error)
    except (SagastreamError, OSError) as error:
        line = str(error)
    if shutdown.number:
        code, line = shutdown.exit_code, shutdown.report
    shutdown.report = ""
    return leave(code, line)


def refuse_invalid(mission: Mission) -> None:
    """End the command with a usage error if the mission's parameters are invalid."""
    try:
        mission.check()
    except (BadMission, MapError) as error:
        leave(EXIT_USAGE, str(error))


def printable(text: object) -> str:
    """A text with control characters as escapes: what came from a server must not steer a terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def leave(code: int, message: str) -> NoReturn:
    """Print a message to stderr and exit with a code."""
    print(f"mission: {printable(message)}", file=sys.stderr)
    sys.exit(code)


def print_json(result: Any, output: Output) -> bool:
    """Print a result as JSON unless the output is text; return whether it was printed.

    With jsonl, each item of a list is one line.
    """
    if output is Output.TEXT:
        return False
    per_item = output is Output.JSONL and isinstance(result, list)
    for item in result if per_item else [result]:
        print(json.dumps(item), flush=True)
    return True


def stage_printer(
    output: Output, show: Callable[[dict[str, Any]], None]
) -> Callable[[dict[str, Any]], None]:
    """Return a callback that shows each stage of a mission and, with jsonl, prints it as a line."""

    def on_stage(stage: dict[str, Any]) -> None:
        if output is Output.JSONL:
            print_json(stage, output)
        show(stage)

    return on_stage


def exit_with_report(report: dict[str, Any], output: Output) -> NoReturn:
    """Print the report of an ended mission and exit with the code of its status."""
    if not print_json(report, output):
        _print_text(report)
    sys.exit(EXIT_CODES[report["status"]])


def _print_text(report: dict[str, Any]) -> None:
    lines = [f"mission {report['saga_id']} {report['status']} in {report['duration_s']:.1f} s"]
    if report["status"] == "completed":
        figures = (
            f"coverage {_percent(report['coverage'])}, accuracy {_percent(report['accuracy'])}"
        )
        if report["partial"]:
            figures += "; partial: some maps could not be merged"
        lines += [
            f"  {report['area']}, {report['robots']} robots: {figures}",
            f"  map      {report['artifacts'].get('map_yaml', '-')}",
            f"  picture  {report['artifacts'].get('picture', '-')}",
        ]
    else:
        failed = next((s["name"] for s in report["steps"] if s["status"] == "failed"), "a step")
        error = report.get("error", {})
        lines.append(f"  {failed} failed: {error.get('error_type')}: {error.get('message')}")
        undone = [s["name"] for s in report["steps"] if s["status"] == "compensated"]
        lines.append(f"  undone: {', '.join(reversed(undone)) or 'nothing'}")
    see = f"; see: mission trace {report['saga_id']}" if get_settings().trace_file else ""
    lines.append(f"  trace    {report['trace_id']}{see}")
    print(printable("\n".join(lines)))


def _percent(share: float | None) -> str:
    """Format a share, rounded down, so that only a full share is 100 %."""
    return "-" if share is None or not 0 <= share <= 1 else f"{math.floor(share * 1000) / 10} %"


def say_waiting(saga_id: str) -> None:
    """Say that a mission waits for a person's approval, and how to give it."""
    print(
        f"mission: {saga_id} has explored, and waits for your approval: "
        f"mission approve {saga_id}, or: mission reject {saga_id}",
        file=sys.stderr,
    )
