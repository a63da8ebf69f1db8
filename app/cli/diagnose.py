"""Diagnostic commands: `mission trace` shows what a mission did, `mission doctor` checks the setup.

Neither needs a tracing backend: traces are read from the span files that missions write.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.cli.base import (
    EXIT_ERROR,
    Format,
    Output,
    app,
    leave,
    print_json,
    printable,
    run_or_exit,
    settings_of_command,
)
from app.config import Settings
from app.missions.mission_ids import match_id
from app.missions.mission_saga import mission_saga
from app.observability.doctor import Check, check_all
from app.observability.waterfall import (
    Waterfall,
    find_waterfall,
    headline,
    render,
    trace_files,
    traced_missions,
)
from app.robots import fleet
from sagastream.errors import SagaError

_WIDTH = 150


@app.command()
def trace(
    mission: Annotated[
        str, typer.Argument(help="The id of the mission, its beginning, or the id of its trace.")
    ],
    *,
    file: Annotated[
        Path | None, typer.Option(help="A file of OTLP JSON; default: TRACE_FILE, then TRACE_DIR.")
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Show what a mission did: steps, attempts, their processes, waiting times, failures.

    Example: mission trace 3f2b6f6c-6a5d-4d57-9a3e-0d1f2a9c1b11
    """
    settings = settings_of_command()
    waterfall = _waterfall(mission, settings, file)
    if print_json(asdict(waterfall), output):
        return
    print("\n".join(headline(waterfall)))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    console.print(render(waterfall, console.width))
    print(f"trace {waterfall.trace_id}")


@app.command()
def doctor(*, output: Format = Output.TEXT) -> None:
    """Check what missions need, on this machine and on the server, and print how to fix it.

    Exit codes: 0 all checks passed, 1 a check failed. Example: mission doctor
    """
    settings = settings_of_command()

    async def check_everything() -> list[Check]:
        checks = await check_all(settings, mission_saga(settings), fleet.presence)
        return [*checks, *await _broker_checks(settings)]

    checks = run_or_exit(check_everything())
    if not print_json([asdict(check) for check in checks], output):
        for check in checks:
            print(printable(f"{_word(check)}  {check.name}: {check.detail}"))
            if check.mend:
                print(printable(f"      fix: {check.mend}"))
    failed = [check for check in checks if not check.ok]
    if failed:
        # Checks are in the order of causes: what comes first may mend the others, too.
        line = f"{len(failed)} of {len(checks)} checks failed"
        leave(EXIT_ERROR, f"{line}; first {failed[0].name}: {failed[0].mend or failed[0].detail}")


async def _broker_checks(settings: Settings) -> list[Check]:
    if settings.vda5050_broker is None:
        return []
    try:
        # Imported here: no other check needs MQTT, which is an extra.
        from app.robots.vda5050.broker_check import check_broker  # noqa: PLC0415
    except ModuleNotFoundError as error:
        mend = "pip install 'mission-control[vda5050]'"
        return [Check("broker", False, f"{error.name} is missing", mend)]
    return await check_broker(settings)


def _word(check: Check) -> str:
    if not check.ok:
        return "FAIL"
    return "warn" if check.mend else "ok  "


def _waterfall(mission: str, settings: Settings, file: Path | None) -> Waterfall:
    names = [step.name for step in mission_saga(settings).steps]
    files = [file] if file else list(trace_files(settings.trace_file, settings.trace_dir))
    try:
        found = find_waterfall(mission, files, names)
        if not found and (whole := match_id(mission, traced_missions(files))):
            found = find_waterfall(whole, files, names)
    except SagaError as error:
        leave(EXIT_ERROR, str(error))
    except OSError as error:
        leave(EXIT_ERROR, f"cannot read {error.filename}: {error.strerror}")
    if found:
        return found
    where = file or settings.trace_file or settings.trace_dir
    return leave(
        EXIT_ERROR,
        f"no spans of mission {mission} in {where}; `mission run` writes those of the workers it starts, "
        "other workers write theirs to TRACE_FILE",
    )
