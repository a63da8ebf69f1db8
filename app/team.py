"""Orders to the robots of one mission, and their answers."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.config import get_settings
from app.exploration.driver import Leg, Order
from app.redis_utils import request_and_reply
from app.wire import receive_leg
from sagastream import RequestFailed


@dataclass(frozen=True, slots=True)
class Team:
    """The robots of a mission, by slot.

    Attributes:
        mission: The mission's id; robots take no orders from another.
        robots: Their names.
        correlation_id: The mission's.
    """

    mission: str
    robots: Sequence[str]
    correlation_id: str

    async def deploy(self, area: str, seed: int) -> list[dict[str, Any]]:
        """Put every robot at its start; their answers by slot.

        Raises:
            RequestFailed: A robot cannot start there.
        """
        common = {"area": area, "team": len(self.robots), "seed": seed}
        return await self._ask_all(
            "robot:deploy", {slot: common | {"slot": slot} for slot in range(len(self.robots))}
        )

    async def drive(self, orders: Mapping[int, Order]) -> dict[int, Leg]:
        """Have robots drive at the same time; their legs by slot.

        Raises:
            RequestFailed: A robot refused or failed.
            ReplyTimeout: A robot did not answer.
        """
        answers = await self._ask_all(
            "robot:drive",
            {slot: {"path": order.path, "until": order.until} for slot, order in orders.items()},
        )
        legs = await asyncio.gather(*(receive_leg(answer["leg"]) for answer in answers))
        return dict(zip(orders, legs, strict=True))

    async def recall(self) -> list[dict[str, Any]]:
        """End the mission for every robot; their whole maps by slot, {} for one without.

        Raises:
            ReplyTimeout: A robot did not answer.
        """
        return await self._ask_all("robot:recall", {slot: {} for slot in range(len(self.robots))})

    async def abandon(self) -> None:
        """Recall whoever is still ours; one that another mission has is left to it."""
        for name in self.robots:
            try:
                await self._ask(name, "robot:recall", {})
            except RequestFailed as failure:
                if failure.error_type != "NotDeployed":
                    raise

    async def _ask_all(
        self, event_type: str, payloads: Mapping[int, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        return await asyncio.gather(
            *(
                self._ask(self.robots[slot], event_type, payload)
                for slot, payload in payloads.items()
            )
        )

    async def _ask(self, name: str, event_type: str, payload: dict[str, Any]) -> dict[str, Any]:
        settings = get_settings()
        reply = await request_and_reply(
            settings.robot_stream(name),
            event_type,
            payload | {"mission": self.mission},
            timeout=settings.robot_timeout_s,
            correlation_id=self.correlation_id,
        )
        return dict(reply["payload"])
