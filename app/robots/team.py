"""Orders to the robots of one mission, and their answers.

An order carries the request and the epoch of the handler that gives it, so that robots refuse
one who has been replaced. A robot that is gone, or has started anew, is lost to the mission.
"""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from app.config import get_settings
from app.exploration.driver import Leg, Order
from app.redis_utils import get_bus, request_and_reply
from app.robots import fleet
from app.robots.codecs import receive_leg
from sagastream import Command, ReplyTimeout, RequestFailed, SagastreamError
from sagastream._redis.retrying import end_tasks

_LOOK_S = 1.0


class RobotLost(SagastreamError):
    """A robot does not answer, or is no longer at what it was deployed for.

    Attributes:
        robot: Its name.
    """

    def __init__(self, robot: str, why: str) -> None:
        super().__init__(f"robot {robot} is lost: {why}")
        self.robot = robot
        self.why = why

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.robot, self.why)


class Team:
    """The robots of a mission, by slot.

    Args:
        command: The command whose handler gives the orders; its payload names the mission
            and the robots.
    """

    def __init__(self, command: Command) -> None:
        self.robots: list[str] = command.payload["robots"]
        self._mission = command.payload["mission"]
        self._command = command

    async def deploy(
        self, area: str, seed: int, *, known_poses: bool = True
    ) -> list[dict[str, Any]]:
        """Put every robot at its start, told of it or not; their answers by slot.

        Raises:
            RequestFailed: A robot cannot start there.
            RobotLost: A robot is gone.
        """
        common = {
            "area": area,
            "team": len(self.robots),
            "seed": seed,
            "known_poses": known_poses,
        }
        return await asyncio.gather(
            *(
                self._ask(name, "robot:deploy", common | {"slot": slot})
                for slot, name in enumerate(self.robots)
            )
        )

    async def drive(self, orders: Mapping[int, Order]) -> dict[int, Leg | RobotLost]:
        """Have robots drive at the same time; their legs, or losses, by slot.

        Raises:
            RequestFailed: A robot refused, as another handler has this mission now.
        """
        return await self._legs(
            "robot:drive",
            {slot: {"path": order.path, "until": order.until} for slot, order in orders.items()},
        )

    async def report(self) -> dict[int, Leg | RobotLost]:
        """Everything that each robot saw and drove since it was deployed, by slot.

        Raises:
            RequestFailed: A robot refused, as another handler has this mission now.
        """
        return await self._legs("robot:report", {slot: {} for slot in range(len(self.robots))})

    async def recall(self) -> None:
        """End the mission for every robot that is still ours."""
        await asyncio.gather(*(self._recall(name) for name in self.robots))

    async def _recall(self, name: str) -> None:
        try:
            await self._ask(name, "robot:recall", {})
        except RobotLost:
            return
        except RequestFailed as failure:
            if failure.error_type != "NotDeployed":
                raise

    async def _legs(
        self, event_type: str, payloads: Mapping[int, dict[str, Any]]
    ) -> dict[int, Leg | RobotLost]:
        async def leg(slot: int, payload: dict[str, Any]) -> Leg | RobotLost:
            try:
                answer = await self._ask(self.robots[slot], event_type, payload)
            except RobotLost as lost:
                return lost
            except RequestFailed as failure:
                if failure.error_type == "StaleOrder":
                    raise
                return RobotLost(self.robots[slot], f"{failure.error_type}: {failure.message}")
            return await receive_leg(answer["leg"])

        legs = await asyncio.gather(*(leg(slot, payload) for slot, payload in payloads.items()))
        return dict(zip(payloads, legs, strict=True))

    async def _ask(self, name: str, event_type: str, payload: dict[str, Any]) -> dict[str, Any]:
        settings = get_settings()
        request_id = str(uuid.uuid4())
        order = {
            "mission": self._mission,
            "commander": self._command.request_id,
            "epoch": self._command.epoch,
        }
        asking = asyncio.create_task(
            request_and_reply(
                settings.robot_stream(name),
                event_type,
                payload | order,
                timeout=settings.robot_timeout_s,
                request_id=request_id,
                correlation_id=self._command.correlation_id,
            )
        )
        try:
            while not (await asyncio.wait({asking}, timeout=_LOOK_S))[0]:
                if not await fleet.is_present(name):
                    await get_bus().cancel(request_id)
                    raise RobotLost(name, "it was not heard of")
            return dict(asking.result()["payload"])
        except ReplyTimeout as silence:
            raise RobotLost(name, str(silence)) from silence
        finally:
            await end_tasks(asking)
