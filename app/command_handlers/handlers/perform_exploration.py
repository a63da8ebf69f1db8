"""`exploration:perform`: drive the team over the area until no reachable frontier is left."""

import asyncio
import time
from typing import Any

from app import fleet
from app.config import get_settings
from app.exploration.coordinator import Coordinator
from app.exploration.driver import Pose
from app.exploration.grid import GridFrame
from app.team import Team
from app.wire import receive_leg, send_json
from sagastream import Command, Progress, multi_stage_reply


@multi_stage_reply(stream=get_settings().exploration_stream, event_type="exploration:perform")
async def perform_exploration(command: Command, progress: Progress) -> dict[str, Any]:
    """Explore, then hand the robots back.

    All robots drive at the same time up to a common simulated second; only when every
    one has reported is the next order decided, so that timing changes nothing.

    Raises:
        RequestFailed: A robot failed, or was recalled.
        ReplyTimeout: A robot did not answer.
    """
    mission = command.payload
    names = mission["robots"]
    team = Team(mission["mission"], names, command.correlation_id)
    legs = [await receive_leg(leg) for leg in mission["deployed"]]
    starts = [leg.pose for leg in legs]
    coordinator = Coordinator(
        GridFrame.from_dict(mission["frame"]), starts, bearings=mission["bearings"]
    )
    for slot, leg in enumerate(legs):
        coordinator.observe(slot, leg)
    told = 0.0
    while orders := await asyncio.to_thread(coordinator.decide):
        for slot, leg in (await team.drive(orders)).items():
            coordinator.observe(slot, leg)
        if time.monotonic() - told >= get_settings().progress_interval_s:
            told = time.monotonic()
            await progress(coordinator.fraction_known, _report(coordinator, names))
    maps = [answer["leg"]["patch"] for answer in await team.recall()]
    await progress(coordinator.fraction_known, _report(coordinator, names))
    await fleet.release(mission["mission"], dict(zip(names, coordinator.distances, strict=True)))
    return {
        "frame": mission["frame"],
        "robots": names,
        "maps": maps,
        "paths": await send_json(coordinator.paths),
        "frontiers": await send_json(coordinator.frontiers_left),
        "starts": [_flat(pose) for pose in starts],
        "distances_m": [round(distance, 3) for distance in coordinator.distances],
        "simulated_s": coordinator.time,
        "rounds": coordinator.rounds,
    }


def _flat(pose: Pose) -> list[float]:
    return [round(pose.x, 3), round(pose.y, 3), round(pose.heading, 4)]


def _report(coordinator: Coordinator, names: list[str]) -> dict[str, Any]:
    return {
        "simulated_s": coordinator.time,
        "robots": {
            name: {"pose": _flat(pose), "driven_m": round(driven, 2)}
            for name, pose, driven in zip(
                names, coordinator.poses, coordinator.distances, strict=True
            )
        },
    }
