"""A process with robots in it: each listens on its own command stream and drives when told.

    python -m app.robot_process robot-1 robot-2

The robots are simulated; a real one would stand behind the same `RobotDriver`.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from app import fleet
from app.config import get_settings
from app.exploration.driver import RobotDriver
from app.exploration.floorplan import draw_rooms
from app.exploration.grid import FloorMap
from app.exploration.map_files import find_map, load_map
from app.exploration.robot import SimulatedRobot, start_poses
from app.exploration.simulate import simulate
from app.logging_config import configure
from app.redis_utils import get_bus
from app.wire import send_leg
from sagastream import Command, CommandListener, Handler, SagastreamError


class NotDeployed(SagastreamError):
    """An order came from a mission that the robot is not, or no longer, deployed for."""


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


class RobotService:
    """One robot's answers to its commands.

    Args:
        name: The robot's id in the fleet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._mission = ""
        self._driver: RobotDriver | None = None

    def handlers(self) -> list[Handler]:
        """The handlers of this robot's stream."""
        stream = get_settings().robot_stream(self.name)
        return [
            Handler(stream, "robot:deploy", self.deploy),
            Handler(stream, "robot:drive", self.drive),
            Handler(stream, "robot:recall", self.recall),
        ]

    async def deploy(self, command: Command, _progress: Any) -> dict[str, Any]:
        """Take up the start pose of a slot and look around.

        Raises:
            MapError: There is no such area.
            StartError: The team cannot start there.
        """
        order = command.payload
        floor = await asyncio.to_thread(true_floor, order["area"])
        poses = await asyncio.to_thread(start_poses, floor, order["team"], order["seed"])
        driver = SimulatedRobot(floor, slot=order["slot"], seed=order["seed"])
        leg = await asyncio.to_thread(driver.deploy, poses[order["slot"]])
        self._mission, self._driver = order["mission"], driver
        return {"frame": floor.frame.to_dict(), "leg": await send_leg(leg)}

    async def drive(self, command: Command, _progress: Any) -> dict[str, Any]:
        """Follow a path until its end or the barrier.

        Raises:
            NotDeployed: Another mission, or none, has this robot.
        """
        order = command.payload
        driver = self._driver_of(order["mission"])
        path = [(x, y) for x, y in order["path"]]
        return {"leg": await send_leg(await asyncio.to_thread(driver.drive, path, order["until"]))}

    async def recall(self, command: Command, _progress: Any) -> dict[str, Any]:
        """End the mission for this robot and hand over its map; twice does no harm.

        Raises:
            NotDeployed: Another mission has this robot.
        """
        mission = command.payload["mission"]
        if self._driver is None:
            return {}
        leg = await asyncio.to_thread(self._driver_of(mission).recall)
        self._mission, self._driver = "", None
        return {"leg": await send_leg(leg)}

    def _driver_of(self, mission: str) -> RobotDriver:
        if self._driver is None or self._mission != mission:
            raise NotDeployed(f"robot {self.name} is not deployed for mission {mission}")
        return self._driver


async def serve(names: Sequence[str]) -> None:
    """Run robots until SIGTERM.

    They check in when the simulation is compiled, which takes a while on a new machine: an
    order to a robot that has checked in is carried out at once.
    """
    await asyncio.to_thread(simulate, draw_rooms(1), 1, 0)
    services = [RobotService(name) for name in names]
    handlers = [handler for service in services for handler in service.handlers()]
    async with get_bus() as bus:
        listener = CommandListener(bus, handlers, concurrency=2 * len(names))
        checking_in = asyncio.create_task(_keep_checking_in(names))
        try:
            await listener.run()
        finally:
            checking_in.cancel()
            with contextlib.suppress(SagastreamError):
                for name in names:
                    await fleet.check_out(name)


async def _keep_checking_in(names: Sequence[str]) -> None:
    while True:
        with contextlib.suppress(SagastreamError):
            for name in names:
                await fleet.check_in(name)
        await asyncio.sleep(get_settings().robot_seen_s / 3)


def main() -> None:
    """Entry point of `python -m app.robot_process ROBOT…`."""
    names = sys.argv[1:]
    if not names:
        sys.exit("usage: python -m app.robot_process ROBOT…")
    configure(get_settings(), "robots")
    asyncio.run(serve(names))


if __name__ == "__main__":
    main()
