"""`mission agv`: simulated robots that speak VDA 5050, as other fleets' robots would."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.base import EXIT_USAGE, app, leave, run_or_exit, settings_of_command
from app.cli.ros2_bridge import require_zenoh

if TYPE_CHECKING:
    from app.robots.vda5050.agv_motion import Sensor
    from app.robots.vda5050.agv_process import AgvSpec


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
    ros2: Annotated[
        str,
        typer.Option(
            metavar="ENDPOINT",
            help="Publish their scans, odometry and transforms as ROS 2 topics instead, over Zenoh, "
            "which listens there, such as tcp/127.0.0.1:7447; the namespace is the serial number.",
        ),
    ] = "",
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
        with _sensors(ros2) as sensor_of:
            await serve(specs, sensor_of=sensor_of, pace=pace)

    run_or_exit(run(), "stopped")


@contextmanager
def _sensors(endpoint: str) -> Iterator["Callable[[AgvSpec], Sensor] | None"]:
    """Make what publishes the sensors of robots as topics of ROS 2; None without an endpoint."""
    if not endpoint:
        yield None
        return
    require_zenoh()
    # Imported here: no other command needs Zenoh, which is an extra.
    from app.ros2.simulated_sensors import SimulatedSensors  # noqa: PLC0415
    from app.ros2.zenoh_session import BadZenoh, ZenohSession  # noqa: PLC0415

    try:
        session = ZenohSession([], listen=[endpoint])
    except BadZenoh as error:
        leave(EXIT_USAGE, f"--ros2: {error}")
    with session, ExitStack() as stack:

        def sensor_of(spec: "AgvSpec") -> "Sensor":
            namespace = re.sub(r"\W", "_", spec.robot.serial_number, flags=re.ASCII)
            sensors = SimulatedSensors(session, f"/{namespace}")
            sensors.start()
            stack.callback(sensors.stop)
            return sensors.scanned

        yield sensor_of
