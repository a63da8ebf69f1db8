"""What one robot has done in a mission, as it is stored after each drive.

A process that replaces this one goes on from it: the next order follows from what is stored, with
the same ids, so that the robot does it once.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from app.config import get_settings
from app.exploration.driver import Point, Pose
from app.redis_utils import get_bus
from app.robots.vda5050.route import Route, route_from_dict

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Journey:
    """What one robot has done in a mission.

    Attributes:
        mission: The mission.
        area: The name of its map.
        session: The session of the robot's scans.
        scans: The number of scans that were reported to the mission.
        route: Where its orders have come to.
        time: Mission seconds at its last barrier.
        pose: Where it was then.
        path: The points that it drove through.
        driven: Metres.
        request_id: Of the last request that was settled.
        result: Its result.
    """

    mission: str
    area: str
    session: str
    scans: int = 0
    route: Route = field(default_factory=Route)
    time: float = 0.0
    pose: Pose = field(default_factory=lambda: Pose(0.0, 0.0))
    path: list[Point] = field(default_factory=list)
    driven: float = 0.0
    request_id: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    async def store(self, robot: str) -> None:
        """Store it under a robot's name.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        bus = get_bus()
        keep_ms = round(get_settings().retention_s * 1000)
        await bus.command("SET", bus.key(_key(robot)), json.dumps(asdict(self)), "PX", keep_ms)

    @classmethod
    async def load(cls, robot: str) -> "Journey | None":
        """Load what was stored last under a robot's name; None if there is nothing of use.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        bus = get_bus()
        text = await bus.command("GETRANGE", bus.key(_key(robot)), 0, -1)
        if not text:
            return None
        try:
            return cls(**_decoded(json.loads(text)))
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            logger.warning("what is stored of robot %s is malformed: %.200s", robot, error)
            return None


def _decoded(values: dict[str, Any]) -> dict[str, Any]:
    return values | {
        "route": route_from_dict(values["route"]),
        "pose": Pose(**values["pose"]),
        "path": [(x, y) for x, y in values["path"]],
    }


def _key(robot: str) -> str:
    return f"fleet:order:{robot}"
