"""What every verb of `mission` needs: settings, exit codes, errors as one line."""

import asyncio
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from app.config import Settings, choose_settings, get_settings
from app.exploration.map_files import MapError
from app.logging_config import configure
from app.orchestrator import BadMission, Mission, MissionTimeout
from sagastream import SagastreamError

EXIT = {"completed": 0, "compensated": 3, "stuck": 4}
_TRACES_KEPT = 50
EXIT_ERROR, EXIT_USAGE, EXIT_TIMEOUT, EXIT_INTERRUPTED = 1, 2, 5, 130


class Output(StrEnum):
    """How results are written to standard output."""

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
        help="Whether robots know where they are, or each finds out in a map of its own.",
    ),
]
Format = Annotated[
    Output, typer.Option("--output", "-o", help="text, json, or jsonl: a line an item.")
]

app = typer.Typer(
    name="mission",
    help="Mission control for collaborative exploration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def settings_of_command(*, embedded: bool = False) -> Settings:
    """The settings; a variable that is not what it must be ends the command.

    With a server of its own (`embedded`, and none is named) spans are kept in a file, too.
    """
    try:
        settings = get_settings()
        if embedded and not {"redis_url", "trace_file"} & settings.model_fields_set:
            settings = choose_settings(trace_file=_new_trace_file(settings.trace_dir))
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        leave(EXIT_USAGE, f"{name}: {first['msg']}")
    configure(settings, "orchestrator")
    return settings


def _new_trace_file(place: Path) -> Path:
    """A name for this run's spans; of those before it, the newest are kept."""
    for path in sorted(place.glob("*.jsonl"), reverse=True)[_TRACES_KEPT - 1 :]:
        path.unlink(missing_ok=True)
    return place / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.jsonl"


def guarded(coroutine: Coroutine[Any, Any, Any], interrupted: str) -> Any:
    """Run a coroutine; SIGTERM and Ctrl-C cancel it, errors become one line and a code."""

    async def watched() -> Any:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await coroutine

    try:
        return asyncio.run(watched())
    except (KeyboardInterrupt, asyncio.CancelledError):
        leave(EXIT_INTERRUPTED, interrupted)
    except MissionTimeout as error:
        leave(EXIT_TIMEOUT, str(error))
    except (SagastreamError, OSError) as error:
        leave(EXIT_ERROR, str(error))


def refuse_bad(mission: Mission) -> None:
    """End the command if what is asked for cannot be a mission."""
    try:
        mission.check()
    except (BadMission, MapError) as error:
        leave(EXIT_USAGE, str(error))


def leave(code: int, message: str) -> NoReturn:
    """End with a message and an exit code."""
    print(f"mission: {message}", file=sys.stderr)
    sys.exit(code)


def as_json(result: Any, output: Output) -> bool:
    """Print a result as JSON if that is asked for; whether it was. A list is a line an item."""
    if output is Output.TEXT:
        return False
    one_by_one = output is Output.JSONL and isinstance(result, list)
    for item in result if one_by_one else [result]:
        print(json.dumps(item), flush=True)
    return True


def teller(
    output: Output, show: Callable[[dict[str, Any]], None]
) -> Callable[[dict[str, Any]], None]:
    """What takes the stages of a mission: `show`, and with jsonl a line for each, too."""

    def tell(stage: dict[str, Any]) -> None:
        if output is Output.JSONL:
            as_json(stage, output)
        show(stage)

    return tell


def finish(ended: dict[str, Any], output: Output) -> NoReturn:
    """Print how a mission ended, and end with the code that says so."""
    if not as_json(ended, output):
        _print_text(ended)
    sys.exit(EXIT[ended["status"]])


def _print_text(ended: dict[str, Any]) -> None:
    lines = [f"mission {ended['saga_id']} {ended['status']} in {ended['duration_s']:.1f} s"]
    if ended["status"] == "completed":
        figures = f"coverage {_percent(ended['coverage'])}, accuracy {_percent(ended['accuracy'])}"
        if ended["partial"]:
            figures += "; partial: some maps stayed apart"
        lines += [
            f"  {ended['area']}, {ended['robots']} robots: {figures}",
            f"  map      {ended['artifacts']['map_yaml']}",
            f"  picture  {ended['artifacts']['picture']}",
        ]
    else:
        failed = next((s["name"] for s in ended["steps"] if s["status"] == "failed"), "a step")
        error = ended.get("error", {})
        lines.append(f"  {failed} failed: {error.get('error_type')}: {error.get('message')}")
        undone = [s["name"] for s in ended["steps"] if s["status"] == "compensated"]
        lines.append(f"  undone: {', '.join(reversed(undone)) or 'nothing was done'}")
    see = f"; see: mission trace {ended['saga_id']}" if get_settings().trace_file else ""
    lines.append(f"  trace    {ended['trace_id']}{see}")
    print("\n".join(lines))


def _percent(share: float) -> str:
    """Rounded down: what is not all is not 100 %."""
    return f"{math.floor(share * 1000) / 10} %"
