"""A process with robots in it: each listens on its own command stream and drives when told.

    python -m app.robots.process robot-1 robot-2

The robots are simulated; a real one stands behind the same `RobotDriver`, and a program that calls
`serve` with a `Deploy` of its own.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.config import get_settings
from app.exploration.driver import Leg, Point, Pose, RobotDriver
from app.exploration.grid import FloorMap, GridFrame
from app.exploration.map_files import find_map, load_map
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.simulated_robot import SimulatedRobot, start_poses
from app.logging_config import configure
from app.observability.health import watched
from app.redis_utils import get_bus
from app.robots import fleet
from app.robots.codecs import send_leg
from sagastream import Command, CommandListener, Handler, SagastreamError

_Carry = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

Deploy = Callable[[dict[str, Any]], tuple[RobotDriver, GridFrame, Leg]]
"""Puts a robot at its start, by a `robot:deploy` order; its frame, the floor's or one of its own,
and its first leg. It blocks."""


class NotDeployed(SagastreamError):
    """An order came from a mission that the robot is not, or no longer, deployed for."""


class NotHeld(SagastreamError):
    """A mission that does not hold the robot wants to deploy it."""


class StaleOrder(SagastreamError):
    """An order came from a handler that has been replaced."""


class Fence:
    """Who commands a robot: the newest claim of the newest request.

    A handler that was replaced, by a later claim of its request or by the next request of its
    mission, commands no more.
    """

    def __init__(self) -> None:
        self._commander, self._epoch = "", 0
        self._replaced: set[str] = set()

    def admit(self, commander: str, epoch: int) -> None:
        """Let an order of this request and epoch pass.

        Raises:
            StaleOrder: Its handler has been replaced.
        """
        stale = epoch < self._epoch if commander == self._commander else commander in self._replaced
        if stale:
            raise StaleOrder(f"request {commander} in epoch {epoch} has been replaced")
        if commander != self._commander:
            self._replaced.add(self._commander)
        self._commander, self._epoch = commander, epoch


@lru_cache(maxsize=4)
def _floor(path: Path, _changed: float) -> FloorMap:
    return load_map(path)


def true_floor(area: str) -> FloorMap:
    """The floor that the simulation takes place on.

    Raises:
        MapError: There is no such map, or it is no good.
    """
    path = find_map(get_settings().map_dir, area)
    return _floor(path, path.stat().st_mtime)


def simulated(order: dict[str, Any]) -> tuple[RobotDriver, GridFrame, Leg]:
    """Put a simulated robot at its start: a `Deploy`."""
    floor = true_floor(order["area"])
    slot, team, seed = order["slot"], order["team"], order["seed"]
    driver: RobotDriver
    if order.get("known_poses", True):
        driver = SimulatedRobot(floor, slot=slot, seed=seed)
        return driver, floor.frame, driver.deploy(start_poses(floor, team, seed)[slot])
    # Its solver is a heavy import, which a robot that knows where it is does not need.
    from app.exploration.simulation.deployment import lone_robot, own_frame  # noqa: PLC0415

    driver = lone_robot(floor, slot=slot, robots=team, seed=seed)
    return driver, own_frame(floor), driver.deploy(Pose(0.0, 0.0))


class RobotService:
    """One robot's answers to its commands.

    Args:
        name: The robot's id in the fleet.
        deploy: What puts it at its start.
    """

    def __init__(self, name: str, deploy: Deploy = simulated) -> None:
        self.name = name
        self._deploy = deploy
        self._mission = ""
        self._driver: RobotDriver | None = None
        self._fence = Fence()
        self._path: list[Point] = []
        self._driven = 0.0
        self._answered: tuple[str, dict[str, Any]] = ("", {})
        self._busy = asyncio.Lock()

    def handlers(self) -> list[Handler]:
        """The handlers of this robot's stream."""
        orders = {
            "robot:deploy": self.deploy,
            "robot:drive": self.drive,
            "robot:report": self.report,
            "robot:recall": self.recall,
        }
        stream = get_settings().robot_stream(self.name)
        return [
            Handler(stream, event_type, self._in_turn(order))
            for event_type, order in orders.items()
        ]

    def _in_turn(self, order: _Carry) -> Callable[[Command, Any], Awaitable[dict[str, Any]]]:
        """One order at a time, from its present commander, and none twice."""

        async def handle(command: Command, _progress: Any) -> dict[str, Any]:
            async with self._busy:
                if self._answered[0] != command.request_id:
                    mission = command.payload["mission"]
                    if command.event_type == "robot:deploy":
                        await self._take_mission(mission)
                    elif mission != self._mission or self._driver is None:
                        raise NotDeployed(
                            f"robot {self.name} is not deployed for mission {mission}"
                        )
                    self._fence.admit(command.payload["commander"], command.payload["epoch"])
                    self._answered = (command.request_id, await order(command.payload))
                return self._answered[1]

        return handle

    async def _take_mission(self, mission: str) -> None:
        if await fleet.holder(self.name) != mission:
            raise NotHeld(f"robot {self.name} is not held by mission {mission}")
        if mission != self._mission:
            self._mission, self._driver, self._fence = mission, None, Fence()

    async def deploy(self, order: dict[str, Any]) -> dict[str, Any]:
        """Take up the start pose of a slot and look around.

        Raises:
            NotHeld: The mission does not hold this robot.
            StaleOrder: As with every order: its handler has been replaced.
            NotDeployed: As with every order but this one: the robot is not the mission's.
            MapError: There is no such area.
            StartError: The team cannot start there.
        """
        self._driver, frame, leg = await asyncio.to_thread(self._deploy, order)
        self._path, self._driven = list(leg.path), 0.0
        return {"frame": frame.to_dict(), "leg": await send_leg(leg)}

    async def drive(self, order: dict[str, Any]) -> dict[str, Any]:
        """Follow a path until its end or the barrier."""
        assert self._driver is not None
        path = [(x, y) for x, y in order["path"]]
        leg = await asyncio.to_thread(self._driver.drive, path, order["until"])
        self._path += leg.path[1:]
        self._driven += leg.distance
        return {"leg": await send_leg(leg)}

    async def report(self, _order: dict[str, Any]) -> dict[str, Any]:
        """Tell all that was seen and driven since the deployment, as one leg."""
        assert self._driver is not None
        leg = await asyncio.to_thread(self._driver.recall)
        whole = replace(leg, path=tuple(self._path), distance=self._driven)
        return {"leg": await send_leg(whole)}

    async def recall(self, _order: dict[str, Any]) -> dict[str, Any]:
        """Stand still, and take no more orders from whoever was replaced by this.

        What it knows it keeps until its next mission: if the handler that recalled it dies before
        it has said so, the next one asks for it.
        """
        return {}


async def serve(names: Sequence[str], deploy: Deploy = simulated) -> None:
    """Run robots until SIGTERM.

    They check in when the simulation is compiled, which takes a while on a new machine: an
    order to a robot that has checked in is carried out at once.

    Args:
        names: Their ids in the fleet.
        deploy: What puts one at its start.
    """
    await asyncio.to_thread(_practise)
    services = [RobotService(name, deploy) for name in names]
    handlers = [handler for service in services for handler in service.handlers()]
    async with get_bus() as bus:
        listener = CommandListener(
            bus, handlers, concurrency=2 * len(names), lease_s=get_settings().lease_s
        )
        checking_in = asyncio.create_task(_keep_checking_in(names))
        streams = [get_settings().robot_stream(name) for name in names]
        try:
            async with watched(get_settings(), streams):
                await listener.run()
        finally:
            checking_in.cancel()
            with contextlib.suppress(SagastreamError):
                for name in names:
                    await fleet.check_out(name)


def _practise() -> None:
    """Drive once: what is compiled for that is, or is loaded."""
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
    """Entry point of `python -m app.robots.process ROBOT…`."""
    names = sys.argv[1:]
    if not names:
        sys.exit("usage: python -m app.robots.process ROBOT…")
    configure(get_settings(), "robots")
    asyncio.run(serve(names))


if __name__ == "__main__":
    main()
