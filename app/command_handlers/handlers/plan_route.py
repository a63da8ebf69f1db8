"""`routing:plan`: deploy the robots, divide the area among them, and choose first goals."""

import asyncio
from typing import Any

from app.config import get_settings
from app.event_types import ROUTING_PLAN
from app.exploration.driver import StartError
from app.exploration.grid import GridFrame
from app.exploration.planning.rendezvous import RendezvousPlanner
from app.exploration.planning.team_planner import TeamPlanner
from app.robots.codecs import decode_report
from app.robots.team import Team
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().routing_stream, event_type=ROUTING_PLAN)
async def plan_route(command: Command, progress: Progress) -> dict[str, Any]:
    """Deploy the team and reply with the first goal of each robot.

    Raises:
        RequestFailed: A robot cannot reach its start.
        RobotLost: A robot does not respond.
        StartError: No robot has seen anything, so there is no way to plan.
    """
    mission = command.payload
    team = Team(command)
    known_poses = mission.get("known_poses", True)
    replies = await team.deploy(mission["area"], mission["seed"], known_poses=known_poses)
    await progress(0.5, {"deployed": len(replies)})
    reports = [await decode_report(reply["leg"]) for reply in replies]
    if not any(report.patch.cells.size for report in reports):
        raise StartError(
            f"no scan has come from {', '.join(team.robots)}: robots without the action `scan` need "
            "something that publishes their scans, such as: mission ros2"
        )
    frame = replies[0]["frame"]
    planner: TeamPlanner | RendezvousPlanner
    if known_poses:
        poses = [report.pose for report in reports]
        planner = TeamPlanner(GridFrame.from_dict(frame), poses)
    else:
        planner = RendezvousPlanner(GridFrame.from_dict(frame), len(reports))
    for slot, report in enumerate(reports):
        planner.observe(slot, report)
    orders = await asyncio.to_thread(planner.decide)
    return {
        "robots": mission["robots"],
        "frame": frame,
        "deployed": [reply["leg"] for reply in replies],
        **({} if known_poses else {"known_poses": False}),
        "goals": {
            mission["robots"][slot]: list(order.path[-1])
            for slot, order in orders.items()
            if order.path
        },
    }
