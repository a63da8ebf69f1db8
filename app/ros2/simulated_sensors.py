"""The sensors of a simulated robot as topics of ROS 2: a stand-in for a real robot."""

import threading
import time

from app.exploration.driver import Pose
from app.export import ros_messages as ros
from app.export.ros_messages import serialized
from app.robots.vda5050.scans import NumberedScan
from app.ros2.zenoh_session import ZenohSession

_ODOM_TOPIC, _SCAN_TOPIC = "odom", "scan"
_TURN_S = 0.2
_FRAMES = ("map", "odom", "base_link", "laser")


class SimulatedSensors:
    """Publishes odometry, transforms and scans of one robot, also while it stands.

    Args:
        session: Where to publish.
        namespace: Of its topics, such as `/agv_1`; also of its frames but for `map`.
    """

    def __init__(self, session: ZenohSession, namespace: str = "") -> None:
        self._session, self._namespace = session, namespace
        prefix = f"{namespace.strip('/')}/" if namespace else ""
        self._map, *others = _FRAMES
        self._odom, self._base, self._lidar = (f"{prefix}{name}" for name in others)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._last: NumberedScan | None = None
        self._turning = threading.Thread(target=self._keep_turning, daemon=True)

    def _announce(self) -> None:
        now = time.time_ns()
        mounted = ros.transforms(now, [(self._base, self._lidar, Pose(0.0, 0.0))])
        self._session.publish(serialized(f"{self._namespace}/tf_static", now, mounted))

    def start(self) -> None:
        """Say where the lidar is on the robot, and publish what it sees until `stop`."""
        self._announce()
        self._turning.start()

    def stop(self) -> None:
        """Publish nothing any more."""
        self._ended.set()
        self._turning.join()

    def _keep_turning(self) -> None:
        while not self._ended.wait(_TURN_S):
            with self._lock:
                if self._last:
                    self._publish(self._last)

    def scanned(self, scan: NumberedScan) -> None:
        """Publish one turn of the lidar, and where the robot was; in the thread of the drive."""
        with self._lock:
            self._last = scan
            self._publish(scan)

    def _publish(self, scan: NumberedScan) -> None:
        now, heading = time.time_ns(), scan.pose.heading
        message = ros.laser_scan(
            now,
            self._lidar,
            scan.ranges,
            angle_min=scan.angle_min - heading,
            angle_increment=scan.angle_increment,
            range_max=scan.range_max,
        )
        moved = ros.transforms(now, [(self._map, self._odom, Pose(0.0, 0.0))])
        odometry = ros.odometry(now, self._odom, self._base, scan.pose)
        for topic, each in (("tf", moved), (_ODOM_TOPIC, odometry), (_SCAN_TOPIC, message)):
            self._session.publish(serialized(f"{self._namespace}/{topic}", now, each))
