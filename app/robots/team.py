"""Sends orders to the robots of one mission and returns their replies.

An order carries the request and the epoch (the fencing token) of the handler that sends it, so
that robots refuse orders of a replaced handler. A robot that stops responding, or was restarted,
is lost to the mission.
"""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from app.config import get_settings
from app.event_types import ROBOT_DEPLOY, ROBOT_DRIVE, ROBOT_RECALL, ROBOT_REPORT
from app.exploration.driver import DriveReport, Order
from app.redis_utils import get_bus, request_and_reply
from app.robots import fleet
from app.robots.codecs import decode_report
from sagastream import Command, ReplyTimeout, RequestFailed, SagastreamError

_PRESENCE_CHECK_S = 1.0


class RobotLost(SagastreamError):
    """A robot does not respond, or is no longer deployed for this mission.

    Attributes:
        robot: The robot's name.
        why: How it was lost.
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
        command: The command whose handler sends the orders. Its payload names the mission and
            the robots.
    """

    def __init__(self, command: Command) -> None:
        self.robots: list[str] = command.payload["robots"]
        self._mission = command.payload["mission"]
        self._command = command

    async def deploy(
        self, area: str, seed: int, *, known_poses: bool = True
    ) -> list[dict[str, Any]]:
        """Deploy every robot at its start pose.

        Args:
            area: The name of the map.
            seed: The seed of the simulation.
            known_poses: Whether the robots are told their start poses.

        Returns:
            The payload of each robot's reply, by slot.

        Raises:
            RequestFailed: A robot cannot start there.
            RobotLost: A robot does not respond.
        """
        common = {
            "area": area,
            "team": len(self.robots),
            "seed": seed,
            "known_poses": known_poses,
        }
        return await asyncio.gather(
            *(
                self._send_order(name, ROBOT_DEPLOY, common | {"slot": slot})
                for slot, name in enumerate(self.robots)
            )
        )

    async def drive(self, orders: Mapping[int, Order]) -> dict[int, DriveReport | RobotLost]:
        """Let robots drive at the same time; return drive reports or losses by slot.

        Raises:
            RequestFailed: A robot refused the order, because another handler took over.
        """
        return await self._reports(
            ROBOT_DRIVE,
            {slot: {"path": order.path, "until": order.until} for slot, order in orders.items()},
        )

    async def report(self) -> dict[int, DriveReport | RobotLost]:
        """Return what each robot saw and drove since its deployment, or its loss, by slot.

        Raises:
            RequestFailed: A robot refused the order, because another handler took over.
        """
        return await self._reports(ROBOT_REPORT, {slot: {} for slot in range(len(self.robots))})

    async def recall(self) -> None:
        """End the mission for every robot that is still deployed for it."""
        await asyncio.gather(*(self._recall(name) for name in self.robots))

    async def _recall(self, name: str) -> None:
        try:
            await self._send_order(name, ROBOT_RECALL, {})
        except RobotLost:
            return
        except RequestFailed as failure:
            if failure.error_type != "NotDeployed":
                raise

    async def _reports(
        self, event_type: str, payloads: Mapping[int, dict[str, Any]]
    ) -> dict[int, DriveReport | RobotLost]:
        async def report_of(slot: int, payload: dict[str, Any]) -> DriveReport | RobotLost:
            try:
                reply = await self._send_order(self.robots[slot], event_type, payload)
            except RobotLost as lost:
                return lost
            except RequestFailed as failure:
                if failure.error_type == "StaleOrder":
                    raise
                return RobotLost(self.robots[slot], f"{failure.error_type}: {failure.message}")
            return await decode_report(reply["leg"])

        reports = await asyncio.gather(*(report_of(*item) for item in payloads.items()))
        return dict(zip(payloads, reports, strict=True))

    async def _send_order(
        self, name: str, event_type: str, payload: dict[str, Any]
    ) -> dict[str, Any]:
        settings = get_settings()
        request_id = str(uuid.uuid4())
        order = {
            "mission": self._mission,
            "commander": self._command.request_id,
            "epoch": self._command.epoch,
        }
        request = asyncio.create_task(
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
            while not (await asyncio.wait({request}, timeout=_PRESENCE_CHECK_S))[0]:
                if not await fleet.is_present(name):
                    await get_bus().cancel(request_id)
                    raise RobotLost(name, "its process stopped checking in")
            return dict(request.result()["payload"])
        except ReplyTimeout as timeout:
            raise RobotLost(name, str(timeout)) from timeout
        finally:
            request.cancel()
            await asyncio.wait([request])
