"""`exploration:perform`: drive the team over the area until enough is explored."""

import asyncio
import itertools
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from app.config import get_settings
from app.event_types import EXPLORATION_PERFORM
from app.exploration.driver import DriveReport, Point, Pose
from app.exploration.grid import UNKNOWN, Grid, GridFrame
from app.exploration.map_files import find_map, load_map
from app.exploration.planning.radio_planner import RadioPlanner
from app.exploration.planning.remaining import RemainingEstimator
from app.exploration.planning.rendezvous import RendezvousPlanner
from app.exploration.planning.settings import DEFAULT_SETTINGS, UNKNOWN_POSE_SETTINGS
from app.exploration.planning.stop_rule import StopRule
from app.exploration.planning.team_planner import TeamPlanner
from app.exploration.simulation.radio import radio_groups
from app.missions.checkpoints import decode_state, encode_state
from app.missions.frames import Frame, RobotView
from app.missions.recording import RecordingWriter
from app.observability import gauges
from app.redis_utils import BlobMissing, put_blob
from app.robots import fleet
from app.robots.codecs import decode_report, encode_patch
from app.robots.team import RobotLost, Team
from sagastream import Atomic, Command, Limit, Progress, SagastreamError, multi_stage_reply

logger = logging.getLogger(__name__)

Planner = TeamPlanner | RadioPlanner | RendezvousPlanner
"""Plans for robots with known poses, also if their radio does not reach everywhere, or for robots
that each have their own map frame."""


class TooFewLeft(SagastreamError):
    """Too many robots are lost for the mission to continue."""


def _limits(per_area: int) -> list[Limit]:
    return [Limit(concurrency=per_area, per="area")] if per_area else []


@multi_stage_reply(
    stream=get_settings().exploration_stream,
    event_type=EXPLORATION_PERFORM,
    effect="atomic",
    limits=_limits(get_settings().missions_per_area),
)
async def perform_exploration(command: Command, progress: Progress) -> Atomic:
    """Explore until no reachable frontier is left or the stop rule is met; release the robots.

    All robots drive at the same time up to a common simulated second (the barrier). The next
    orders are planned only when every robot has reported, so that timing does not affect the
    result. A lost robot is removed, and the others explore its part. A handler that takes over
    continues from the last checkpoint.

    Raises:
        RequestFailed: A robot refused an order, because another handler took over.
        TooFewLeft: Fewer robots are left than the quorum.
    """
    mission = command.payload
    team = Team(command)
    reporter = _ProgressReporter(command, progress, team.robots)
    if command.attempt == 1:
        planner = await _new_planner(mission)
    else:
        planner = await _recovered_planner(command, team, reporter)
    rule = _stop_rule(mission)
    charges = await _Charges.at_start(mission) if rule.kind == "battery" else None
    while not rule.is_met(planner, charges.after(planner) if charges else ()):
        orders = rule.limit(await asyncio.to_thread(planner.decide))
        if not orders:
            break
        poses = planner.poses
        reporter.routes = {
            slot: ((poses[slot].x, poses[slot].y), *order.path) for slot, order in orders.items()
        }
        for slot, report in (await team.drive(orders)).items():
            if isinstance(report, RobotLost):
                reporter.remove(planner, slot, report)
            else:
                planner.observe(slot, report)
                reporter.keep_scan(slot, report)
        await reporter.report_if_due(planner)
    await team.recall()
    await reporter.report(planner)
    driven = dict(zip(team.robots, planner.distances, strict=True))
    _, writes = await fleet.release(mission["mission"], driven)
    reports = planner.state().reports
    kept_s = get_settings().blob_ttl_s
    if mission.get("approve"):
        # The maps are merged only when a person has decided.
        kept_s += math.ceil(get_settings().approval_timeout_s)
    result = {
        "frame": mission["frame"],
        "robots": team.robots,
        "lost": reporter.lost,
        "maps": [await encode_patch(report.patch, ttl_s=kept_s) for report in reports],
        "paths": await put_blob(json.dumps(planner.paths).encode(), ttl_s=kept_s),
        "frontiers": await put_blob(json.dumps(planner.frontiers_left).encode(), ttl_s=kept_s),
        "starts": [_pose_values(Pose(*sent["pose"])) for sent in mission["deployed"]],
        **(
            {
                "known_poses": False,
                "last_poses": [
                    [report.pose.x, report.pose.y, report.pose.heading] for report in reports
                ],
            }
            if isinstance(planner, RendezvousPlanner)
            else {}
        ),
        "distances_m": [round(distance, 3) for distance in planner.distances],
        "simulated_s": planner.time,
        "rounds": planner.rounds,
        **({"until": mission["until"]} if "until" in mission else {}),
    }
    return Atomic(result, writes)


async def _new_planner(mission: dict[str, Any]) -> Planner:
    reports = [await decode_report(sent) for sent in mission["deployed"]]
    frame = GridFrame.from_dict(mission["frame"])
    planner: Planner
    if mission.get("known_poses", True):
        poses = [report.pose for report in reports]
        settings = _stop_rule(mission).apply_to(DEFAULT_SETTINGS)
        if "radio" in mission:
            floor = await asyncio.to_thread(
                load_map, find_map(get_settings().map_dir, mission["area"])
            )
            groups = radio_groups(mission["radio"], floor)
            planner = RadioPlanner(frame, poses, groups, settings)
        else:
            planner = TeamPlanner(frame, poses, settings)
    else:
        settings = _stop_rule(mission).apply_to(UNKNOWN_POSE_SETTINGS)
        planner = RendezvousPlanner(frame, len(reports), settings)
    for slot, report in enumerate(reports):
        planner.observe(slot, report)
    return planner


async def _recovered_planner(
    command: Command, team: Team, reporter: "_ProgressReporter"
) -> Planner:
    """Restore the planner of a replaced handler from its checkpoint and from fresh reports."""
    mission = command.payload
    planner = await _new_planner(mission)
    saved = command.last_progress.get("checkpoint")
    state = planner.state()
    if saved:
        try:
            state = await decode_state(saved)
        except BlobMissing as error:
            logger.warning("cannot load the checkpoint: %s", error)
    reports = await team.report()
    present = {slot: each for slot, each in reports.items() if isinstance(each, DriveReport)}
    frame = GridFrame.from_dict(mission["frame"])
    if isinstance(planner, RadioPlanner):
        planner = RadioPlanner.recover(frame, state, present, planner.hear, planner.settings)
    elif isinstance(planner, TeamPlanner):
        planner = TeamPlanner.recover(frame, state, present, planner.settings)
    else:
        planner = RendezvousPlanner.recover(frame, state, present, planner.settings)
    for slot, report in reports.items():
        if isinstance(report, RobotLost):
            reporter.remove(planner, slot, report)
    return planner


def _stop_rule(mission: dict[str, Any]) -> StopRule:
    return StopRule.parse(mission.get("until", "everything"))


@dataclass(frozen=True, slots=True)
class _Charges:
    """The robots' batteries at the start of a mission.

    Attributes:
        percent: The charge of each robot, by slot.
    """

    percent: list[float]

    @classmethod
    async def at_start(cls, mission: dict[str, Any]) -> Self:
        """Read the charges of a mission's robots; a robot that holds no charge counts as full."""
        known = {robot.name: robot.battery for robot in await fleet.robots()}
        return cls([known.get(name, 100.0) for name in mission["robots"]])

    def after(self, planner: Planner) -> list[float]:
        """Return the charges of the robots that take part, after what they have driven."""
        per_metre, driven = get_settings().battery_per_metre, planner.distances
        return [self.percent[slot] - driven[slot] * per_metre for slot in planner.active]


def _ages(planner: Planner) -> dict[int, float]:
    """For how long each robot out of reach has not been heard, simulated seconds, by slot."""
    if not isinstance(planner, RadioPlanner):
        return {}
    return {slot: planner.time - each.heard_s for slot, each in planner.out_of_reach.items()}


def _out_of_reach(planner: Planner, names: Sequence[str]) -> dict[str, Any]:
    """What a progress says of robots whose orders cannot be delivered."""
    if not isinstance(planner, RadioPlanner):
        return {}
    found = {
        names[slot]: {"heard_s": each.heard_s, "missing_at_s": each.missing_at_s}
        for slot, each in planner.out_of_reach.items()
    }
    return {"out_of_reach": found, "meetings": planner.meetings}


class _ProgressReporter:
    """Reports progress at a limited rate, with a checkpoint at intervals, and records frames.

    Attributes:
        lost: Why each lost robot was lost, by name.
        routes: The way of each robot's last order, from where it was then, by slot.
    """

    def __init__(self, command: Command, progress: Progress, robots: list[str]) -> None:
        self.lost: dict[str, str] = dict(command.last_progress.get("lost", {}))
        self._estimator = RemainingEstimator()
        self.routes: Mapping[int, Sequence[Point]] = {}
        self._progress = progress
        self._robots = robots
        self._recording = RecordingWriter(command, GridFrame.from_dict(command.payload["frame"]))
        self._area = command.payload["area"]
        self._reported = self._saved = -math.inf
        self._checkpoint: dict[str, Any] | None = command.last_progress.get("checkpoint")
        settings = get_settings()
        self._quorum = max(1, math.ceil(settings.quorum * len(robots)))

    def remove(self, planner: Planner, slot: int, loss: RobotLost) -> None:
        """Remove a lost robot from the plan.

        Raises:
            TooFewLeft: Fewer robots are left than the quorum.
        """
        self.lost[self._robots[slot]] = loss.why
        logger.warning("%s", loss)
        planner.remove(slot)
        left = len(self._robots) - len(self.lost)
        if left < self._quorum:
            raise TooFewLeft(
                f"{left} of {len(self._robots)} robots are left, {self._quorum} are needed; "
                f"{loss} (see QUORUM)"
            )

    def keep_scan(self, slot: int, report: DriveReport) -> None:
        """Keep the scan of a report, to be recorded."""
        if report.scan:
            self._recording.keep_scan(self._robots[slot], report.scan)

    async def report_if_due(self, planner: Planner) -> None:
        """Report progress unless the last report is too recent; save a checkpoint if it is due."""
        settings = get_settings()
        if time.monotonic() - self._reported < settings.progress_interval_s:
            return
        if time.monotonic() - self._saved >= settings.checkpoint_s:
            self._saved = time.monotonic()
            self._checkpoint = await encode_state(planner.state())
        await self.report(planner)

    async def report(self, planner: Planner) -> None:
        """Report progress and record a frame."""
        self._reported = time.monotonic()
        robots = {
            name: {
                "pose": _pose_values(pose),
                "driven_m": round(driven, 2),
                "activity": activity,
            }
            for name, pose, driven, activity in zip(
                self._robots, planner.poses, planner.distances, planner.activities, strict=True
            )
        }
        frame = await asyncio.to_thread(self._frame, planner)
        detail = {
            "simulated_s": planner.time,
            "robots": robots,
            "lost": self.lost,
            **_out_of_reach(planner, self._robots),
            "known_m2": round(_known_m2(frame.cells, planner.frame), 1),
        }
        if frame.remaining:
            detail["remaining"] = frame.remaining.to_dict()
        if self._checkpoint:
            detail["checkpoint"] = self._checkpoint
        gauges.record_explored(self._area, planner.fraction_known)
        await self._progress(planner.fraction_known, detail)
        await self._recording.add(frame)
        await self._recording.add_scans()

    def _frame(self, planner: Planner) -> Frame:
        routes: Mapping[int, Sequence[Point]] = {}
        if isinstance(planner, RendezvousPlanner):
            # Its orders are in the frames of the robots, so their ways are not on this map.
            apart, paths = planner.apart, planner.team_paths
        else:
            apart, paths, routes = [], planner.paths, self.routes
        poses, goals, driven = planner.poses, planner.goals, planner.distances
        activities, ages = planner.activities, _ages(planner)
        frontiers, cells = tuple(planner.frontiers_left), planner.team_grid()
        remaining = None
        if isinstance(planner, TeamPlanner):
            remaining = self._estimator.estimate(
                planner.time,
                _known_m2(cells, planner.frame),
                robots=[(poses[slot].x, poses[slot].y) for slot in planner.active],
                frontiers=frontiers,
            )
        return Frame(
            simulated_s=planner.time,
            fraction=planner.fraction_known,
            robots=tuple(
                RobotView(
                    name,
                    poses[slot],
                    driven[slot],
                    goals[slot],
                    self.lost.get(name, ""),
                    paths[slot],
                    slot in apart,
                    _rest_of(routes.get(slot, ()), poses[slot]) if goals[slot] else (),
                    activities[slot],
                    ages.get(slot, 0.0),
                )
                for slot, name in enumerate(self._robots)
            ),
            frontiers=frontiers,
            cells=cells,
            remaining=remaining,
        )


def _known_m2(cells: Grid, grid: GridFrame) -> float:
    return float(np.count_nonzero(cells != UNKNOWN)) * grid.resolution**2


def _rest_of(route: Sequence[Point], pose: Pose) -> Sequence[Point]:
    """What is left of a way behind the part of it that is nearest to the robot."""
    distances = [
        _distance_to_segment((pose.x, pose.y), *ends) for ends in itertools.pairwise(route)
    ]
    if not distances:
        return ()
    return ((pose.x, pose.y), *route[distances.index(min(distances)) + 1 :])


def _distance_to_segment(point: Point, start: Point, end: Point) -> float:
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (point[0] - start[0]) * dx + (point[1] - start[1]) * dy
    share = min(1.0, max(0.0, along / (dx * dx + dy * dy or 1.0)))
    return math.dist(point, (start[0] + share * dx, start[1] + share * dy))


def _pose_values(pose: Pose) -> list[float]:
    return [round(pose.x, 3), round(pose.y, 3), round(pose.heading, 4)]
