"""`mission ros2`: scans of real robots for missions, and the map of missions for ROS 2."""

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from app.cli.base import EXIT_USAGE, app, leave, run_or_exit, settings_of_command
from app.cli.kept_missions import server_of
from app.redis_utils import get_bus


@app.command()
def ros2(
    robots: Annotated[
        list[str] | None,
        typer.Argument(
            help="Robots that speak VDA 5050, as manufacturer/serialNumber, with =NAMESPACE for that of "
            "their ROS 2 topics.",
            show_default=False,
        ),
    ] = None,
    *,
    zenoh: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENDPOINT",
            help="Where to connect; more than one is allowed. Default: tcp/127.0.0.1:7447.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A configuration file of Zenoh, for TLS, users and more.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    domain: Annotated[
        int, typer.Option(help="ROS_DOMAIN_ID of the robots with rmw_zenoh.", min=0, max=232)
    ] = 0,
    scan_topic: Annotated[
        str, typer.Option(help="Topic of sensor_msgs/LaserScan, in the namespace.")
    ] = "scan",
    odometry_topic: Annotated[
        str, typer.Option(help="Topic of nav_msgs/Odometry, in the namespace.")
    ] = "odom",
    map_frame: Annotated[
        str, typer.Option(help="The frame whose coordinates the robots report by VDA 5050.")
    ] = "map",
    publish_map: Annotated[
        bool, typer.Option("--map", help="Publish the map of a mission as /map, as it grows.")
    ] = False,
    mission: Annotated[
        str, typer.Option(help="With --map: the id of a mission; default: the newest that runs.")
    ] = "",
) -> None:
    """Bridge ROS 2 topics until Ctrl-C: lidars of robots to missions, the map of missions to ROS 2.

    Scans need VDA5050_BROKER_URL, the map needs REDIS_URL or a running `mission dev`. The topics
    are those of rmw_zenoh, and of zenoh-bridge-ros2dds for robots that use DDS.

    Example: mission ros2 acme/agv-1=agv_1 acme/agv-2=agv_2 --map --zenoh tcp/10.0.0.7:7447
    """
    if not robots and not publish_map:
        leave(EXIT_USAGE, "name robots whose scans are needed, or give --map")
    if mission and not publish_map:
        leave(EXIT_USAGE, "--mission: needs --map")
    require_zenoh()
    settings = settings_of_command(dev=publish_map)
    # Imported here: slow imports that no other command needs.
    from app.ros2.map_publisher import publish_missions  # noqa: PLC0415
    from app.ros2.scan_bridge import BridgedRobot, ScanBridge, TopicNames  # noqa: PLC0415
    from app.ros2.zenoh_session import DEFAULT_ENDPOINT, BadZenoh, ZenohSession  # noqa: PLC0415

    if robots and settings.vda5050_broker is None:
        leave(EXIT_USAGE, "VDA5050_BROKER_URL: not set; it names the MQTT broker of the robots")
    try:
        bridged = [BridgedRobot.parse(each) for each in robots or ()]
        endpoints = zenoh or ([] if config else [DEFAULT_ENDPOINT])
        session = ZenohSession(endpoints, config=config, domain=domain)
    except (BadZenoh, ValueError) as error:
        leave(EXIT_USAGE, str(error))
    names = TopicNames(scan_topic, odometry_topic, map_frame)

    async def run(saga_id: str = "") -> None:
        bridge = ScanBridge(settings, bridged, session, names) if bridged else None
        if publish_map:
            await get_bus().ping()
        async with asyncio.TaskGroup() as group:
            if bridge:
                group.create_task(bridge.run())
            if publish_map:
                group.create_task(publish_missions(session, saga_id))
            if bridge:
                await bridge.wait_connected()
            print(f"scans of {len(bridged)} robots; Ctrl-C stops the bridge", flush=True)

    with session:
        if mission:
            with server_of(mission) as saga_id:
                run_or_exit(run(saga_id), "stopped")
        else:
            run_or_exit(run(), "stopped")


def require_zenoh() -> None:
    """Leave with a usage error if what only these commands need is not installed."""
    for module, extra in (("zenoh", "zenoh"), ("aiomqtt", "vda5050")):
        if find_spec(module) is None:
            leave(EXIT_USAGE, f"{module} is missing: pip install 'mission-control[{extra}]'")
