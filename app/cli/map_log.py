"""`mission map-log`: the map of a recorded run of a real robot."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.base import (
    EXIT_ERROR,
    EXIT_USAGE,
    Format,
    Output,
    app,
    leave,
    print_json,
    settings_of_command,
)
from app.exploration.map_files import save_map


@app.command("map-log")
def map_log(
    log: Annotated[
        Path,
        typer.Argument(help="A ROS 2 bag (a folder, .mcap, .db3), or CARMEN text (.log, .log.gz)."),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The yaml file of the map; its image gets .pgm.")],
    scan_topic: Annotated[
        str, typer.Option(help="sensor_msgs/LaserScan in a bag. Default: the only one.")
    ] = "",
    odometry_topic: Annotated[
        str, typer.Option(help="nav_msgs/Odometry in a bag. Default: the only one.")
    ] = "",
    reach: Annotated[
        float, typer.Option(help="Metres up to which a beam counts.", min=0.5, max=200)
    ] = 20.0,
    resolution: Annotated[
        float, typer.Option(help="Metres of the side of a cell.", min=0.01, max=1)
    ] = 0.05,
    output: Format = Output.TEXT,
) -> None:
    """Map a recorded run of a robot by SLAM, from its laser scans and its odometry.

    Example: mission map-log run.mcap --out maps/run.yaml
    """
    if out.suffix != ".yaml" or not out.parent.is_dir():
        leave(EXIT_USAGE, f"--out: {out} must be a .yaml file in a folder that exists")
    settings_of_command(dev=False)
    # Imported here: slow imports that no other command needs.
    from app.exploration.simulation.log_map import map_of_log  # noqa: PLC0415
    from app.exploration.simulation.log_replay import LogError, read_carmen  # noqa: PLC0415
    from app.exploration.simulation.ros_log import is_ros_log, read_ros_log  # noqa: PLC0415

    try:
        if is_ros_log(log):
            records = read_ros_log(
                log, scan_topic=scan_topic, odometry_topic=odometry_topic, reach=reach
            )
        else:
            records = read_carmen(log, reach=reach)
        grid, frame = map_of_log(log.name, records, resolution)
        save_map(out, grid, frame)
    except LogError as error:
        leave(EXIT_ERROR, str(error))
    except OSError as error:
        leave(EXIT_ERROR, f"{error.filename or log}: {error.strerror or error}")
    size = {"width_m": frame.cols * resolution, "height_m": frame.rows * resolution}
    if not print_json({"map_yaml": str(out), "scans": len(records)} | size, output):
        print(f"{len(records)} scans, {size['width_m']:.0f} x {size['height_m']:.0f} m: {out}")
