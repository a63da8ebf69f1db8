"""`mission export`: a mission as a file of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.base import (
    EXIT_USAGE,
    Format,
    Output,
    app,
    leave,
    print_json,
    run_or_exit,
    settings_of_command,
)
from app.cli.kept_missions import server_of
from app.export.anchor import Anchor, BadAnchor
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus


@app.command()
def export(
    mission: Annotated[
        str, typer.Argument(help="The id of the mission, or its beginning; see `mission list`.")
    ],
    *,
    mcap: Annotated[
        Path | None,
        typer.Option(help="Write all that was recorded, for Foxglove and ROS 2 tools."),
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Write walls, free area, paths and frontiers.")
    ] = None,
    pose_graph: Annotated[
        Path | None, typer.Option(help="Write the robots' paths as a pose graph, for g2o.")
    ] = None,
    anchor: Annotated[
        str,
        typer.Option(
            metavar="LAT,LON[,HEADING]",
            help="Where the origin of the map is, WGS84, and the compass direction of its y axis; "
            "degrees.",
        ),
    ] = "",
    output: Format = Output.TEXT,
) -> None:
    """Write a mission to files for other tools; it may run, have ended or have been undone.

    Example: mission export 3f2b6f6c --mcap mission.mcap
    """
    given = {"mcap": mcap, "geojson": geojson, "pose_graph": pose_graph}
    files = {name: path for name, path in given.items() if path is not None}
    if not files:
        leave(EXIT_USAGE, "name at least one file: --mcap, --geojson, --pose-graph")
    for name, path in files.items():
        if not path.parent.is_dir() or path.is_dir():
            option = f"--{name.replace('_', '-')}"
            leave(EXIT_USAGE, f"{option}: {path} cannot be written: name a file in a folder")
    place = _anchor(anchor)
    settings_of_command()
    # Imported here: slow imports that no other command needs.
    from app.export.mission_files import write_files  # noqa: PLC0415

    async def write(saga_id: str) -> None:
        async with get_bus():
            journal = await mission_runner().journal(saga_id)
            await write_files(journal.input, anchor=place, **files)

    with server_of(mission) as saga_id:
        run_or_exit(write(saga_id), "stopped")
    written = {name: str(path) for name, path in files.items()}
    if not print_json({"saga_id": saga_id, "files": written}, output):
        for path in files.values():
            print(f"wrote {path}")


def _anchor(text: str) -> Anchor | None:
    try:
        return Anchor.parse(text) if text else None
    except BadAnchor as error:
        leave(EXIT_USAGE, f"--anchor: {error}")
