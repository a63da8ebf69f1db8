"""The channels of a mission as topics of ROS 2: `/map`, where the robots are, and the rest."""

import logging

from app.export.live_missions import LiveMissions
from app.export.ros_messages import RosMessage
from app.ros2.zenoh_session import ZenohSession

logger = logging.getLogger(__name__)

_MAP_TOPIC = "/map"


class MapPublisher:
    """A `MessageSink` that publishes over Zenoh.

    Args:
        session: Where to publish.
        only_map: Publish `/map` only: robots of the mission publish other topics themselves.
    """

    def __init__(self, session: ZenohSession, *, only_map: bool = True) -> None:
        self._session, self._only_map = session, only_map

    def publish(self, messages: list[RosMessage]) -> None:
        """Publish messages of the mission that is shown."""
        for message in messages:
            if message.topic == _MAP_TOPIC or not self._only_map:
                self._session.publish(message)

    def begin_mission(self) -> None:
        """Go on with the topics of the next mission, which are the same."""
        logger.info("another mission is published")


async def publish_missions(session: ZenohSession, saga_id: str = "") -> None:
    """Publish the merged map of a mission as it grows, and then of the next one, until cancelled.

    Args:
        session: Where to publish.
        saga_id: The only mission; '' for the newest that runs.
    """
    await LiveMissions(MapPublisher(session), saga_id).run()
