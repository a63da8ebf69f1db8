"""`routing:plan`: deploy the robots, divide the area among them, and choose first goals."""

import asyncio
from typing import Any

from app.config import get_settings
from app.exploration.grid import GridFrame
from app.exploration.planning.assignment import divide
from app.exploration.planning.coordinator import Coordinator
from app.exploration.planning.map_clusters import Parties
from app.robots.codecs import receive_leg
from app.robots.team import Team
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().routing_stream, event_type="routing:plan")
async def plan_route(command: Command, progress: Progress) -> dict[str, Any]:
    """Deploy the team and say where each robot goes first.

    Raises:
        RequestFailed: A robot cannot reach its start.
        RobotLost: A robot is gone.
    """
    mission = command.payload
    team = Team(command)
    known_poses = mission.get("known_poses", True)
    answers = await team.deploy(mission["area"], mission["seed"], known_poses=known_poses)
    await progress(0.5, {"deployed": len(answers)})
    legs = [await receive_leg(answer["leg"]) for answer in answers]
    frame = answers[0]["frame"]
    bearings: list[float] = []
    coordinator: Coordinator | Parties
    if known_poses:
        poses = [leg.pose for leg in legs]
        bearings = divide(poses)
        coordinator = Coordinator(GridFrame.from_dict(frame), poses, bearings=bearings)
    else:
        coordinator = Parties(GridFrame.from_dict(frame), len(legs))
    for slot, leg in enumerate(legs):
        coordinator.observe(slot, leg)
    orders = await asyncio.to_thread(coordinator.decide)
    return {
        "robots": mission["robots"],
        "frame": frame,
        "deployed": [answer["leg"] for answer in answers],
        "bearings": bearings,
        **({} if known_poses else {"known_poses": False}),
        "goals": {
            mission["robots"][slot]: list(order.path[-1])
            for slot, order in orders.items()
            if order.path
        },
    }
