"""A robot as fleet control sees it: what it last reported, and what was sent to it.

Messages may be lost, repeated or late. So an older state never replaces a newer one, and what
was not answered is sent again: a robot takes the same order, and the same action, only once.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from app.config import get_settings
from app.robots.vda5050 import v3, v3_factsheet
from app.robots.vda5050.dialects import (
    DIALECTS,
    SCAN_TOPIC,
    BadMessage,
    Dialect,
    HeaderCounter,
    dialect_of,
)
from app.robots.vda5050.scans import REQUEST_TOPIC, NumberedScan, ScanRequest, decode_scans
from app.vda5050_settings import RobotIdentity
from sagastream import SagastreamError

logger = logging.getLogger(__name__)

Publish = Callable[[str, bytes], Awaitable[bool]]
"""Publishes on a whole topic; False if there is no connection."""

# Of scans that wait for their turn: 64 MB.
_MAX_BEAMS = 8_000_000
_MODES_WITH_ORDERS = frozenset({"AUTOMATIC", "SEMIAUTOMATIC"})


class RobotFailed(SagastreamError):
    """A robot cannot do what it was asked, or does not say that it did."""


class Vehicle:
    """One robot.

    Args:
        robot: Its identity.
        publish: Sends messages.

    Attributes:
        dialect: The version that it speaks, by its last connection message; None before that.
        connection: Its connection state, as it or the broker reported it last.
        state: Its last state.
        factsheet: What it is and can do.
        session: The session of its scans.
        scans: The scans of that session that have come and were not taken, by number.
    """

    def __init__(self, robot: RobotIdentity, publish: Publish) -> None:
        self.robot = robot
        self.dialect: Dialect | None = None
        self.connection = "unknown"
        self.state: v3.State | None = None
        self.factsheet: v3_factsheet.Factsheet | None = None
        self.session = ""
        self.scans: dict[int, NumberedScan] = {}
        self._newest_state: v3.State | None = None  # since the robot has connected
        self._newest_connection: v3.Connection | None = None
        self._beams = self._taken = 0
        self._answered: tuple[str, int] = ("", 0)
        self._publish = publish
        self._headers = HeaderCounter(robot)
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Its name in the fleet."""
        return self.robot.name

    def receive(self, topic: str, payload: bytes) -> None:
        """Take a message; the last level of its topic names it. What is malformed is logged."""
        try:
            if topic == SCAN_TOPIC:
                self._receive_scans(payload)
            else:
                dialect = dialect_of(topic, payload)
                self._receive(dialect, dialect.decode(topic, payload))
        except BadMessage as error:
            logger.warning("robot %s: %.300s", self.name, error)
            return
        self._start(self._notify())

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ask_for_state(self) -> None:
        """Ask the robot for its state: states are not retained, and come rarely while it stands."""
        await self._send_action("stateRequest", str(uuid.uuid4()), {})

    def _receive(self, dialect: Dialect, message: v3.Header) -> None:
        if (message.manufacturer, message.serial_number) != (
            self.robot.manufacturer,
            self.robot.serial_number,
        ):
            raise BadMessage(f"{message.topic}: its header names another robot than its topic")
        if isinstance(message, v3.Connection):
            self._receive_connection(dialect, message)
        elif isinstance(message, v3.State):
            if self._newest_state is not None and _is_older(message, self._newest_state):
                return
            self.state = self._newest_state = message
            self.dialect = dialect
        elif isinstance(message, v3_factsheet.Factsheet) and not self._is_of_earlier_version(
            message
        ):
            self.factsheet = message

    def _is_of_earlier_version(self, message: v3_factsheet.Factsheet) -> bool:
        known = self.factsheet
        return (
            known is not None
            and message.version != known.version
            and message.timestamp <= known.timestamp
        )

    def _receive_connection(self, dialect: Dialect, message: v3.Connection) -> None:
        known = self._newest_connection
        if known and self.dialect is not dialect and message.timestamp <= known.timestamp:
            return  # the broker has kept it from a version that the robot has spoken before
        if message.connection_state != self.connection:
            logger.info("robot %s is %s", self.name, message.connection_state)
        self.connection, self.dialect = message.connection_state, dialect
        self._newest_connection = message
        if self.connection == "ONLINE":
            if known is None or _identity(message) != _identity(known):
                # It may have been restarted, with a clock that is behind.
                self._newest_state = None
            self._start(self.ask_for_state())

    def _receive_scans(self, payload: bytes) -> None:
        message = decode_scans(payload)
        if message.session != self.session:
            return
        if message.request_id:
            self._answered = (message.request_id, message.count)
        for scan in message.scans:
            if scan.number in self.scans or scan.number < self._taken:
                continue
            if self._beams + len(scan.ranges) > _MAX_BEAMS:
                logger.warning("robot %s: scan %d is too much for now", self.name, scan.number)
                continue
            self.scans[scan.number] = scan
            self._beams += len(scan.ranges)

    def take_scan(self, number: int) -> NumberedScan:
        """Return a scan that has come, and forget it; those before it are taken already."""
        scan = self.scans.pop(number)
        self._beams -= len(scan.ranges)
        self._taken = number + 1
        return scan

    def expect_scans(self, session: str) -> None:
        """Take the scans of this session from now on, from number 0."""
        self.session, self.scans = session, {}
        self._beams = self._taken = 0
        self._answered = ("", 0)

    async def request_scans(self, first: int, end: int, *, timeout: float) -> int:
        """Ask what publishes scans for a robot that has no actions for them.

        Args:
            first: The number of the first scan that is wanted.
            end: The number behind the last one.
            timeout: Seconds.

        Returns:
            The number of scans of the session so far.

        Raises:
            RobotFailed: Nothing has answered in time.
        """
        request = ScanRequest(str(uuid.uuid4()), self.session, first, end)
        await self.send_until(
            lambda: self._send_scan_request(request),
            lambda: self._answered[0] == request.request_id,
            timeout=timeout,
            what="scanRequest",
        )
        return self._answered[1]

    async def look_for_scans(self, first: int, end: int) -> bool:
        """Ask as `request_scans` does, and do not wait; return whether anything has ever answered."""
        if not self._answered[0]:
            request = ScanRequest(str(uuid.uuid4()), self.session, first, end)
            await self._send_scan_request(request)
        return self._answered[0] != ""

    async def _send_scan_request(self, request: ScanRequest) -> None:
        dialect = self._spoken
        header = v3.Header.model_validate(self._headers.next(REQUEST_TOPIC, dialect.version))
        topic = dialect.topic(self.robot, REQUEST_TOPIC, get_settings().vda5050_interface)
        await self._publish(topic, request.encode(header.model_dump()))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, holds: Callable[[], bool], timeout: float) -> bool:
        """Wait until something holds after a message; return False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError:
            return holds()
        return True

    @property
    def resend_s(self) -> float:
        """Seconds without an answer after which something is sent again."""
        interval_s = get_settings().vda5050_resend_s
        if self.factsheet:
            timing = self.factsheet.protocol_limits.timing
            interval_s = max(interval_s, timing.minimum_order_interval)
        return interval_s

    async def send_until(
        self,
        send: Callable[[], Awaitable[object]],
        holds: Callable[[], bool],
        *,
        timeout: float,
        what: str,
    ) -> None:
        """Send, and send again while nothing shows that it arrived.

        Args:
            send: Sends it.
            holds: Whether it arrived.
            timeout: Seconds for all attempts.
            what: For the error.

        Raises:
            RobotFailed: Nothing has shown it in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not holds():
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise RobotFailed(f"robot {self.name}: no answer to {what} in {timeout:g} s")
            await send()
            await self.wait_for(holds, min(self.resend_s, left_s))

    async def send_order(self, fields: Mapping[str, Any]) -> None:
        """Publish an order or an update, by the names of `v3`, without its header."""
        await self._send(v3.Order.model_validate(self._headers.next("order") | dict(fields)))

    async def act(
        self,
        action_type: str,
        action_id: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout: float,
    ) -> v3.ActionState:
        """Let the robot do something at once; return the state in which the action has ended.

        Args:
            action_type: What to do.
            action_id: The same id is the same action: it is done once.
            parameters: By key.
            timeout: Seconds.

        Raises:
            RobotFailed: The action has not ended in time.
        """

        async def send() -> None:
            await self._send_action(action_type, action_id, parameters or {})

        def ended() -> bool:
            found = self.action(action_id)
            return found is not None and found.ended

        await self.send_until(send, ended, timeout=timeout, what=action_type)
        found = self.action(action_id)
        assert found is not None
        return found

    async def _send_action(
        self, action_type: str, action_id: str, parameters: Mapping[str, Any]
    ) -> None:
        action = {
            "action_type": action_type,
            "action_id": action_id,
            "blocking_type": "NONE",
            "action_parameters": [
                {"key": key, "value": value} for key, value in parameters.items()
            ],
        }
        header = self._headers.next("instantActions")
        await self._send(v3.InstantActions.model_validate(header | {"actions": [action]}))

    def action(self, action_id: str) -> v3.ActionState | None:
        """Return the state of an action; None if the robot does not report it."""
        return self.state.action(action_id) if self.state else None

    async def _send(self, message: v3.Header) -> None:
        dialect = self._spoken
        topic = dialect.topic(self.robot, message.topic, get_settings().vda5050_interface)
        await self._publish(topic, dialect.encode(message))

    @property
    def _spoken(self) -> Dialect:
        return self.dialect or DIALECTS["3.0"]

    def failure(self) -> str:
        """Return why the robot cannot carry out an order at all; '' if it can."""
        if self.connection in {"OFFLINE", "HIBERNATING"}:
            return f"its connection is {self.connection}"
        state = self.state
        if state is None:
            return "it has reported no state"
        if state.operating_mode not in _MODES_WITH_ORDERS | {"INTERVENED"}:
            return f"its operating mode is {state.operating_mode}"
        fatal = [each.error_type for each in state.errors if each.error_level == "FATAL"]
        return f"fatal error {fatal[0]}" if fatal else ""

    def hold_up(self) -> str:
        """Return what keeps the robot from going on for now; '' if nothing does."""
        if self.connection == "CONNECTION_BROKEN":
            return "its connection is broken"
        state = self.state
        if state is None:
            return ""
        if state.safety_state.active_emergency_stop != "NONE":
            return f"emergency stop {state.safety_state.active_emergency_stop}"
        if state.safety_state.field_violation:
            return "its protective field is violated"
        if state.operating_mode == "INTERVENED":
            return "a person intervenes at it"
        return "it is paused" if state.paused else ""

    def unavailable(self) -> str:
        """Return why a mission should not reserve the robot; '' if it may."""
        return self.failure() or self.hold_up()


def _identity(message: v3.Header) -> tuple[int, str]:
    return message.header_id, message.timestamp


def _is_older(message: v3.State, known: v3.State) -> bool:
    """Whether a state is a repetition, or came late."""
    return message.header_id <= known.header_id and message.timestamp <= known.timestamp
