"""Topics of ROS 2 over Zenoh: subscriptions and publishers of messages in CDR.

A topic has two names in Zenoh. `rmw_zenoh` adds the domain, the type and its hash, and an attachment to
each message; `zenoh-bridge-ros2dds`, for robots that use DDS, has the name alone. Both are read, and
both are published.
"""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zenoh
from zenoh import ext

from app.export.ros_messages import RosMessage, typestore
from sagastream import SagastreamError

DEFAULT_ENDPOINT = "tcp/127.0.0.1:7447"
"""Where a router of Zenoh listens on the same machine, such as that of `rmw_zenoh`."""

MAX_BYTES = 1024 * 1024
"""The largest message that is read."""

_NODE = "mission_control"
# Reliable, kept for late subscribers, the last message: as `rmw_zenoh` writes it in tokens.
_QOS = ":1:,1:,:,:,,"

OnMessage = Callable[[bytes], None]
"""Called in a thread of Zenoh with each message, in CDR."""


class BadZenoh(SagastreamError, ValueError):
    """An endpoint or a configuration of Zenoh cannot be used; says why."""


class ZenohSession:
    """A session of Zenoh, which connects again by itself; a context manager.

    Args:
        endpoints: Where to connect, such as `tcp/10.0.0.7:7447`.
        listen: Where others may connect.
        config: A file of Zenoh with TLS, a user and more; the endpoints are added to it.
        domain: The number that `ROS_DOMAIN_ID` has at the robots.

    Raises:
        BadZenoh: An endpoint is malformed or taken, or the file cannot be read.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        listen: Sequence[str] = (),
        config: Path | None = None,
        domain: int = 0,
    ) -> None:
        try:
            found = zenoh.Config.from_file(config) if config else _local_config()
            if endpoints:
                found.insert_json5("connect/endpoints", json.dumps([*endpoints]))
            if listen or not config:
                found.insert_json5("listen/endpoints", json.dumps([*listen]))
            # Publishers that keep messages for late subscribers need it.
            found.insert_json5("timestamping/enabled", "true")
            self._session = zenoh.open(found)
        except zenoh.ZError as error:
            what = config or ", ".join([*endpoints, *listen])
            raise BadZenoh(f"Zenoh: {what}: {error!s:.300}") from None
        self._domain = domain
        self._publishers: dict[str, _RosPublisher] = {}
        self._kept: list[Any] = []  # what ends when it is not referenced any more

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self._session.close()  # type: ignore[no-untyped-call]

    def subscribe(
        self, topic: str, schema: str, on_message: OnMessage, *, latched: bool = False
    ) -> None:
        """Receive the messages of a topic.

        Args:
            topic: Its ROS name, such as `/agv_1/scan`.
            schema: The type of its messages, such as `sensor_msgs/msg/LaserScan`.
            on_message: Takes each one; a message above `MAX_BYTES` is dropped.
            latched: Whether publishers keep the last messages for late subscribers.
        """

        def receive(sample: zenoh.Sample) -> None:
            if len(sample.payload) <= MAX_BYTES:
                on_message(sample.payload.to_bytes())

        name = topic.strip("/")
        for key in (name, f"{self._domain}/{name}/{_type_name(schema)}/*"):
            if latched:
                history = ext.HistoryConfig(detect_late_publishers=True)
                made: Any = ext.declare_advanced_subscriber(
                    self._session, key, receive, history=history
                )
            else:
                made = self._session.declare_subscriber(key, receive)
            self._kept.append(made)

    def publish(self, message: RosMessage) -> None:
        """Publish a message; late subscribers get the last one of each topic. Does not wait."""
        publisher = self._publishers.get(message.topic)
        if publisher is None:
            publisher = _RosPublisher(self._session, message.topic, message.schema, self._domain)
            self._publishers[message.topic] = publisher
        publisher.put(message.data)


class _RosPublisher:
    """Publishes one topic under its two names, and announces it to `rmw_zenoh`."""

    def __init__(self, session: zenoh.Session, topic: str, schema: str, domain: int) -> None:
        name, kind = topic.strip("/"), _type_name(schema)
        type_hash = typestore().hash_rihs01(schema)
        self._gid, self._count = secrets.token_bytes(16), 0
        self._plain, self._rmw = (
            ext.declare_advanced_publisher(
                session,
                key,
                # A slow subscriber loses messages; it holds up nobody.
                congestion_control=zenoh.CongestionControl.DROP,
                cache=ext.CacheConfig(max_samples=1),
                publisher_detection=True,
            )
            for key in (name, f"{domain}/{name}/{kind}/{type_hash}")
        )
        zid, mangled = session.info.zid(), "%" + name.replace("/", "%")
        node = f"@ros2_lv/{domain}/{zid}/0"
        self._tokens = [
            session.liveliness().declare_token(token)
            for token in (
                f"{node}/0/NN/%/%/{_NODE}",
                f"{node}/{secrets.randbelow(2**31)}/MP/%/%/{_NODE}/{mangled}/{kind}/{type_hash}/{_QOS}",
            )
        ]

    def put(self, data: bytes) -> None:
        self._plain.put(data)
        self._count += 1
        attachment = ext.z_serialize((ext.Int64(self._count), ext.Int64(time.time_ns()), self._gid))
        self._rmw.put(data, attachment=attachment)


def _local_config() -> zenoh.Config:
    """A peer that looks for nobody by multicast, as nodes of `rmw_zenoh` do."""
    config = zenoh.Config()
    config.insert_json5("mode", json.dumps("peer"))
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("connect/timeout_ms", "-1")
    config.insert_json5("connect/exit_on_failure", "false")
    return config


def _type_name(schema: str) -> str:
    """The name of a type in DDS: `sensor_msgs::msg::dds_::LaserScan_`."""
    package, kind, name = schema.split("/")
    return f"{package}::{kind}::dds_::{name}_"
