"""Keeps the scans of one robot for a mission: places each one on the map, and numbers it.

Fleet control asks for scans by a session and numbers. So a scan is kept until the next session, and
one that was lost on the way is sent again. No clock of this process is compared with the robot's.
"""

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.exploration.driver import Pose
from app.exploration.se2 import wrap
from app.robots.vda5050.scans import NumberedScan
from app.ros2.laser_scans import BadScan, numbered
from app.ros2.transforms import NoTransform, Transforms, stamp_ns

logger = logging.getLogger(__name__)

MAX_SCANS = 20_000
"""The most scans of a session."""

_MAX_TEXT_BYTES = 256 * 1024 * 1024
_STEP_M, _STEP_RAD = 0.1, math.radians(5.0)
_MAX_HELD = 100
_HOLD_S = 1.0


@dataclass(frozen=True, slots=True)
class _Held:
    """A scan that waits for the transforms of its time, and since when."""

    message: Any
    since_s: float


class ScanRecorder:
    """The scans of one robot.

    Args:
        name: The robot, for the log.
        transforms: Where its frames are.
        clock: Seconds, never back.

    Attributes:
        session: The session that fleet control has asked for; '' before that.
        first: The number of the first scan of the session.
    """

    def __init__(self, name: str, transforms: Transforms, clock: Callable[[], float]) -> None:
        self.session, self.first = "", 0
        self._name, self._transforms, self._clock = name, transforms, clock
        self._held: deque[_Held] = deque()
        self._texts: list[str] = []
        self._bytes = 0
        self._last: NumberedScan | None = None
        self._complaint = ""

    @property
    def count(self) -> int:
        """The number of the next scan of the session."""
        return self.first + len(self._texts)

    def begin(self, session: str, first: int) -> None:
        """Begin a session with the next scan: the robot may have been moved since the last one.

        Args:
            session: Its id.
            first: The number of its first scan: more than 0 if this process was restarted in it.
        """
        self.session, self.first, self._texts, self._bytes = session, first, [], 0
        self._last = None
        self._held.clear()

    def texts(self, first: int, end: int) -> list[str]:
        """Return scans, encoded: those of these numbers that there are."""
        return self._texts[max(0, first - self.first) : max(0, end - self.first)]

    def add(self, message: Any) -> None:
        """Take a LaserScan; it gets its place on the map when the transforms of its time are known."""
        if len(self._held) == _MAX_HELD:
            self._held.popleft()
        self._held.append(_Held(message, self._clock()))
        self.locate()

    def locate(self) -> None:
        """Locate the scans that wait, if what they wait for has come; drop what waited too long."""
        while self._held:
            held = self._held[0]
            is_late = self._clock() - held.since_s >= _HOLD_S
            header = held.message.header
            try:
                lidar = self._transforms.lookup(header.frame_id, stamp_ns(header), newest=is_late)
                scan = numbered(0, held.message, lidar)
            except NoTransform as error:
                if error.may_come and not is_late:
                    return
                self._complain(str(error))
            except BadScan as error:
                self._complain(str(error))
            else:
                self._complain("")
                if self._is_news(scan.pose):
                    self._keep(scan)
            self._held.popleft()

    def _complain(self, text: str) -> None:
        """Log once why scans cannot be used, and once that they can be again."""
        if text and not self._complaint:
            logger.warning("robot %s: scans are left out: %s", self._name, text)
        elif not text and self._complaint:
            logger.warning("robot %s: its scans can be used again", self._name)
        self._complaint = text

    def _is_news(self, pose: Pose) -> bool:
        """Whether the lidar has moved since the last scan; one that stands sees the same again."""
        if self._last is None:
            return True
        before = self._last.pose
        moved_m = math.dist((pose.x, pose.y), (before.x, before.y))
        return moved_m >= _STEP_M or abs(wrap(pose.heading - before.heading)) >= _STEP_RAD

    def _keep(self, scan: NumberedScan) -> None:
        if not self.session:
            return
        self._last = scan
        text = scan.renumbered(self.count).to_json()
        if len(self._texts) == MAX_SCANS or self._bytes + len(text) > _MAX_TEXT_BYTES:
            self._complain("the session is full")
            return
        self._texts.append(text)
        self._bytes += len(text)
