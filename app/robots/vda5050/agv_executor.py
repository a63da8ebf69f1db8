"""Executes the orders of missions with a robot that speaks VDA 5050: an `OrderExecutor`.

What each drive begins with is stored on the server. So a process that replaces this one sends the
same order again, and the robot does it once.
"""

import asyncio
import logging
import math
import uuid
from dataclasses import replace
from typing import Any

from app.config import get_settings
from app.exploration.driver import DriveReport, Patch, Point, Pose, StartError
from app.exploration.grid import FloorMap, GridFrame
from app.exploration.simulation.start_poses import start_poses
from app.robots.order_executor import DriveOrder, ReportCondition, Settled
from app.robots.process import true_floor
from app.robots.vda5050.abilities import limits_of, require_able, require_alive
from app.robots.vda5050.drive_watch import DriveEnd, DrivenByAnother, DriveWatch, number
from app.robots.vda5050.journey import Journey
from app.robots.vda5050.route import DrivePlan, Route, plan_drive
from app.robots.vda5050.scan_map import ScanMap
from app.robots.vda5050.vehicle import RobotFailed, Vehicle

logger = logging.getLogger(__name__)

_LOOK_S = 1.0


class AgvExecutor:
    """Executes orders with one robot.

    Args:
        vehicle: The robot.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        self._vehicle = vehicle
        self._journey = Journey("", "", "")
        self._sent = Route()  # where the orders have come to with what was sent last
        self._replaces = False
        self._floor: FloorMap | None = None
        self._map: ScanMap | None = None
        self._halted = False
        self._working, self._cancelling = asyncio.Lock(), asyncio.Lock()
        self._abandoned_order = ""

    @property
    def abandoned(self) -> bool:
        """Whether a drive of ours ended without a report, and the robot still has its order."""
        state = self._vehicle.state
        return bool(state and self._abandoned_order and state.order_id == self._abandoned_order)

    @property
    def busy(self) -> bool:
        """Whether an order is being executed."""
        return self._working.locked()

    async def deploy(self, order: dict[str, Any], request_id: str) -> tuple[GridFrame, DriveReport]:
        """Let the robot take part in a mission.

        A simulated robot is placed at the start of its slot. Any other starts where it is.

        Raises:
            MapError: The map is missing or invalid.
            RobotFailed: The robot cannot take orders, or does not answer.
            StartError: It is not on the mission's map, or missions cannot plan for it.
        """
        async with self._working:
            self._halted = False
            if not order.get("known_poses", True):
                raise StartError(
                    f"robot {self._vehicle.name} speaks VDA 5050: it takes part in missions with "
                    "known poses only"
                )
            floor = self._floor = await asyncio.to_thread(true_floor, order["area"])
            await require_able(self._vehicle)
            await self.cancel()
            self._map = ScanMap(self._vehicle, floor.frame, request_id)
            await self._take_position(order, floor, request_id)
            if not limits_of(self._vehicle).scans:
                await self._map.find_source()
            pose = self._reported_pose()
            self._journey = journey = Journey(order["mission"], order["area"], request_id)
            journey.pose, journey.path = pose, [(pose.x, pose.y)]
            self._sent, self._replaces = journey.route, False
            return floor.frame, self._report(self._map.take_changes(), journey.path, 0.0)

    async def _take_position(self, order: dict[str, Any], floor: FloorMap, request_id: str) -> None:
        vehicle = self._vehicle
        assert vehicle.factsheet is not None
        assert self._map is not None
        action = vehicle.factsheet.action("initializePosition")
        keys = {each.key for each in action.action_parameters} if action else set()
        if not {"seed", "slot"} <= keys:
            position = vehicle.state and vehicle.state.position
            if not position or not position.localized or position.map_id != order["area"]:
                where = position.map_id if position and position.localized else "no map"
                raise StartError(
                    f"robot {vehicle.name} is localized on {where!r}, not on {order['area']!r}"
                )
            return
        poses = await asyncio.to_thread(start_poses, floor, order["team"], order["seed"])
        start = poses[order["slot"]]
        parameters = {
            "x": start.x,
            "y": start.y,
            "theta": start.heading,
            "mapId": order["area"],
            "lastNodeId": "",
            "seed": order["seed"],
            "slot": order["slot"],
        }
        timeout = get_settings().robot_timeout_s
        done = await vehicle.act("initializePosition", request_id, parameters, timeout=timeout)
        if done.action_status == "FAILED":
            raise StartError(f"robot {vehicle.name}: {done.action_result}")
        await self._map.collect(number(done.action_result))

    async def resume(self, mission: str) -> Settled | None:
        """Continue the deployment of a process before this one, from what it stored.

        All scans are asked for again.

        Raises:
            RobotFailed: The robot cannot take orders, or its scans do not come.
        """
        journey = await Journey.load(self._vehicle.name)
        if journey is None or journey.mission != mission:
            return None
        async with self._working:
            vehicle = self._vehicle
            await vehicle.wait_for(lambda: not vehicle.failure(), _LOOK_S)
            require_alive(self._vehicle)
            seen, route = vehicle.state, journey.route
            same = seen is not None and seen.order_id == route.order_id
            journey.route = route.replaced(seen.order_update_id if seen and same else -1)
            floor = self._floor = await asyncio.to_thread(true_floor, journey.area)
            self._map = ScanMap(vehicle, floor.frame, journey.session)
            await vehicle.wait_for(lambda: vehicle.factsheet is not None, _LOOK_S)
            self._map.has_source = journey.scans > 0 and not limits_of(self._vehicle).scans
            await self._map.collect(journey.scans)
            self._map.take_changes()
            self._journey, self._halted = journey, False
            self._sent, self._replaces = journey.route, True
            logger.warning("robot %s: continuing mission %s", vehicle.name, mission)
        return journey.request_id, journey.result

    async def settle(self, settled: Settled) -> None:
        """Store what the next drive begins with, and the result of the last request."""
        journey = self._journey
        if journey.mission and self._map is not None:
            journey.scans = self._map.count
            journey.request_id, journey.result = settled
            await journey.store(self._vehicle.name)

    async def drive(self, order: DriveOrder, on_condition: ReportCondition) -> DriveReport:
        """Follow a path until its end, an obstacle or the barrier.

        Raises:
            RobotFailed: The robot refuses the order, lost it, or does not answer in time.
        """
        async with self._working:
            assert self._map is not None
            require_alive(self._vehicle)
            journey, timeout = self._journey, get_settings().robot_timeout_s
            if not order.path or self._halted:
                journey.time = order.until
                here = (journey.pose.x, journey.pose.y)
                return self._report(self._map.take_changes(), [here], 0.0)
            self._require_not_superseded()
            try:
                async with asyncio.timeout(timeout):
                    plan, end = await self._carry_out(order, on_condition)
                    await self._map.collect(end.scans)
            except TimeoutError:
                text = f"robot {self._vehicle.name}: not there after {timeout:g} s"
                raise RobotFailed(text) from None
            except DrivenByAnother:
                self._abandoned_order = ""  # what it drives is not ours to cancel
                raise
            self._abandoned_order = ""
            report = self._arrive(order, plan, stopped=end.blocked or self._halted, end=end)
            if end.blocked or self._halted:
                await self.cancel()
            return report

    async def _carry_out(
        self, order: DriveOrder, on_condition: ReportCondition
    ) -> tuple[DrivePlan, DriveEnd]:
        """Send a drive and wait until it is driven.

        Raises:
            DrivenByAnother: Another process has sent the robot an order instead.
            RobotFailed: The robot refuses the order, or lost it.
        """
        plan = self._plan(order)
        try:
            return plan, await self._follow(plan, order.request_id, on_condition)
        except DrivenByAnother:
            if not self._replaces:
                raise
        # The process before this one has sent the first message of the same order, which has no
        # epoch. It is the older one: end its order, and begin another.
        await self.cancel()
        self._journey.pose = self._reported_pose()
        plan = self._plan(order)
        return plan, await self._follow(plan, order.request_id, on_condition)

    def _plan(self, order: DriveOrder) -> DrivePlan:
        """Plan a drive from where the last one ended; again, it gives the same plan."""
        assert self._floor is not None
        journey = self._journey
        return plan_drive(
            journey.route,
            at=(journey.pose.x, journey.pose.y),
            path=order.path,
            since=journey.time,
            until=order.until,
            map_id=self._floor.name,
            limits=limits_of(self._vehicle),
            request_id=order.request_id,
            commander=order.commander,
            epoch=order.epoch,
        )

    async def _follow(
        self, plan: DrivePlan, request_id: str, on_condition: ReportCondition
    ) -> DriveEnd:
        vehicle, condition, accepted = self._vehicle, "", False
        self._sent, self._abandoned_order = plan.route, plan.route.order_id
        watch = DriveWatch(vehicle, plan, request_id)

        def answered() -> bool:
            return watch.accepted or watch.refusal is not None or watch.superseded

        def news() -> bool:
            changed = vehicle.hold_up() != condition or vehicle.failure() != ""
            ended = watch.end is not None or (accepted and watch.lost != "")
            return changed or ended or self._halted or (not accepted and answered())

        while True:
            require_alive(self._vehicle)
            if self._halted:
                return DriveEnd(blocked=False, scans=None)
            accepted = accepted or watch.accepted
            end = watch.end
            now = "" if end else vehicle.hold_up()
            if now != condition:
                condition = now
                logger.warning("robot %s: %s", vehicle.name, condition or "goes on")
                await on_condition(condition)
            if end is not None:
                return end
            if not accepted:
                watch.require_not_refused()
                await vehicle.send_order(plan.message)
            elif watch.lost:
                watch.require_not_superseded()
                raise RobotFailed(f"robot {vehicle.name}: {watch.lost}")
            await vehicle.wait_for(news, _LOOK_S if accepted else vehicle.resend_s)

    @property
    def superseded(self) -> bool:
        """Whether the robot has a later update of the order than this process has sent."""
        state, route = self._vehicle.state, self._sent
        if state is None or not route.order_id or state.order_id != route.order_id:
            return False
        return bool(state.order_update_id > route.update_id)

    def _require_not_superseded(self) -> None:
        if self.superseded:
            raise DrivenByAnother(self._vehicle.name)

    def _arrive(
        self, order: DriveOrder, plan: DrivePlan, *, stopped: bool, end: DriveEnd
    ) -> DriveReport:
        """Make the report of a plan from what the robot says now."""
        state, journey = self._vehicle.state, self._journey
        assert state is not None
        assert self._map is not None
        points: list[Point] = [(journey.pose.x, journey.pose.y)]
        journey.pose, journey.time = self._reported_pose(), order.until
        reached, distance = len(plan.waypoints), plan.length
        if stopped:
            first = plan.message["nodes"][0]["sequence_id"]
            reached = min(max(0, (state.last_node_sequence_id - first) // 2), reached)
        points += plan.waypoints[:reached]
        arrived = plan.whole and reached == len(order.path)
        if not arrived:
            points.append((journey.pose.x, journey.pose.y))
        if stopped:
            distance = sum(map(math.dist, points, points[1:]))
        journey.path += points[1:]
        journey.driven += distance
        # The process before may still send: its next update is to be older than ours.
        journey.route = plan.route.replaced(-1) if self._replaces else plan.route
        self._replaces = False
        report = self._report(self._map.take_changes(), points, distance)
        return replace(report, reached=reached, arrived=arrived, blocked=end.blocked)

    async def report(self) -> DriveReport:
        """Report everything seen and driven since the deployment.

        Raises:
            RobotFailed: The robot cannot take orders any more.
        """
        async with self._working:
            require_alive(self._vehicle)
            assert self._map is not None
            if self._map.has_source:
                await self._map.collect(None)
            return self._report(self._map.take_whole(), self._journey.path, self._journey.driven)

    async def halt(self) -> None:
        """Cancel the order of the robot, and send none for this mission any more.

        The order of a robot that does not answer is cancelled when it is heard again.
        """
        self._halted = True
        try:
            await self.cancel()
        except RobotFailed as error:
            state = self._vehicle.state
            self._abandoned_order = state.order_id if state else ""
            logger.warning("%s; its order is cancelled when it is heard again", error)

    async def cancel(self) -> None:
        """Let the robot drop its order, if it has one, and wait until it says so.

        Raises:
            RobotFailed: It does not answer.
        """
        vehicle, journey = self._vehicle, self._journey
        journey.route = self._sent = self._sent.ended()
        async with self._cancelling:
            if vehicle.state is None or vehicle.failure():
                return
            if not vehicle.state.idle:
                timeout = get_settings().robot_timeout_s / 2
                action = vehicle.factsheet and vehicle.factsheet.action("cancelOrder")
                keys = {each.key for each in action.action_parameters} if action else set()
                which = {"orderId": vehicle.state.order_id} if "orderId" in keys else {}
                done = await vehicle.act("cancelOrder", str(uuid.uuid4()), which, timeout=timeout)
                logger.info("robot %s: cancelOrder is %s", vehicle.name, done.action_status)
            self._abandoned_order = ""

    def _reported_pose(self) -> Pose:
        """Return where the robot says that it is.

        Raises:
            RobotFailed: That is not on the map.
        """
        state = self._vehicle.state
        position = state.position if state else None
        if position is None:
            return self._journey.pose
        assert self._floor is not None
        frame = self._floor.frame
        right, top = position.x - frame.origin_x, position.y - frame.origin_y
        width, height = frame.cols * frame.resolution, frame.rows * frame.resolution
        if not (0 <= right < width and 0 <= top < height):
            raise RobotFailed(
                f"robot {self._vehicle.name}: it reports ({position.x:.2f}, {position.y:.2f}), which is "
                f"outside the map {self._floor.name!r}"
            )
        return Pose(position.x, position.y, position.theta)

    def _report(self, patch: Patch, points: list[Point], distance: float) -> DriveReport:
        return DriveReport(
            time=self._journey.time,
            pose=self._journey.pose,
            distance=distance,
            path=tuple(points),
            reached=0,
            arrived=False,
            blocked=False,
            patch=patch,
            scan=self._map.take_last_scan() if self._map else None,
        )
