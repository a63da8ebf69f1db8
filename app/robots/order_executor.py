"""What executes the orders to one robot: a driver in a thread, or a robot behind a network.

`RobotService` decides which orders are admitted; an executor carries them out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from app.exploration.driver import DriveReport, Point, RobotDriver
from app.exploration.grid import GridFrame

Deploy = Callable[[dict[str, Any]], tuple[RobotDriver, GridFrame, DriveReport]]
"""Deploys a robot at its start pose for a `robot:deploy` order. It may block.

Returns the driver, the robot's grid frame (the floor's, or its own), and the first drive report."""

ReportCondition = Callable[[str], Awaitable[None]]
"""Awaited with what holds the robot up, such as a pause; '' when it goes on."""


Settled = tuple[str, dict[str, Any]]
"""The id of a request, and its result, which is final."""


@dataclass(frozen=True, slots=True)
class DriveOrder:
    """A drive, with its identity.

    Attributes:
        path: Waypoints, metres, map frame; empty to wait.
        until: The barrier, mission seconds.
        request_id: Of the drive: the same one is the same drive.
        commander: The request whose handler sends the drive.
        epoch: The fencing token of that handler.
    """

    path: Sequence[Point]
    until: float
    request_id: str
    commander: str
    epoch: int


class OrderExecutor(Protocol):
    """Executes admitted orders, one at a time; `halt` comes at any time."""

    async def deploy(self, order: dict[str, Any], request_id: str) -> tuple[GridFrame, DriveReport]:
        """Place the robot for a mission; return its frame and its first report."""
        ...

    async def resume(self, mission: str) -> Settled | None:
        """Continue a deployment of an earlier process.

        Returns:
            The last request that was settled; None if there is no deployment to continue.
        """
        ...

    async def settle(self, settled: Settled) -> None:
        """Keep the result of a request that is executed, for a process that replaces this one."""
        ...

    async def drive(self, order: DriveOrder, on_condition: ReportCondition) -> DriveReport:
        """Follow a path until its end, an obstacle or the barrier."""
        ...

    async def report(self) -> DriveReport:
        """Report everything seen and driven since the deployment."""
        ...

    async def halt(self) -> None:
        """Stop the drive that runs, if one does, and start none for this mission any more."""
        ...


class DriverExecutor:
    """An `OrderExecutor` for a `RobotDriver` in this process; its calls run in a thread.

    Args:
        deploy: Makes the driver.
    """

    def __init__(self, deploy: Deploy) -> None:
        self._deploy = deploy
        self._driver: RobotDriver | None = None
        self._path: list[Point] = []
        self._driven = 0.0

    async def deploy(
        self, order: dict[str, Any], _request_id: str
    ) -> tuple[GridFrame, DriveReport]:
        """Place the robot at the start pose of its slot and take the first scan.

        Raises:
            MapError: The map is missing or invalid.
            StartError: The team cannot start there.
        """
        self._driver, frame, report = await asyncio.to_thread(self._deploy, order)
        self._path, self._driven = list(report.path), 0.0
        return frame, report

    async def resume(self, _mission: str) -> Settled | None:
        """Return None: the map of a driver is gone with its process."""
        return None

    async def settle(self, _settled: Settled) -> None:
        """Keep nothing."""

    async def drive(self, order: DriveOrder, _on_condition: ReportCondition) -> DriveReport:
        """Follow a path until its end, an obstacle or the barrier."""
        assert self._driver is not None
        report = await asyncio.to_thread(self._driver.drive, order.path, order.until)
        self._path += report.path[1:]
        self._driven += report.distance
        return report

    async def report(self) -> DriveReport:
        """Report everything seen and driven since the deployment."""
        assert self._driver is not None
        report = await asyncio.to_thread(self._driver.recall)
        return replace(report, path=tuple(self._path), distance=self._driven)

    async def halt(self) -> None:
        """Do nothing: a drive of a driver ends at its barrier."""
