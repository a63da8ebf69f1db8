"""Watches one drive of a robot: whether it has the order, refuses it, or has carried it out."""

import re
from dataclasses import dataclass

from app.robots.vda5050 import v3
from app.robots.vda5050.route import DrivePlan
from app.robots.vda5050.vehicle import RobotFailed, Vehicle

_COUNT = re.compile(r"[0-9]{1,9}")
_UNREACHABLE = frozenset({"NODE_UNREACHABLE", "nodeUnreachable"})


class DrivenByAnother(RobotFailed):
    """Another process has sent the robot an order that replaces ours."""

    def __init__(self, robot: str) -> None:
        super().__init__(f"robot {robot}: another process drives it")


@dataclass(frozen=True, slots=True)
class DriveEnd:
    """How a drive has ended.

    Attributes:
        blocked: Whether something was in the way.
        scans: The number of scans by then; None if the robot does not count them.
    """

    blocked: bool
    scans: int | None


class DriveWatch:
    """One drive of a robot.

    Args:
        vehicle: The robot.
        plan: What was or will be sent.
        request_id: Of the drive: the id of its action `scan`.
    """

    def __init__(self, vehicle: Vehicle, plan: DrivePlan, request_id: str) -> None:
        self._vehicle, self._plan, self._request_id = vehicle, plan, request_id

    @property
    def accepted(self) -> bool:
        """Whether the robot has the order."""
        state, route = self._vehicle.state, self._plan.route
        if state is None or state.order_id != route.order_id:
            return False
        if state.action(self._request_id) is not None:
            return True
        return state.order_update_id == route.update_id and self._has_our_nodes(state)

    def _has_our_nodes(self, state: v3.State) -> bool:
        """Whether the robot is on this drive: the first message of two processes has one id."""
        ours = {node["node_id"] for node in self._plan.message["nodes"][1:]}
        return not ours.isdisjoint(_node_ids(state))

    @property
    def refusal(self) -> v3.Error | None:
        """The error with which the robot refuses the order; None if it does not."""
        state, route = self._vehicle.state, self._plan.route
        wanted = {"orderId": route.order_id, "orderUpdateId": str(route.update_id)}
        errors = state.errors if state else ()
        return next(
            (
                each
                for each in errors
                if each.error_type not in _UNREACHABLE
                and wanted.items() <= each.references().items()
            ),
            None,
        )

    @property
    def end(self) -> DriveEnd | None:
        """How the drive has ended; None if it has not."""
        state, route = self._vehicle.state, self._plan.route
        if state is None or state.order_id != route.order_id or route.decision is None:
            return None
        for error in state.errors:
            mine = error.references().get("orderId") == route.order_id
            if error.error_type in _UNREACHABLE and mine and not state.driving:
                return DriveEnd(blocked=True, scans=number(error.references().get("scans")))
        action = state.action(self._request_id)
        if action is not None and action.action_status == "FINISHED":
            return DriveEnd(blocked=False, scans=number(action.action_result))
        passed = state.last_node_id == route.decision.node_id and not state.driving
        if passed and not route.decision.actions:
            return DriveEnd(blocked=False, scans=None)
        return None

    @property
    def lost(self) -> str:
        """Why a robot that had the order has not any more; '' if it has."""
        state = self._vehicle.state
        if state is None or self.end is not None:
            return ""
        if state.order_id != self._plan.route.order_id:
            return f"it dropped the order, and has {state.order_id!r:.80}"
        action = state.action(self._request_id)
        if action is not None:
            failed = action.action_status == "FAILED"
            return "its order was cleared at the robot" if failed else ""
        return "another process drives it" if self.superseded else ""

    @property
    def superseded(self) -> bool:
        """Whether the robot has another message of the order, which does not hold this drive."""
        state, route = self._vehicle.state, self._plan.route
        if state is None or state.order_id != route.order_id:
            return False
        if state.order_update_id == route.update_id:
            ours = {node["node_id"] for node in self._plan.message["nodes"]}
            return not self.accepted and not _node_ids(state) <= ours
        return state.order_update_id > route.update_id and not self.accepted

    def require_not_refused(self) -> None:
        """Raise if the robot refuses the order, or will.

        Raises:
            DrivenByAnother: It has another message instead.
            RobotFailed: It does; the error has its reason.
        """
        self.require_not_superseded()
        if (error := self.refusal) is not None:
            raise RobotFailed(
                f"robot {self._vehicle.name} refuses the order: {error.error_type}: "
                f"{error.error_description or '-'}"
            )

    def require_not_superseded(self) -> None:
        """Raise if the robot has another message of the order.

        Raises:
            DrivenByAnother: It has.
        """
        if self.superseded:
            raise DrivenByAnother(self._vehicle.name)


def _node_ids(state: v3.State) -> set[str]:
    """The nodes that a robot has passed last or is still to pass."""
    return {state.last_node_id, *(each.node_id for each in state.node_states)} - {""}


def number(text: str | None) -> int | None:
    """Read a count that a robot reports as a text; None if it is none."""
    return int(text) if text and _COUNT.fullmatch(text) else None
