"""A process of simulated robots that speak VDA 5050 over an MQTT broker.

    python -m app.robots.vda5050.agv_process acme/agv-1 acme/agv-2@2.1

`mission agv` runs it. Each robot has its own connection, so that the broker publishes the last will
of each one.
"""

if __name__ == "__main__":
    # A signal during the imports below ends the process without a traceback.
    from app.shutdown import shutdown

    shutdown.install()

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from app.config import get_settings, settings_or_exit
from app.observability.providers import configure
from app.robots.process import warm_up
from app.robots.vda5050.agv_motion import Sensor
from app.robots.vda5050.dialects import DIALECTS
from app.robots.vda5050.mqtt_client import BadBroker, BrokerClient, LastWill
from app.robots.vda5050.simulated_agv import SimulatedAgv
from app.shutdown import shutdown
from app.vda5050_settings import RobotIdentity

logger = logging.getLogger(__name__)

_DEFAULT_VERSION = "3.0"


@dataclass(frozen=True, slots=True)
class AgvSpec:
    """A simulated robot to run.

    Attributes:
        robot: Its identity.
        version: The version of the protocol that it speaks.
    """

    robot: RobotIdentity
    version: str = _DEFAULT_VERSION

    @classmethod
    def parse(cls, text: str) -> "AgvSpec":
        """Read manufacturer/serialNumber[@version].

        Raises:
            ValueError: It is not of that form, or the version is unknown.
        """
        identity, _, version = text.partition("@")
        version = version or _DEFAULT_VERSION
        if version not in DIALECTS:
            raise ValueError(f"version {version!r:.40} is not one of {', '.join(DIALECTS)}")
        return cls(RobotIdentity.parse(identity), version)


@contextlib.asynccontextmanager
async def running_agv(
    spec: AgvSpec, *, sensor: Sensor | None = None, pace: float = 0.0
) -> AsyncIterator[SimulatedAgv]:
    """Run a simulated robot while the context is open; at its end it signs off.

    Args:
        spec: The robot.
        sensor: Takes its scans, if they are not published beside VDA 5050.
        pace: Simulated seconds in a second; 0 for as fast as possible.

    Raises:
        BadBroker: The settings of the broker cannot be used.
    """
    settings, dialect = get_settings(), DIALECTS[spec.version]

    def topic(name: str) -> str:
        return dialect.topic(spec.robot, name, settings.vda5050_interface)

    async def publish(name: str, payload: bytes, qos: int, retain: bool) -> bool:
        return await client.publish(topic(name), payload, qos=qos, retain=retain)

    agv = SimulatedAgv(spec.robot, dialect, publish, sensor=sensor, pace=pace)
    client = BrokerClient(
        settings,
        identifier=f"agv-{spec.robot.name}",
        topics=[topic("order"), topic("instantActions")],
        on_message=lambda name, payload: agv.receive(name.rpartition("/")[2], payload),
        on_connect=agv.announce,
        will=LastWill(topic("connection"), agv.last_will()),
    )
    tasks = [asyncio.create_task(agv.run()), asyncio.create_task(client.run())]
    for task in tasks:
        task.add_done_callback(_report_crash)
    try:
        yield agv
    finally:
        await agv.sign_off()
        agv.motion.halt()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _report_crash(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("a simulated robot has stopped", exc_info=error)


async def serve(
    specs: Sequence[AgvSpec],
    *,
    sensor_of: Callable[[AgvSpec], Sensor] | None = None,
    pace: float = 0.0,
) -> None:
    """Run simulated robots until cancelled.

    Args:
        specs: The robots.
        sensor_of: Makes what takes the scans of one, if they are not published beside VDA 5050.
        pace: Simulated seconds in a second; 0 for as fast as possible.

    Raises:
        BadBroker: The settings of the broker cannot be used.
    """
    await asyncio.to_thread(warm_up)
    async with contextlib.AsyncExitStack() as stack:
        for spec in specs:
            sensor = sensor_of(spec) if sensor_of else None
            await stack.enter_async_context(running_agv(spec, sensor=sensor, pace=pace))
        await asyncio.Event().wait()


async def _serve_until_signal(specs: Sequence[AgvSpec], pace: float) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    with (
        shutdown.graceful(lambda: loop.call_soon_threadsafe(task.cancel)),
        contextlib.suppress(asyncio.CancelledError),
    ):
        await serve(specs, pace=pace)


def main() -> None:
    """Run `python -m app.robots.vda5050.agv_process [--pace N] ROBOT…`."""
    arguments, pace = sys.argv[1:], 0.0
    if arguments[:1] == ["--pace"]:
        pace, arguments = float(arguments[1]), arguments[2:]
    if not arguments:
        sys.exit("usage: python -m app.robots.vda5050.agv_process [--pace N] ROBOT[@VERSION]…")
    configure(settings_or_exit(), "agv")
    try:
        asyncio.run(_serve_until_signal([AgvSpec.parse(each) for each in arguments], pace))
    except (BadBroker, ValueError) as error:
        sys.exit(f"agv: {error}")
    sys.exit(shutdown.exit_code)


if __name__ == "__main__":
    main()
