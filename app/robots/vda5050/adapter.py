"""The adapter: a process that serves robots which speak VDA 5050 to missions.

    python -m app.robots.vda5050.adapter

It reads the command streams of the robots of `VDA5050_ROBOTS` and speaks to them over the broker
of `VDA5050_BROKER_URL`. `mission workers`, `run` and `dev` start it if these are set.
"""

if __name__ == "__main__":
    # A signal during the imports below ends the process without a traceback.
    from app.shutdown import shutdown

    shutdown.install()

import asyncio
import contextlib
import logging
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from app.config import Settings, get_settings, settings_or_exit
from app.observability.health import serve_probes
from app.observability.providers import configure
from app.redis_utils import get_bus, run_listener
from app.robots import fleet
from app.robots.process import RobotService
from app.robots.vda5050.agv_executor import AgvExecutor
from app.robots.vda5050.dialects import DIALECTS, SCAN_TOPIC
from app.robots.vda5050.mqtt_client import BadBroker, BrokerClient
from app.robots.vda5050.vehicle import Vehicle
from app.shutdown import shutdown
from app.vda5050_settings import RobotIdentity
from sagastream import CommandListener, Handler, SagastreamError

logger = logging.getLogger(__name__)

_FROM_ROBOTS = ("connection", "state", "factsheet", SCAN_TOPIC)


@dataclass(frozen=True, slots=True)
class _Served:
    """A robot with what serves it."""

    vehicle: Vehicle
    executor: AgvExecutor
    service: RobotService


class Adapter:
    """Serves robots that speak VDA 5050.

    Args:
        settings: Name the broker.
        robots: The robots.

    Raises:
        BadBroker: The settings of the broker cannot be used, or no robot is named.
    """

    def __init__(self, settings: Settings, robots: Sequence[RobotIdentity]) -> None:
        if not robots:
            raise BadBroker("VDA5050_ROBOTS: not set; it names the robots of the broker")
        self._settings = settings
        self.client = BrokerClient(
            settings,
            # Unique: the broker would end one of two connections with the same id.
            identifier=f"fleet-control-{uuid.uuid4()}",
            topics=[topic for robot in robots for topic in _topics(robot, settings)],
            on_message=self._receive,
        )
        self._served: dict[tuple[str, str], _Served] = {}
        for robot in robots:
            vehicle = Vehicle(robot, self.client.publish)
            executor = AgvExecutor(vehicle)
            service = RobotService(robot.name, executor=executor)
            self._served[robot.manufacturer, robot.serial_number] = _Served(
                vehicle, executor, service
            )

    @property
    def names(self) -> list[str]:
        """The robots' names in the fleet."""
        return [each.vehicle.name for each in self._served.values()]

    def vehicle(self, name: str) -> Vehicle:
        """Return a robot by its name in the fleet."""
        return next(each.vehicle for each in self._served.values() if each.vehicle.name == name)

    def handlers(self) -> list[Handler]:
        """Return the handlers of all robots' command streams."""
        return [handler for each in self._served.values() for handler in each.service.handlers()]

    def _receive(self, topic: str, payload: bytes) -> None:
        *_, manufacturer, serial_number, name = topic.split("/")
        if served := self._served.get((manufacturer, serial_number)):
            served.vehicle.receive(name, payload)

    async def keep_checking_in(self) -> None:
        """Report robots that are heard as present, and cancel orders that no mission has any more."""
        while True:
            results = await asyncio.gather(
                *(self._check(each) for each in self._served.values()), return_exceptions=True
            )
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, SagastreamError):
                    logger.error("cannot check a robot in", exc_info=result)
            await asyncio.sleep(min(1.0, self._settings.robot_seen_s / 3))

    async def _check(self, served: _Served) -> None:
        vehicle = served.vehicle
        if vehicle.connection in {"OFFLINE", "HIBERNATING"}:
            await fleet.check_out(vehicle.name)
            return
        state = vehicle.state
        if vehicle.connection == "ONLINE" and state is None:
            await vehicle.ask_for_state()
        if vehicle.connection != "ONLINE" or state is None or not self.client.connected:
            return  # absent when the last check-in has expired
        await fleet.check_in(
            vehicle.name,
            measured=min(100.0, max(0.0, state.power_supply.state_of_charge)),
            unavailable=vehicle.unavailable(),
            explores_unknown=False,
        )
        if served.executor.busy or state.idle or served.executor.superseded:
            return
        if served.executor.abandoned or not await fleet.holder(vehicle.name):
            logger.warning("robot %s: cancelling order %s", vehicle.name, state.order_id)
            await served.executor.cancel()

    async def check_out(self) -> None:
        """Report all robots as absent."""
        with contextlib.suppress(SagastreamError):
            for name in self.names:
                await fleet.check_out(name)


def _topics(robot: RobotIdentity, settings: Settings) -> list[str]:
    """What the robot publishes, in any version: it says which one it speaks."""
    return sorted(
        {
            dialect.topic(robot, name, settings.vda5050_interface)
            for dialect in DIALECTS.values()
            for name in _FROM_ROBOTS
        }
    )


async def serve(robots: Sequence[RobotIdentity]) -> None:
    """Serve robots until SIGTERM or SIGINT.

    Raises:
        BadBroker: The settings of the broker cannot be used, or no robot is named.
    """
    settings = get_settings()
    adapter = Adapter(settings, robots)
    async with get_bus() as bus:
        listener = CommandListener(
            bus,
            adapter.handlers(),
            concurrency=4 * len(robots),
            lease_s=settings.lease_s,
            drain_s=settings.listener_drain_s,
        )
        running = [
            asyncio.create_task(adapter.client.run()),
            asyncio.create_task(adapter.keep_checking_in()),
        ]
        streams = [settings.robot_stream(name) for name in adapter.names]
        try:
            async with serve_probes(settings, streams):
                await run_listener(listener, drain_s=settings.listener_drain_s)
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            await adapter.check_out()


def main() -> None:
    """Run `python -m app.robots.vda5050.adapter`."""
    settings = settings_or_exit()
    configure(settings, "vda5050")
    try:
        asyncio.run(serve(settings.vda5050_identities))
    except BadBroker as error:
        sys.exit(f"adapter: {error}")
    sys.exit(shutdown.exit_code)


if __name__ == "__main__":
    main()
