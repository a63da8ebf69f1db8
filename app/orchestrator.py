"""Runs one mission on running workers: `python -m app.orchestrator --area AREA --robots N`.

`mission run` starts the workers too.
"""

if __name__ == "__main__":
    # A signal during the imports below ends the process without a traceback.
    from app.shutdown import shutdown

    shutdown.install("interrupted")

import typer

from app.cli.base import (
    Approve,
    Area,
    Format,
    KnownPoses,
    Output,
    Radio,
    Robots,
    Seed,
    Timeout,
    Until,
    exit_with_report,
    refuse_invalid,
    run_or_exit,
    settings_of_command,
)
from app.cli.main import run_mission
from app.missions.mission import Mission, run_saga

__all__ = ["main", "orchestrator_app", "run_saga"]

orchestrator_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@orchestrator_app.command()
def orchestrate(
    *,
    area: Area,
    robots: Robots = 2,
    seed: Seed = 0,
    known_poses: KnownPoses = True,
    approve: Approve = False,
    until: Until = "everything",
    radio: Radio = "perfect",
    timeout: Timeout = None,
    output: Format = Output.TEXT,
) -> None:
    """Run one mission on running workers."""
    settings_of_command()
    mission = Mission(area, robots, seed, known_poses, approve, until, radio)
    refuse_invalid(mission)
    running = run_mission(mission, timeout, None, output, shared=True)
    exit_with_report(run_or_exit(running), output)


def main() -> None:
    """Run `python -m app.orchestrator`."""
    orchestrator_app()


if __name__ == "__main__":
    main()
