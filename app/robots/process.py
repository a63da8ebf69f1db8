"""A process that serves robots: each one listens on its own command stream and executes orders.

    python -m app.robots.process robot-1 robot-2

These robots are simulated. For real robots implement `RobotDriver`, and call `serve` with a
`Deploy` that returns such drivers.
"""

if __name__ == "__main__":
    # A signal during the imports below ends the process without a traceback.
    from app.shutdown import shutdown

    shutdown.install()

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.config import get_settings, settings_or_exit
from app.event_types import ROBOT_DEPLOY, ROBOT_DRIVE, ROBOT_RECALL, ROBOT_REPORT
from app.exploration.driver import DriveReport, Pose, RobotDriver
from app.exploration.grid import FloorMap, GridFrame
from app.exploration.map_files import find_map, load_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.simulated_robot import SimulatedRobot
from app.exploration.simulation.start_poses import start_poses
from app.observability.health import serve_probes
from app.observability.providers import configure
from app.redis_utils import get_bus, run_listener
from app.robots import fleet
from app.robots.codecs import encode_report
from app.robots.order_executor import Deploy, DriveOrder, DriverExecutor, OrderExecutor
from app.shutdown import shutdown
from sagastream import Command, CommandListener, Handler, Progress, SagastreamError

_ExecuteOrder = Callable[[Command, Progress], Awaitable[dict[str, Any]]]


class NotDeployed(SagastreamError):
    """The robot is not deployed for the mission that sent the order."""


class NotHeld(SagastreamError):
    """The mission that wants to deploy the robot does not hold it."""


class StaleOrder(SagastreamError):
    """The handler that sent the order has been replaced."""


class OrderFence:
    """Admits orders only from the newest claim (epoch) of the newest request.

    A later claim of the same request replaces a handler; so does the next request of the mission.
    """

    def __init__(self) -> None:
        self._commander, self._epoch = "", 0
        self._replaced: set[str] = set()

    def admit(self, commander: str, epoch: int) -> None:
        """Admit an order of this request and epoch.

        Raises:
            StaleOrder: The handler that sent it has been replaced.
        """
        stale = epoch < self._epoch if commander == self._commander else commander in self._replaced
        if stale:
            raise StaleOrder(f"request {commander} in epoch {epoch} has been replaced")
        if commander != self._commander:
            self._replaced.add(self._commander)
        self._commander, self._epoch = commander, epoch


@lru_cache(maxsize=4)
def _load_floor(path: Path, _modified: float) -> FloorMap:
    return load_map(path)


def true_floor(area: str) -> FloorMap:
    """Load the ground-truth floor of an area, in which the simulated robots drive.

    Raises:
        MapError: The map is missing or invalid.
    """
    path = find_map(get_settings().map_dir, area)
    return _load_floor(path, path.stat().st_mtime)


def deploy_simulated(order: dict[str, Any]) -> tuple[RobotDriver, GridFrame, DriveReport]:
    """Deploy a simulated robot: a `Deploy`."""
    floor = true_floor(order["area"])
    slot, team, seed = order["slot"], order["team"], order["seed"]
    driver: RobotDriver
    if order.get("known_poses", True):
        driver = SimulatedRobot(floor, slot=slot, seed=seed)
        return driver, floor.frame, driver.deploy(start_poses(floor, team, seed)[slot])
    # Imported here: the pose-graph solver is slow to import and only robots with unknown poses
    # need it.
    from app.exploration.simulation.deployment import deploy_slam_robot, own_frame  # noqa: PLC0415

    driver = deploy_slam_robot(floor, slot=slot, robots=team, seed=seed)
    return driver, own_frame(floor), driver.deploy(Pose(0.0, 0.0))


class RobotService:
    """Handles the commands of one robot.

    Args:
        name: The robot's id in the fleet.
        deploy: Deploys the robot for a mission.
        executor: Executes its orders instead of a driver that `deploy` makes.
    """

    def __init__(
        self,
        name: str,
        deploy: Deploy = deploy_simulated,
        *,
        executor: OrderExecutor | None = None,
    ) -> None:
        self.name = name
        self._executor = executor or DriverExecutor(deploy)
        self._mission = ""
        self._deployed = False
        self._fence = OrderFence()
        self._last_result: tuple[str, dict[str, Any]] = ("", {})
        self._busy = asyncio.Lock()

    @property
    def mission(self) -> str:
        """The mission that the robot is deployed for; '' if it is for none."""
        return self._mission if self._deployed else ""

    def handlers(self) -> list[Handler]:
        """Return the handlers of this robot's command stream."""
        orders = {
            ROBOT_DEPLOY: self.deploy,
            ROBOT_DRIVE: self.drive,
            ROBOT_REPORT: self.report,
            ROBOT_RECALL: self.recall,
        }
        stream = get_settings().robot_stream(self.name)
        return [
            Handler(stream, event_type, self._exclusive(order))
            for event_type, order in orders.items()
        ]

    def _exclusive(self, execute: _ExecuteOrder) -> _ExecuteOrder:
        """Execute one order at a time, only for the current commander, and each request once."""

        async def handle(command: Command, progress: Progress) -> dict[str, Any]:
            if command.event_type == ROBOT_RECALL and command.payload["mission"] == self.mission:
                # Not behind the drive that it is to end.
                self._admit(command)
                await self._executor.halt()
            async with self._busy:
                mission = command.payload["mission"]
                if command.event_type != ROBOT_DEPLOY and mission != self.mission:
                    await self._resume(mission)
                if self._last_result[0] != command.request_id:
                    if command.event_type == ROBOT_DEPLOY:
                        await self._take_mission(mission)
                    self._admit(command)
                    settled = (command.request_id, await execute(command, progress))
                    await self._executor.settle(settled)
                    self._last_result = settled
                return self._last_result[1]

        return handle

    def _admit(self, command: Command) -> None:
        self._fence.admit(command.payload["commander"], command.payload["epoch"])

    async def _take_mission(self, mission: str) -> None:
        if await fleet.holder(self.name) != mission:
            raise NotHeld(f"robot {self.name} is not held by mission {mission}")
        if mission != self._mission:
            self._mission, self._deployed, self._fence = mission, False, OrderFence()

    async def _resume(self, mission: str) -> None:
        """Continue what an earlier process of this robot did for the mission that holds it.

        Raises:
            NotDeployed: There is nothing to continue.
        """
        settled = None
        if await fleet.holder(self.name) == mission:
            settled = await self._executor.resume(mission)
        if settled is None:
            raise NotDeployed(f"robot {self.name} is not deployed for mission {mission}")
        self._mission, self._deployed, self._fence = mission, True, OrderFence()
        self._last_result = settled

    async def deploy(self, command: Command, _progress: Progress) -> dict[str, Any]:
        """Place the robot at the start pose of its slot and take the first scan.

        Raises:
            NotHeld: The mission does not hold this robot.
            StaleOrder: The handler that sent it has been replaced; any order may raise this.
            NotDeployed: Raised by every other order, if the robot is not deployed for the mission.
            MapError: The map is missing or invalid.
            StartError: The team cannot start there.
        """
        frame, report = await self._executor.deploy(command.payload, command.request_id)
        self._deployed = True
        return {"frame": frame.to_dict(), "leg": await encode_report(report)}

    async def drive(self, command: Command, progress: Progress) -> dict[str, Any]:
        """Follow a path until its end or until the barrier, a time in mission seconds.

        What holds the robot up is a `progress` stage with `condition`.
        """

        async def report_condition(condition: str) -> None:
            await progress(0.0, {"condition": condition})

        order = command.payload
        report = await self._executor.drive(
            DriveOrder(
                path=[(x, y) for x, y in order["path"]],
                until=order["until"],
                request_id=command.request_id,
                commander=order["commander"],
                epoch=order["epoch"],
            ),
            report_condition,
        )
        return {"leg": await encode_report(report)}

    async def report(self, _command: Command, _progress: Progress) -> dict[str, Any]:
        """Return everything seen and driven since the deployment as one drive report."""
        return {"leg": await encode_report(await self._executor.report())}

    async def recall(self, _command: Command, _progress: Progress) -> dict[str, Any]:
        """Stop, and accept no more orders from replaced handlers.

        The robot keeps its map until its next mission: if the handler that recalled it dies before
        it reports the recall, the next handler asks for the map again.
        """
        await self._executor.halt()
        return {}


async def serve(names: Sequence[str], deploy: Deploy = deploy_simulated) -> None:
    """Serve robots until SIGTERM or SIGINT.

    They check in after the simulation's code is compiled, which takes seconds on a new machine,
    so that a robot that has checked in executes orders at once.

    Args:
        names: The robots' ids in the fleet.
        deploy: Deploys one of them for a mission.
    """
    settings = get_settings()
    await asyncio.to_thread(warm_up)
    services = [RobotService(name, deploy) for name in names]
    handlers = [handler for service in services for handler in service.handlers()]
    async with get_bus() as bus:
        listener = CommandListener(
            bus,
            handlers,
            concurrency=2 * len(names),
            lease_s=settings.lease_s,
            drain_s=settings.listener_drain_s,
        )
        checking_in = asyncio.create_task(_keep_checking_in(names))
        streams = [settings.robot_stream(name) for name in names]
        try:
            async with serve_probes(settings, streams):
                await run_listener(listener, drain_s=settings.listener_drain_s)
        finally:
            checking_in.cancel()
            with contextlib.suppress(SagastreamError):
                for name in names:
                    await fleet.check_out(name)


def warm_up() -> None:
    """Drive once, so that jitted code is compiled before the first order."""
    floor = draw_rooms(1)
    robot = SimulatedRobot(floor, slot=0, seed=0)
    start = start_poses(floor, 1, 0)[0]
    robot.deploy(start)
    robot.drive([(start.x + 1.0, start.y)], 1.0)


async def _keep_checking_in(names: Sequence[str]) -> None:
    while True:
        with contextlib.suppress(SagastreamError):
            await asyncio.gather(*(fleet.check_in(name) for name in names))
        await asyncio.sleep(get_settings().robot_seen_s / 3)


def main() -> None:
    """Run `python -m app.robots.process ROBOT…`."""
    names = sys.argv[1:]
    if not names:
        sys.exit("usage: python -m app.robots.process ROBOT…")
    configure(settings_or_exit(), "robots")
    asyncio.run(serve(names))
    sys.exit(shutdown.exit_code)


if __name__ == "__main__":
    main()
