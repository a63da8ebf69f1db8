"""Scans of real robots for missions: from topics of ROS 2 to the topic that missions read.

A robot that speaks VDA 5050 publishes no scans by it. This bridge subscribes to its lidar, odometry
and transforms over Zenoh, and answers fleet control on the topics beside VDA 5050 at the broker.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.config import Settings, get_settings
from app.export.ros_messages import typestore
from app.robots.vda5050.dialects import DIALECTS, SCAN_TOPIC, BadMessage, Dialect, HeaderCounter
from app.robots.vda5050.mqtt_client import BrokerClient
from app.robots.vda5050.scans import MAX_PER_MESSAGE, REQUEST_TOPIC, ScanRequest, encode_scans
from app.robots.vda5050.v3 import Header
from app.ros2.scan_recorder import ScanRecorder
from app.ros2.transforms import Transforms
from app.ros2.zenoh_session import ZenohSession
from app.vda5050_settings import RobotIdentity

logger = logging.getLogger(__name__)

SCAN, ODOMETRY, TRANSFORMS = (
    "sensor_msgs/msg/LaserScan",
    "nav_msgs/msg/Odometry",
    "tf2_msgs/msg/TFMessage",
)
_MAX_WAITING = 500  # messages of one robot
_SETTLE_S = 0.05
_LOCATE_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class BridgedRobot:
    """A robot whose scans come by ROS 2.

    Attributes:
        robot: Its identity in VDA 5050.
        namespace: Of its topics; '' for none.
    """

    robot: RobotIdentity
    namespace: str = ""

    @classmethod
    def parse(cls, text: str) -> "BridgedRobot":
        """Read manufacturer/serialNumber[=NAMESPACE].

        Raises:
            ValueError: It is not of that form.
        """
        identity, _, namespace = text.partition("=")
        return cls(
            RobotIdentity.parse(identity), "".join(f"/{p}" for p in namespace.split("/") if p)
        )


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The topics of a robot below its namespace, and the frame of the map.

    Attributes:
        scan: Of `sensor_msgs/LaserScan`.
        odometry: Of `nav_msgs/Odometry`.
        map_frame: The frame that has the coordinates of VDA 5050.
    """

    scan: str = "scan"
    odometry: str = "odom"
    map_frame: str = "map"


class ScanBridge:
    """Serves the scans of robots.

    Args:
        settings: Name the broker.
        robots: The robots.
        session: Where their topics are.
        names: Their topics and frames.

    Raises:
        BadBroker: The settings of the broker cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        robots: Sequence[BridgedRobot],
        session: ZenohSession,
        names: TopicNames,
    ) -> None:
        self._sources = {
            (each.robot.manufacturer, each.robot.serial_number): _Source(each, names)
            for each in robots
        }
        self._session = session
        self._connected = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = BrokerClient(
            settings,
            identifier=f"scan-bridge-{uuid.uuid4()}",
            topics=sorted(
                {
                    dialect.topic(each.robot, REQUEST_TOPIC, settings.vda5050_interface)
                    for dialect in DIALECTS.values()
                    for each in robots
                }
            ),
            on_message=self._receive,
            on_connect=self._note_connected,
        )

    async def _note_connected(self) -> None:
        self._connected.set()

    async def wait_connected(self) -> None:
        """Wait until the broker was reached for the first time."""
        await self._connected.wait()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        for source in self._sources.values():
            source.subscribe(self._session, loop)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._client.run())
            group.create_task(self._keep_locating())

    async def _keep_locating(self) -> None:
        while True:
            await asyncio.sleep(_LOCATE_EVERY_S)
            for source in self._sources.values():
                source.recorder.locate()

    def _receive(self, topic: str, payload: bytes) -> None:
        *_, major, manufacturer, serial_number, _name = topic.split("/")
        source = self._sources.get((manufacturer, serial_number))
        dialect = next((each for each in DIALECTS.values() if each.major == major), None)
        if source is None or dialect is None:
            return
        try:
            request = ScanRequest.decode(payload)
        except BadMessage as error:
            logger.warning("robot %s: %.300s", source.robot.name, error)
            return
        task = asyncio.get_running_loop().create_task(self._answer(source, dialect, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, source: "_Source", dialect: Dialect, request: ScanRequest) -> None:
        # What the robot saw until it reported its arrival may still be on the way here.
        await asyncio.sleep(_SETTLE_S)
        recorder = source.recorder
        recorder.locate()
        if request.session != recorder.session:
            logger.info("robot %s: scans from number %d", source.robot.name, request.first)
            recorder.begin(request.session, request.first)
        texts = recorder.texts(request.first, request.end)
        answer = {"requestId": request.request_id, "count": recorder.count}
        topic = dialect.topic(source.robot, SCAN_TOPIC, get_settings().vda5050_interface)
        for start in range(0, max(len(texts), 1), MAX_PER_MESSAGE):
            header = Header.model_validate(source.headers.next(SCAN_TOPIC, dialect.version))
            part = texts[start : start + MAX_PER_MESSAGE]
            payload = encode_scans(header.model_dump(), recorder.session, part, answer)
            await self._client.publish(topic, payload)


class _Source:
    """The topics of one robot, and its scans."""

    def __init__(self, bridged: BridgedRobot, names: TopicNames) -> None:
        self.robot = bridged.robot
        self.headers = HeaderCounter(bridged.robot)
        self._transforms = Transforms(names.map_frame)
        self.recorder = ScanRecorder(bridged.robot.name, self._transforms, time.monotonic)
        self._namespace, self._names = bridged.namespace, names
        self._waiting = 0
        self._is_malformed = False

    def subscribe(self, session: ZenohSession, loop: asyncio.AbstractEventLoop) -> None:
        """Receive its topics; transforms also from those without its namespace."""
        names, space, transforms = self._names, self._namespace, self._transforms
        wanted: list[tuple[str, str, Callable[[Any], None], bool]] = [
            (f"{space}/{names.scan}", SCAN, self.recorder.add, False),
            (f"{space}/{names.odometry}", ODOMETRY, transforms.add_odometry, False),
        ]
        for prefix in {space, ""}:
            wanted.append((f"{prefix}/tf", TRANSFORMS, transforms.add_moving, False))
            wanted.append((f"{prefix}/tf_static", TRANSFORMS, transforms.add_mounted, True))
        for topic, schema, take, latched in wanted:
            pass_on = partial(self._pass_on, loop, topic, schema, take)
            session.subscribe(topic, schema, pass_on, latched=latched)

    def _pass_on(
        self,
        loop: asyncio.AbstractEventLoop,
        topic: str,
        schema: str,
        take: Callable[[Any], None],
        data: bytes,
    ) -> None:
        """Bring a message from a thread of Zenoh to the loop; drop it if too many wait there."""
        if self._waiting >= _MAX_WAITING:
            return
        self._waiting += 1
        try:
            loop.call_soon_threadsafe(self._take, topic, schema, take, data)
        except RuntimeError:
            self._waiting = 0  # the loop has ended

    def _take(self, topic: str, schema: str, take: Callable[[Any], None], data: bytes) -> None:
        self._waiting -= 1
        try:
            take(typestore().deserialize_cdr(data, schema))
        except Exception as error:  # noqa: BLE001 - the reader raises whatever a bad message makes of it
            if not self._is_malformed:
                logger.warning(
                    "robot %s: %s: a message is no %s: %s: %.200s",
                    *(self.robot.name, topic, schema, type(error).__name__, error),
                )
            self._is_malformed = True
            return
        self.recorder.locate()
