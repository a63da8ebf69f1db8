"""The verbs that look into things: `mission trace` draws a mission, `mission doctor` finds what is amiss.

Neither needs a tracing backend: a trace is read from the files that missions leave behind.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.cli.base import EXIT_ERROR, Format, Output, app, as_json, leave, settings_of_command
from app.config import Settings
from app.missions.mission_saga import mission_saga
from app.observability import doctor as checks
from app.observability.waterfall import Story, draw, find_story, headline, trace_files

_WIDTH = 150


@app.command()
def trace(
    mission: Annotated[str, typer.Argument(help="The mission's id, or its trace's.")],
    *,
    file: Annotated[
        Path | None, typer.Option(help="A file of OTLP JSON; TRACE_FILE and TRACE_DIR otherwise.")
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Draw what a mission did: steps, attempts, who ran them, waits, what failed and was undone.

    Example: mission trace 3f2b6f6c-6a5d-4d57-9a3e-0d1f2a9c1b11
    """
    settings = settings_of_command()
    found = _story(mission, settings, file)
    if as_json(asdict(found), output):
        return
    print("\n".join(headline(found)))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    console.print(draw(found, console.width))
    print(f"trace {found.trace_id}")


@app.command()
def doctor(*, output: Format = Output.TEXT) -> None:
    """Check what missions need, on this machine and on the server, and say how to mend it.

    Exit codes: 0 all is well, 1 something is not. Example: mission doctor
    """
    found = checks.doctor(settings_of_command())
    if not as_json([asdict(check) for check in found], output):
        for check in found:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
            if check.mend:
                print(f"      mend: {check.mend}")
    bad = sum(not check.ok for check in found)
    if bad:
        leave(EXIT_ERROR, f"{bad} of {len(found)} checks failed")


def _story(mission: str, settings: Settings, file: Path | None) -> Story:
    names = [step.name for step in mission_saga(settings).steps]
    files = [file] if file else trace_files(settings.trace_file, settings.trace_dir)
    try:
        found = find_story(mission, files, names)
    except OSError as error:
        leave(EXIT_ERROR, f"{error.filename} cannot be read: {error.strerror}")
    if found:
        return found
    where = file or settings.trace_file or settings.trace_dir
    return leave(
        EXIT_ERROR,
        f"no spans of mission {mission} in {where}; `mission run` keeps those of its own workers, "
        "others keep theirs where TRACE_FILE says",
    )
