"""A simulated robot that speaks VDA 5050, on the simulation of `app.exploration.simulation`.

It knows nothing of missions. It obeys orders and instant actions, reports its state, and publishes
its scans on a topic beside the standard. `agv_process` connects it to a broker.

Beside the standard's actions it has `scan` on nodes and `resendScans` at once. `initializePosition`
takes `seed` and `slot` too, with which the simulation begins again. The parameters `from` and `until`
of `scan` are mission seconds: the clock of a simulation that is faster than real time. With
`waypoint` false the node is only where that time ends, on the way to the next one.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from app.config import get_settings
from app.exploration.driver import Point, Pose, StartError
from app.exploration.map_files import MapError, find_map, load_map
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot
from app.robots.vda5050 import v3
from app.robots.vda5050.agv_messages import (
    DEFAULT_STATE_INTERVAL_S,
    NODE_ACTIONS,
    factsheet,
    state_message,
)
from app.robots.vda5050.agv_motion import Halted, Motion, Sensor
from app.robots.vda5050.dialects import BadMessage, Dialect, HeaderCounter
from app.robots.vda5050.order_book import Abilities, OrderBook, Refused, make_error
from app.robots.vda5050.scans import MAX_PER_MESSAGE, encode_scans
from app.vda5050_settings import RobotIdentity

logger = logging.getLogger(__name__)

Publish = Callable[[str, bytes, int, bool], Awaitable[bool]]
"""Publishes on a topic's last level: name, payload, QoS, retained; False if it was not sent."""

_MIN_STATE_INTERVAL_S = 0.005
_MAX_INSTANT_ACTIONS, _MAX_ERRORS = 64, 10
_MODES_WITH_ORDERS = frozenset({"AUTOMATIC", "SEMIAUTOMATIC", "INTERVENED"})
_SLACK = 1e-9


class SimulatedAgv:
    """A simulated robot.

    Args:
        robot: Its identity.
        dialect: The version that it speaks.
        publish: Sends its messages.
        sensor: Takes its scans; then it has no actions for them, and none is published here.
        pace: Simulated seconds in a second; 0 for as fast as possible.
    """

    def __init__(
        self,
        robot: RobotIdentity,
        dialect: Dialect,
        publish: Publish,
        *,
        sensor: Sensor | None = None,
        pace: float = 0.0,
    ) -> None:
        self.book = OrderBook()
        self.operating_mode = "AUTOMATIC"
        self.errors: list[v3.Error] = []
        self.session = ""
        self.motion = Motion(self._on_scans, self._on_waypoint, sensor=sensor, pace=pace)
        self._identity, self._dialect, self._send = robot, dialect, publish
        self._headers = HeaderCounter(robot)
        self._spec = RobotSpec()
        self._abilities = Abilities(
            NODE_ACTIONS if sensor is None else frozenset(), self._spec.speed
        )
        self._robot: SimulatedRobot | None = None
        self._map_id = ""
        self._driving = False
        self._segment: list[v3.Node] = []
        self._first_actions: tuple[v3.Action, ...] = ()
        self._instant: OrderedDict[str, v3.ActionState] = OrderedDict()
        self._work, self._changed = asyncio.Event(), asyncio.Event()
        self._standing = asyncio.Event()
        self._standing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent_scans = 0
        self._charge, self._charge_at = 100.0, time.monotonic()

    def receive(self, topic: str, payload: bytes) -> None:
        """Take a message of fleet control; the last level of its topic names it."""
        try:
            message = self._dialect.decode(topic, payload)
        except BadMessage as error:
            logger.warning("%s: %s", self._identity.name, error)
            self._add_error(make_error("VALIDATION_FAILURE", "WARNING", str(error), {}))
            self.touch()
            return
        if isinstance(message, v3.Order):
            self._receive_order(message)
        elif isinstance(message, v3.InstantActions):
            for action in message.actions:
                self._receive_action(action)

    async def announce(self) -> None:
        """Publish what a robot publishes when it comes online."""
        await self._publish(self._connection("ONLINE"), qos=1, retain=True)
        await self._send_factsheet()
        self.touch()

    async def sign_off(self) -> None:
        """Publish that it leaves."""
        await self._publish(self._connection("OFFLINE"), qos=1, retain=True)

    def last_will(self) -> bytes:
        """Return what the broker publishes when it does not hear of the robot any more."""
        return self._dialect.encode(self._connection("CONNECTION_BROKEN"))

    def _add_error(self, error: v3.Error) -> None:
        """Report one more error; the newest ones fit into a state."""
        self.errors = [*self.errors, error][-_MAX_ERRORS:]

    def touch(self) -> None:
        """Publish the state soon."""
        self._changed.set()

    async def run(self) -> None:
        """Drive and report until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_driving())
            group.create_task(self._keep_reporting())

    def state(self) -> v3.State:
        """Return the state as the next message."""
        return state_message(
            self._headers.next("state"),
            self.book,
            pose=self._robot.pose if self._robot else None,
            map_id=self._map_id,
            driving=self._driving,
            paused=self.motion.paused,
            instant_actions=list(self._instant.values()),
            charge=self._charge_now(),
            operating_mode=self.operating_mode,
            errors=[*self.book.errors, *self.errors],
        )

    def _charge_now(self) -> float:
        """Return the charge of the battery in percent; it charges while there is no order."""
        now = time.monotonic()
        if self.book.idle and self._standing.is_set():
            gained = (now - self._charge_at) * get_settings().charge_per_s
            self._charge = min(100.0, self._charge + gained)
        self._charge_at = now
        return self._charge

    def _connection(self, state: str) -> v3.Connection:
        fields = self._headers.next("connection") | {"connection_state": state}
        return v3.Connection.model_validate(fields)

    async def _publish(self, message: v3.Header, *, qos: int = 0, retain: bool = False) -> None:
        await self._send(message.topic, self._dialect.encode(message), qos, retain)

    async def _keep_reporting(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEFAULT_STATE_INTERVAL_S):
                    await self._changed.wait()
            self._changed.clear()
            await self._publish(self.state())
            await asyncio.sleep(_MIN_STATE_INTERVAL_S)

    def _receive_order(self, order: v3.Order) -> None:
        new = order.order_id != self.book.order_id
        try:
            accepted = self.book.accept(
                order,
                self._abilities,
                position=self.state().position,
                available=self.operating_mode in _MODES_WITH_ORDERS and not self.motion.halted,
            )
        except Refused as refused:
            logger.warning("%s refuses an order: %s", self._identity.name, refused)
            self.errors = [refused.error]
            self.touch()
            return
        if accepted:
            self.errors = []
            self._first_actions = order.nodes[0].actions if new else ()
            self._work.set()
        self.touch()

    async def set_operating_mode(self, mode: str) -> None:
        """Change the operating mode, as a person at the robot would; most clear the order."""
        if mode not in _MODES_WITH_ORDERS:
            await self._stop_driving()
        self.errors = [e for e in self.errors if e.error_type != "MOBILE_ROBOT_NOT_AVAILABLE"]
        self.operating_mode = mode
        self.touch()

    async def _stop_driving(self) -> None:
        """Stop, and clear the order."""
        self.motion.halt()
        await self._standing.wait()
        self.book.clear()
        self.motion.release()

    async def _keep_driving(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            self._standing.clear()
            try:
                await self._finish_actions(self._first_actions)
                self._first_actions = ()
                while self.book.base and not self.motion.halted and await self._drive_segment():
                    pass
            finally:
                self._standing.set()
                self.touch()

    async def _drive_segment(self) -> bool:
        """Drive to the end of the base, or to the next node that has actions; whether it got there."""
        assert self._robot is not None
        base = self.book.base
        stops = [index for index, node in enumerate(base) if node.actions]
        self._segment = base[: stops[0] + 1] if stops else base
        last = self._segment[-1]
        parameters = next((a.parameters() for a in last.actions if a.action_type == "scan"), {})
        ahead = self._segment
        if parameters.get("waypoint") is False:
            ahead = self._segment[:-1] + self.book.nodes[len(self._segment) :][:1]
        path = [
            (node.node_position.x, node.node_position.y) for node in ahead if node.node_position
        ]
        since, until = self._times(parameters, path)
        self._driving = True
        self.touch()
        try:
            report = await asyncio.to_thread(self.motion.drive, self._robot, path, since, until)
        except Halted:
            return False
        finally:
            self._driving = False
            await self._send_scans()
        used = report.distance * get_settings().battery_per_metre
        self._charge = max(0.0, self._charge - used)
        if report.blocked:
            node = self.book.nodes[0]
            text = "something is in the way"
            scans = str(self.motion.count)
            self.book.report("NODE_UNREACHABLE", "CRITICAL", text, nodeId=node.node_id, scans=scans)
            return False
        if ahead is self._segment and not report.arrived:
            return True  # the time was too short: drive on
        for _ in [node for node in self.book.base if node.sequence_id <= last.sequence_id]:
            self.book.traverse()
        await self._finish_actions(last.actions)
        return True

    def _times(self, parameters: dict[str, Any], path: Sequence[Point]) -> tuple[float, float]:
        """The mission seconds at which a drive begins and ends at the latest."""
        assert self._robot is not None
        now = self._robot.time
        since, until = parameters.get("from"), parameters.get("until")
        if isinstance(since, int | float) and isinstance(until, int | float) and until > now:
            return max(float(since), now), float(until)
        points = [(self._robot.pose.x, self._robot.pose.y), *path]
        length = sum(map(math.dist, points, points[1:]))
        return now, now + (length / self._spec.speed) * (1 + _SLACK) + _SLACK

    async def _finish_actions(self, actions: Sequence[v3.Action]) -> None:
        for action in actions:
            self.book.set_action(action.action_id, "RUNNING")
            await self._send_scans()
            self.book.set_action(action.action_id, "FINISHED", str(self.motion.count))
            self.touch()

    def _on_waypoint(self, index: int) -> None:
        """Mark the node of a waypoint as traversed; the last one of a segment when it is driven."""
        if (
            index < len(self._segment) - 1
            and self.book.nodes[:1] == self._segment[index : index + 1]
        ):
            self.book.traverse()
            self.touch()

    def _on_scans(self) -> None:
        self.motion.start_once(self._send_scans, self._tasks)

    async def _send_scans(self, first: int | None = None, end: int | None = None) -> None:
        """Publish the scans that were not published yet, or those of some numbers."""
        start = self._sent_scans if first is None else first
        stop = self.motion.count if end is None else min(end, self.motion.count)
        if first is None:
            self._sent_scans = stop
        for number in range(start, stop, MAX_PER_MESSAGE):
            scans = self.motion.scans[number : min(number + MAX_PER_MESSAGE, stop)]
            header = self._headers.next("scan", self._dialect.version)
            fields = v3.Header.model_validate(header).model_dump()
            await self._send("scan", encode_scans(fields, self.session, scans), 0, False)

    def _receive_action(self, action: v3.Action) -> None:
        if action.action_id in self._instant:
            self.touch()
            return
        for old in [key for key, state in self._instant.items() if state.ended]:
            if len(self._instant) < _MAX_INSTANT_ACTIONS:
                break
            del self._instant[old]
        self._instant[action.action_id] = v3.ActionState(
            action_id=action.action_id, action_type=action.action_type, action_status="RUNNING"
        )
        known = {
            "cancelOrder": self._cancel_order,
            "startPause": self._pause,
            "stopPause": self._resume,
            "stateRequest": self._nothing_more,
            "factsheetRequest": self._send_factsheet,
            "initializePosition": self._initialize,
            "resendScans": self._resend,
        }
        task = asyncio.create_task(self._do(action, known.get(action.action_type, self._refuse)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.touch()

    async def _do(self, action: v3.Action, act: Callable[[v3.Action], Awaitable[str]]) -> None:
        """Do an instant action and set its state; what goes wrong is its result."""
        status: Literal["FINISHED", "FAILED"] = "FINISHED"
        try:
            result = await act(action)
        except (BadMessage, MapError, StartError, KeyError, TypeError, ValueError) as error:
            status, result = "FAILED", str(error)
            kind = "NO_ORDER_TO_CANCEL" if act == self._cancel_order else "INVALID_INSTANT_ACTION"
            about = {"actionId": action.action_id}
            self._add_error(make_error(kind, "WARNING", result, about))
        self._instant[action.action_id] = self._instant[action.action_id].model_copy(
            update={"action_status": status, "action_result": result}
        )
        self.touch()

    async def _refuse(self, action: v3.Action) -> str:
        raise BadMessage(f"it cannot {action.action_type}")

    async def _cancel_order(self, action: v3.Action) -> str:
        wanted = action.parameters().get("orderId", self.book.order_id)
        if (self.book.idle and self._standing.is_set()) or wanted != self.book.order_id:
            raise BadMessage("there is no such order")
        await self._stop_driving()
        return ""

    async def _pause(self, _action: v3.Action) -> str:
        self.motion.pause()
        return ""

    async def _resume(self, _action: v3.Action) -> str:
        self.motion.go_on()
        return ""

    async def _nothing_more(self, _action: v3.Action) -> str:
        return ""

    async def _send_factsheet(self, _action: v3.Action | None = None) -> str:
        header = self._headers.next("factsheet")
        message = factsheet(header, self._spec, scans=bool(self._abilities.actions))
        await self._publish(message, retain=True)
        return ""

    async def _initialize(self, action: v3.Action) -> str:
        if not self.book.idle or not self._standing.is_set():
            raise BadMessage("it has an order")
        given = action.parameters()
        area, slot, seed = str(given["mapId"]), int(given.get("slot", 0)), int(given.get("seed", 0))
        pose = Pose(float(given["x"]), float(given["y"]), float(given["theta"]))
        floor = await asyncio.to_thread(_load_floor, area)
        robot = SimulatedRobot(floor, slot=slot, seed=seed, spec=self._spec, observer=self.motion)
        self.session, self._sent_scans, self._map_id = action.action_id, 0, area
        self._robot, self.book.last_node_id = None, str(given.get("lastNodeId", ""))
        self.motion.forget_scans()
        self.motion.use(asyncio.get_running_loop())
        await asyncio.to_thread(robot.deploy, pose)
        self._robot = robot
        await self._send_scans()
        return str(self.motion.count)

    async def _resend(self, action: v3.Action) -> str:
        given = action.parameters()
        first, end = int(given["from"]), int(given["to"])
        if given.get("sessionId") != self.session or not 0 <= first <= end:
            raise BadMessage("it has no such scans")
        await self._send_scans(first, end)
        return str(self.motion.count)


def _load_floor(area: str) -> Any:
    return load_map(find_map(get_settings().map_dir, area))
