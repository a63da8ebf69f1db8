"""`exploration:perform`: drive the team over the area until no reachable frontier is left."""

import asyncio
import logging
import math
import time
from typing import Any

from app.config import get_settings
from app.exploration.driver import Leg, Pose
from app.exploration.grid import GridFrame
from app.exploration.planning.coordinator import Coordinator
from app.exploration.planning.map_clusters import Parties
from app.missions.checkpoints import receive_state, send_state
from app.missions.frames import Frame, Seen
from app.missions.recording import Recording
from app.observability import gauges
from app.redis_utils import BlobMissing
from app.robots import fleet
from app.robots.codecs import receive_leg, send_json, send_patch
from app.robots.team import RobotLost, Team
from sagastream import Atomic, Command, Progress, SagastreamError, multi_stage_reply

logger = logging.getLogger(__name__)

Mind = Coordinator | Parties
"""Who decides: for robots that know where they are, or that each have a frame of their own."""


class TooFewLeft(SagastreamError):
    """So many robots are lost that the mission cannot go on."""


@multi_stage_reply(
    stream=get_settings().exploration_stream, event_type="exploration:perform", effect="atomic"
)
async def perform_exploration(command: Command, progress: Progress) -> Atomic:
    """Explore, then hand the robots back; whoever takes over goes on where the last one was.

    All robots drive at the same time up to a common simulated second; only when every
    one has reported is the next order decided, so that timing changes nothing. A robot that
    is lost is taken out, and the others do its part.

    Raises:
        RequestFailed: A robot refused, as another handler has this mission now.
        TooFewLeft: Fewer robots are left than the quorum.
    """
    mission = command.payload
    team = Team(command)
    told = _Telling(command, progress, team.robots)
    if command.epoch == 1:
        coordinator = await _deployed(mission)
    else:
        coordinator = await _recovered(command, team, told)
    while orders := await asyncio.to_thread(coordinator.decide):
        for slot, leg in (await team.drive(orders)).items():
            if isinstance(leg, RobotLost):
                told.lose(coordinator, slot, leg)
            else:
                coordinator.observe(slot, leg)
        await told.maybe(coordinator)
    await team.recall()
    await told.now(coordinator)
    driven = dict(zip(team.robots, coordinator.distances, strict=True))
    _, writes = await fleet.release(mission["mission"], driven)
    legs = coordinator.state().legs
    result = {
        "frame": mission["frame"],
        "robots": team.robots,
        "lost": told.lost,
        "maps": [await send_patch(leg.patch) for leg in legs],
        "paths": await send_json(coordinator.paths),
        "frontiers": await send_json(coordinator.frontiers_left),
        "starts": [_flat(Pose(*leg["pose"])) for leg in mission["deployed"]],
        **(
            {
                "known_poses": False,
                "last_poses": [[leg.pose.x, leg.pose.y, leg.pose.heading] for leg in legs],
            }
            if isinstance(coordinator, Parties)
            else {}
        ),
        "distances_m": [round(distance, 3) for distance in coordinator.distances],
        "simulated_s": coordinator.time,
        "rounds": coordinator.rounds,
    }
    return Atomic(result, writes)


async def _deployed(mission: dict[str, Any]) -> Mind:
    legs = [await receive_leg(leg) for leg in mission["deployed"]]
    frame = GridFrame.from_dict(mission["frame"])
    coordinator: Mind
    if mission.get("known_poses", True):
        poses = [leg.pose for leg in legs]
        coordinator = Coordinator(frame, poses, bearings=mission["bearings"])
    else:
        coordinator = Parties(frame, len(legs))
    for slot, leg in enumerate(legs):
        coordinator.observe(slot, leg)
    return coordinator


async def _recovered(command: Command, team: Team, told: "_Telling") -> Mind:
    """What the handler before knew, brought up to date by the robots themselves."""
    mission = command.payload
    coordinator = await _deployed(mission)
    saved = command.last_progress.get("checkpoint")
    state = coordinator.state()
    if saved:
        try:
            state = await receive_state(saved)
        except BlobMissing as error:
            logger.warning("the checkpoint is gone: %s", error)
    reports = await team.report()
    fresh = {slot: leg for slot, leg in reports.items() if isinstance(leg, Leg)}
    frame = GridFrame.from_dict(mission["frame"])
    if mission.get("known_poses", True):
        coordinator = Coordinator.recover(frame, state, fresh)
    else:
        coordinator = Parties.recover(frame, state, fresh)
    for slot, leg in reports.items():
        if isinstance(leg, RobotLost):
            told.lose(coordinator, slot, leg)
    return coordinator


class _Telling:
    """Progress as it is told: at most so often, now and then with a checkpoint."""

    def __init__(self, command: Command, progress: Progress, robots: list[str]) -> None:
        self.lost: dict[str, str] = dict(command.last_progress.get("lost", {}))
        self._progress = progress
        self._robots = robots
        self._recording = Recording(command, GridFrame.from_dict(command.payload["frame"]))
        self._area = command.payload["area"]
        self._told = self._saved = -math.inf
        self._checkpoint: dict[str, Any] | None = command.last_progress.get("checkpoint")
        settings = get_settings()
        self._least = max(1, math.ceil(settings.quorum * len(robots)))

    def lose(self, coordinator: Mind, slot: int, loss: RobotLost) -> None:
        """Take a robot out.

        Raises:
            TooFewLeft: Fewer are left than the quorum.
        """
        self.lost[self._robots[slot]] = loss.why
        logger.warning("%s", loss)
        coordinator.remove(slot)
        left = len(self._robots) - len(self.lost)
        if left < self._least:
            raise TooFewLeft(
                f"{left} of {len(self._robots)} robots are left, {self._least} are needed; "
                f"{loss} (see QUORUM)"
            )

    async def maybe(self, coordinator: Mind) -> None:
        """Tell, if it was not told a moment ago."""
        settings = get_settings()
        if time.monotonic() - self._told < settings.progress_interval_s:
            return
        if time.monotonic() - self._saved >= settings.checkpoint_s:
            self._saved = time.monotonic()
            self._checkpoint = await send_state(coordinator.state())
        await self.now(coordinator)

    async def now(self, coordinator: Mind) -> None:
        """Tell how far the mission is."""
        self._told = time.monotonic()
        robots = {
            name: {"pose": _flat(pose), "driven_m": round(driven, 2)}
            for name, pose, driven in zip(
                self._robots, coordinator.poses, coordinator.distances, strict=True
            )
        }
        detail = {"simulated_s": coordinator.time, "robots": robots, "lost": self.lost}
        if self._checkpoint:
            detail["checkpoint"] = self._checkpoint
        gauges.explored(self._area, coordinator.fraction_known)
        await self._progress(coordinator.fraction_known, detail)
        await self._recording.add(await asyncio.to_thread(self._frame, coordinator))

    def _frame(self, coordinator: Mind) -> Frame:
        if isinstance(coordinator, Parties):
            apart, paths = coordinator.apart, coordinator.team_paths
        else:
            apart, paths = [], coordinator.paths
        poses, goals, driven = coordinator.poses, coordinator.goals, coordinator.distances
        return Frame(
            simulated_s=coordinator.time,
            fraction=coordinator.fraction_known,
            robots=tuple(
                Seen(
                    name,
                    poses[slot],
                    driven[slot],
                    goals[slot],
                    self.lost.get(name, ""),
                    paths[slot],
                    slot in apart,
                )
                for slot, name in enumerate(self._robots)
            ),
            frontiers=tuple(coordinator.frontiers_left),
            cells=coordinator.team_grid(),
        )


def _flat(pose: Pose) -> list[float]:
    return [round(pose.x, 3), round(pose.y, 3), round(pose.heading, 4)]
