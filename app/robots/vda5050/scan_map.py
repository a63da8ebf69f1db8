"""The map that the scans of one robot give, and the report of what has changed in it.

It computes what a simulated robot computes in its own process, in the same order, so that equal
scans give equal cells.
"""

import asyncio
import logging
import uuid
from collections.abc import Sequence

import numpy as np

from app.config import get_settings
from app.exploration.driver import EMPTY_PATCH, LidarScan, Patch, StartError
from app.exploration.grid import Box, GridFrame, bounding_box
from app.exploration.lidar import integrate
from app.robots.vda5050.scans import NumberedScan
from app.robots.vda5050.vehicle import RobotFailed, Vehicle

logger = logging.getLogger(__name__)

_RESENDS = 10
_FIRST_SCAN_EVERY_S = 0.2
_AT_ONCE = 256  # scans, so that those of a long session need not be in memory together


class ScanMap:
    """The evidence of one robot in one session.

    Args:
        vehicle: The robot.
        frame: The mission's frame.
        session: The session of its scans.

    Attributes:
        count: The number of scans that are in the map.
        has_source: Whether something publishes scans for a robot that has no actions for them.
    """

    def __init__(self, vehicle: Vehicle, frame: GridFrame, session: str) -> None:
        self.count, self.has_source = 0, False
        self._vehicle, self._frame = vehicle, frame
        self._evidence = np.zeros((frame.rows, frame.cols), np.int8)
        self._changed: Box | None = None
        self._last_scan: LidarScan | None = None
        vehicle.expect_scans(session)

    async def find_source(self) -> None:
        """Look whether something publishes scans for this robot, and take the first ones.

        What answers later is found after the next drive.

        Raises:
            RobotFailed: It answers no more.
            StartError: It answers, and has no scan.
        """
        vehicle, timeout = self._vehicle, get_settings().robot_timeout_s / 2
        try:
            count = await vehicle.request_scans(0, _AT_ONCE, timeout=vehicle.resend_s)
        except RobotFailed:
            logger.warning(
                "robot %s: it has no action `scan`, and nothing else publishes its scans",
                vehicle.name,
            )
            return
        self.has_source = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not count:
            if loop.time() >= deadline:
                raise StartError(
                    f"robot {vehicle.name}: what publishes its scans has none; its log says why"
                )
            await asyncio.sleep(_FIRST_SCAN_EVERY_S)
            count = await vehicle.request_scans(0, _AT_ONCE, timeout=timeout)
        await self.collect(count)

    async def collect(self, count: int | None) -> None:
        """Add the scans up to a number; ask for those that did not come.

        Args:
            count: How many there are; None to take those that there are.

        Raises:
            RobotFailed: A scan does not come.
        """
        if count is None:
            count = await self._count_so_far()
        while self.count < count:
            await self._collect_until(min(self.count + _AT_ONCE, count))

    async def _count_so_far(self) -> int:
        vehicle, count = self._vehicle, self.count
        if self.has_source or await vehicle.look_for_scans(count, count + _AT_ONCE):
            self.has_source = True
            timeout = get_settings().robot_timeout_s
            return await vehicle.request_scans(count, count + _AT_ONCE, timeout=timeout)
        while count in vehicle.scans:
            count += 1
        return count

    async def _collect_until(self, end: int) -> None:
        vehicle = self._vehicle

        def missing() -> list[int]:
            return [n for n in range(self.count, end) if n not in vehicle.scans]

        resend_s = get_settings().vda5050_resend_s
        attempts = 0
        while not await vehicle.wait_for(lambda: not missing(), resend_s / 4):
            gaps = missing()
            if attempts == _RESENDS:
                raise RobotFailed(f"robot {vehicle.name}: {len(gaps)} scans did not come")
            attempts += 1
            await self._ask_again(gaps[0], gaps[-1] + 1)
        scans = [vehicle.take_scan(number) for number in range(self.count, end)]
        self.count = end
        await asyncio.to_thread(self._integrate, scans)

    async def _ask_again(self, first: int, end: int) -> None:
        vehicle, timeout = self._vehicle, get_settings().robot_timeout_s
        if self.has_source:
            await vehicle.request_scans(first, end, timeout=timeout)
            return
        done = await vehicle.act(
            "resendScans",
            str(uuid.uuid4()),
            {"sessionId": vehicle.session, "from": first, "to": end},
            timeout=timeout,
        )
        if done.action_status == "FAILED":
            raise RobotFailed(f"robot {vehicle.name}: scans: {done.action_result}")

    def _integrate(self, scans: Sequence[NumberedScan]) -> None:
        for scan in scans:
            valid = ~np.isnan(scan.ranges)
            try:
                box = integrate(
                    self._evidence,
                    self._frame,
                    (scan.pose.x, scan.pose.y),
                    scan.angles[valid],
                    scan.ranges[valid],
                    reach=scan.range_max,
                )
            except ValueError as error:
                logger.warning("robot %s: %s", self._vehicle.name, error)
                continue
            self._last_scan = LidarScan(
                scan.pose, scan.angle_min, scan.angle_increment, scan.range_max, scan.ranges
            )
            if box is not None and self._changed is not None:
                box = box.union(self._changed)
            self._changed = box or self._changed

    def take_changes(self) -> Patch:
        """Return what has changed since the last call."""
        box, self._changed = self._changed, None
        return EMPTY_PATCH if box is None else Patch.cut(self._evidence, box)

    def take_last_scan(self) -> LidarScan | None:
        """Return the last scan since the last call."""
        scan, self._last_scan = self._last_scan, None
        return scan

    def take_whole(self) -> Patch:
        """Return everything that was seen."""
        self._changed = bounding_box(self._evidence) or self._changed
        return self.take_changes()
