"""The motion of a simulated robot: it runs in a thread, and can be paused, halted and slowed down."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Sequence

from app.exploration.driver import DriveReport, Point, Pose
from app.exploration.lidar import Floats, LidarSpec
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot
from app.robots.vda5050.scans import NumberedScan

MAX_SCANS = 20_000
"""The most scans that are kept for `resendScans`; a robot scans five times a metre."""

Sensor = Callable[[NumberedScan], None]
"""Takes the scans of a robot that publishes them in another way than beside VDA 5050."""

_CHECK_S = 0.05


class Halted(Exception):
    """A drive was ended where the robot is."""


class Motion:
    """Sees and holds up the drives of a `SimulatedRobot`: its `DriveObserver`.

    It is made and used in the thread of an event loop; `drive`, `scanned` and `passed` run in
    another one.

    Args:
        on_scans: Called in the loop when there are new scans.
        on_waypoint: Called in the loop with the index of each waypoint that is reached.
        sensor: Takes each scan in the thread of the drive; then none is kept here.
        pace: Simulated seconds in a second; 0 for as fast as possible.

    Attributes:
        scans: The scans, encoded, by number.
    """

    def __init__(
        self,
        on_scans: Callable[[], None],
        on_waypoint: Callable[[int], None],
        *,
        sensor: Sensor | None = None,
        pace: float = 0.0,
    ) -> None:
        self.scans: list[str] = []
        self._on_scans, self._on_waypoint = on_scans, on_waypoint
        self._sensor = sensor
        self._lidar = LidarSpec()
        self._step_s = RobotSpec().scan_every / RobotSpec().speed / pace if pace else 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free, self._halt = threading.Event(), threading.Event()
        self._free.set()
        self._sending = False

    @property
    def count(self) -> int:
        """The number of scans so far."""
        return len(self.scans)

    @property
    def paused(self) -> bool:
        """Whether drives wait."""
        return not self._free.is_set()

    @property
    def halted(self) -> bool:
        """Whether the drive that runs is to end, and no other begins."""
        return self._halt.is_set()

    def pause(self) -> None:
        """Let drives wait."""
        self._free.clear()

    def go_on(self) -> None:
        """Let drives go on."""
        self._free.set()

    def halt(self) -> None:
        """End the drive that runs, if one does, and let no other begin."""
        self._halt.set()

    def release(self) -> None:
        """Allow drives again after `halt`."""
        self._halt.clear()

    def forget_scans(self) -> None:
        """Begin to number scans at 0."""
        self.scans = []

    def start_once(
        self, send: Callable[[], Awaitable[None]], tasks: set["asyncio.Task[None]"]
    ) -> None:
        """Send new scans in a task, unless one already does; in the loop."""

        async def run() -> None:
            try:
                await send()
            finally:
                self._sending = False

        if not self._sending:
            self._sending = True
            task = asyncio.get_running_loop().create_task(run())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def drive(
        self, robot: SimulatedRobot, path: Sequence[Point], since: float, until: float
    ) -> DriveReport:
        """Drive from a mission second to another one.

        Raises:
            Halted: It was ended by `halt`.
        """
        self._wait_while_paused()
        if since > robot.time:
            robot.drive([], since)
        return robot.drive(path, until)

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call back in this loop."""
        self._loop = loop

    def scanned(self, pose: Pose, phase: float, ranges: Floats) -> None:
        """Keep a scan; then wait as long as the pace and a pause demand.

        Raises:
            Halted: The drive is to end.
        """
        increment = 2.0 * math.pi / len(ranges)
        scan = NumberedScan(len(self.scans), pose, phase, increment, self._lidar.max_range, ranges)
        if self._sensor:
            self._sensor(scan)
        elif len(self.scans) < MAX_SCANS:
            self.scans.append(scan.to_json())
            self._call(self._on_scans)
        if self._step_s and self._halt.wait(self._step_s):
            raise Halted
        self._wait_while_paused()

    def passed(self, waypoint: int) -> None:
        """Pass a waypoint on to the loop."""
        self._call(self._on_waypoint, waypoint)

    def _call(self, function: Callable[..., None], *arguments: int) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function, *arguments)

    def _wait_while_paused(self) -> None:
        while True:
            if self._halt.is_set():
                raise Halted
            if self._free.wait(_CHECK_S):
                return
