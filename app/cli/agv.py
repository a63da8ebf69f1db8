"""`mission agv`: simulated robots that speak VDA 5050, as other fleets' robots would."""

from typing import Annotated

import typer

from app.cli.base import EXIT_USAGE, app, leave, run_or_exit, settings_of_command


@app.command()
def agv(
    robots: Annotated[
        list[str],
        typer.Argument(
            help="Robots as manufacturer/serialNumber, with @2.0, @2.1 or @3.0 for the version.",
            show_default=False,
        ),
    ],
    *,
    pace: Annotated[
        float,
        typer.Option(help="Simulated seconds in a second; 0: as fast as possible.", min=0.0),
    ] = 0.0,
) -> None:
    """Run simulated robots that speak VDA 5050 over the broker of VDA5050_BROKER_URL until Ctrl-C.

    They drive on the maps of MAP_DIR, and publish their scans on a topic beside the standard.
    Missions use those that VDA5050_ROBOTS of the workers names.

    Example: VDA5050_BROKER_URL=mqtt://127.0.0.1 mission agv acme/agv-1 acme/agv-2@2.1
    """
    settings = settings_of_command(dev=False)
    try:
        # Imported here: no other command needs MQTT, which is an extra.
        from app.robots.vda5050.agv_process import AgvSpec, serve  # noqa: PLC0415
    except ModuleNotFoundError as error:
        leave(EXIT_USAGE, f"{error.name} is missing: pip install 'mission-control[vda5050]'")
    if settings.vda5050_broker is None:
        leave(EXIT_USAGE, "VDA5050_BROKER_URL: not set; it names the MQTT broker of the robots")
    try:
        specs = [AgvSpec.parse(each) for each in robots]
    except ValueError as error:
        leave(EXIT_USAGE, str(error))

    async def run() -> None:
        print(f"{len(specs)} robots at {settings.vda5050_broker!r}; Ctrl-C stops them", flush=True)
        await serve(specs, pace=pace)

    run_or_exit(run(), "stopped")
