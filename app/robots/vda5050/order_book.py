"""What a robot knows of its order: which orders and updates it accepts, and how far it is.

This is the standard's process of accepting an order (version 3.0.0, figure 8 and section 6.1.4),
without motion, time and messages. One thing is added: a robot also refuses an order that it has
had before its last one, which the standard leaves open.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.robots.vda5050 import v3

MAX_NODES = 2000
"""The most nodes of one message, as the factsheet says."""

_REMEMBERED = 256
_SPEED_TOLERANCE = 1e-6


class Refused(Exception):
    """An order is not accepted.

    Attributes:
        error: What the robot reports until it accepts the next order.
    """

    def __init__(self, error: v3.Error) -> None:
        super().__init__(f"{error.error_type}: {error.error_description}")
        self.error = error


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a robot can do with an order.

    Attributes:
        actions: The types of actions that it can do on nodes.
        maximum_speed: Metres per second; it cannot drive slower.
    """

    actions: frozenset[str]
    maximum_speed: float


@dataclass(slots=True)
class OrderBook:
    """The order that a robot has, or had last.

    Attributes:
        order_id: '' if it never had one.
        order_update_id: Of the last update.
        last_node_id: The node that it traversed last.
        last_node_sequence_id: And where in the order that node is.
        nodes: What is still to traverse: first the base, then the horizon.
        edges: In the same way; an edge leads to the node of the same index.
        actions: The states of the order's actions, by id.
        cancelled: Whether the order was cancelled: it takes no update any more.
        errors: Why orders were refused or could not be carried out.
    """

    order_id: str = ""
    order_update_id: int = 0
    last_node_id: str = ""
    last_node_sequence_id: int = 0
    nodes: list[v3.Node] = field(default_factory=list)
    edges: list[v3.Edge] = field(default_factory=list)
    actions: dict[str, v3.ActionState] = field(default_factory=dict)
    cancelled: bool = False
    errors: list[v3.Error] = field(default_factory=list)
    _decision: v3.Node | None = None
    _last_message: v3.Order | None = None
    _earlier: OrderedDict[str, None] = field(default_factory=OrderedDict)

    @property
    def idle(self) -> bool:
        """Whether nothing is to be driven or done, and no update is awaited."""
        return not self.nodes and all(each.ended for each in self.actions.values())

    @property
    def base(self) -> list[v3.Node]:
        """The nodes to traverse."""
        return [node for node in self.nodes if node.released]

    def accept(
        self,
        order: v3.Order,
        abilities: Abilities,
        *,
        position: v3.Position | None,
        available: bool = True,
    ) -> bool:
        """Take an order or an update, or ignore it as a repetition.

        Args:
            order: The message.
            abilities: What the robot can do.
            position: Where it is; None if it does not know.
            available: Whether its operating mode allows orders.

        Returns:
            Whether there is something new.

        Raises:
            Refused: It cannot be accepted; the order before goes on.
        """
        same = order.order_id == self.order_id and self.order_id != ""
        if same and self._last_message and _content(order) == _content(self._last_message):
            return False
        _require_valid(order)
        if not available:
            raise _refused("MOBILE_ROBOT_NOT_AVAILABLE", order, "the operating mode allows none")
        _require_able(order, abilities, position)
        if same:
            self._require_continuation(order)
            self.nodes = self.base
            self.edges = self.edges[: len(self.nodes)]
        else:
            self._require_new(order, position)
            self.nodes, self.edges, self.actions = [], [], {}
            self.cancelled = False
            self._remember(order.order_id)
            first = order.nodes[0]
            self.last_node_id, self.last_node_sequence_id = first.node_id, first.sequence_id
        known = {action.action_id for node in self.nodes for action in node.actions}
        ended = {key: state for key, state in self.actions.items() if state.ended}
        running = {key: state for key, state in self.actions.items() if key in known}
        self.actions = ended | running
        self.nodes += order.nodes[1:]
        self.edges += order.edges
        fresh = order.nodes if not same else order.nodes[1:]
        for node in fresh:
            self._wait_for(node.actions)
        self.order_id, self.order_update_id = order.order_id, order.order_update_id
        self._decision = [node for node in order.nodes if node.released][-1]
        self._last_message = order
        self.errors = []
        return True

    def traverse(self) -> v3.Node:
        """Mark the next node as traversed, and return it."""
        node = self.nodes.pop(0)
        self.edges.pop(0)
        self.last_node_id, self.last_node_sequence_id = node.node_id, node.sequence_id
        return node

    def set_action(
        self,
        action_id: str,
        status: Literal["WAITING", "RUNNING", "FINISHED", "FAILED"],
        result: str | None = None,
    ) -> None:
        """Change the state of an action of the order."""
        before = self.actions[action_id]
        changes = {"action_status": status, "action_result": result}
        self.actions[action_id] = before.model_copy(update=changes)

    def clear(self) -> None:
        """Drop what is left of the order, as after `cancelOrder`; its ids stay."""
        self.nodes, self.edges, self.cancelled = [], [], True
        for action_id, state in self.actions.items():
            if not state.ended:
                self.set_action(action_id, "FAILED", "the order was cancelled")

    def report(self, error_type: str, level: str, text: str, **references: str) -> None:
        """Add an error about the order, unless it is reported already."""
        self.errors = [each for each in self.errors if each.error_type != error_type]
        about = {"orderId": self.order_id, "orderUpdateId": str(self.order_update_id)} | references
        self.errors.append(make_error(error_type, level, text, about))

    def _require_new(self, order: v3.Order, position: v3.Position | None) -> None:
        if not self.idle:
            raise _refused("OTHER_ORDER_ACTIVE", order, f"order {self.order_id} is not done")
        if order.order_update_id != 0:
            raise _refused("OUTDATED_ORDER_UPDATE", order, "an update of an order it has not")
        if order.order_id in self._earlier:
            raise _refused("OUTDATED_ORDER_UPDATE", order, "it had this order before")
        first = order.nodes[0].node_position
        assert first is not None
        assert position is not None
        allowed = max(first.allowed_deviation_xy or 0.0, 0.01)
        if (first.x - position.x) ** 2 + (first.y - position.y) ** 2 > allowed**2:
            raise _refused("START_NODE_OUT_OF_RANGE", order, f"it is beyond {allowed:g} m")

    def _require_continuation(self, order: v3.Order) -> None:
        if order.order_update_id < self.order_update_id:
            raise _refused("OUTDATED_ORDER_UPDATE", order, f"it is at {self.order_update_id}")
        if self.cancelled:
            raise _refused("ORDER_UPDATE_FOLLOWING_CANCEL", order, "the order was cancelled")
        if order.order_update_id == self.order_update_id:
            raise _refused("SAME_ORDER_UPDATE_ID", order, "it has another content")
        decision, first = self._decision, order.nodes[0]
        assert decision is not None
        if (first.node_id, first.sequence_id) != (decision.node_id, decision.sequence_id):
            raise _refused(
                "VALIDATION_FAILURE",
                order,
                f"it begins at {first.node_id}, the base ends at {decision.node_id}",
            )

    def _remember(self, order_id: str) -> None:
        self._earlier[order_id] = None
        while len(self._earlier) > _REMEMBERED:
            self._earlier.popitem(last=False)

    def _wait_for(self, actions: Sequence[v3.Action]) -> None:
        for action in actions:
            if action.action_id not in self.actions:
                self.actions[action.action_id] = v3.ActionState(
                    action_id=action.action_id,
                    action_type=action.action_type,
                    action_status="WAITING",
                )


def make_error(error_type: str, level: str, text: str, about: Mapping[str, str]) -> v3.Error:
    """Make an error with references."""
    return v3.Error.model_validate(
        {
            "error_type": error_type,
            "error_level": level,
            "error_description": text,
            "error_references": [
                {"reference_key": key, "reference_value": value} for key, value in about.items()
            ],
        }
    )


def _refused(error_type: str, order: v3.Order, text: str, level: str = "WARNING") -> Refused:
    about = {"orderId": order.order_id, "orderUpdateId": str(order.order_update_id)}
    return Refused(make_error(error_type, level, text, about))


def _content(order: v3.Order) -> tuple[int, object, object]:
    return order.order_update_id, order.nodes, order.edges


def _require_valid(order: v3.Order) -> None:
    """Refuse what is no path of alternating nodes and edges, first the base, then the horizon."""
    nodes, edges = order.nodes, order.edges
    wrong = ""
    if not nodes or len(edges) != len(nodes) - 1:
        wrong = f"{len(nodes)} nodes and {len(edges)} edges are no path"
    elif len(nodes) > MAX_NODES:
        wrong = f"{len(nodes)} nodes, more than {MAX_NODES}"
    elif not order.order_id:
        wrong = "orderId is empty"
    else:
        first = nodes[0].sequence_id
        sequence = [node.sequence_id for node in nodes], [edge.sequence_id for edge in edges]
        expected = (
            [first + 2 * n for n in range(len(nodes))],
            [first + 2 * n + 1 for n in range(len(edges))],
        )
        released = [node.released for node in nodes]
        if sequence != expected:
            wrong = "sequenceId does not count nodes and edges by turns"
        elif not released[0] or released != sorted(released, reverse=True):
            wrong = "the base does not come first"
        elif [edge.released for edge in edges] != released[1:]:
            wrong = "an edge is released and its end is not, or the other way round"
        elif any(node.node_position is None for node in nodes):
            wrong = "a node has no nodePosition"
    if wrong:
        raise _refused("VALIDATION_FAILURE", order, wrong)


def _require_able(order: v3.Order, abilities: Abilities, position: v3.Position | None) -> None:
    for edge in order.edges:
        slow = abilities.maximum_speed - _SPEED_TOLERANCE
        if edge.trajectory is not None or edge.corridor is not None:
            name = "trajectory" if edge.trajectory is not None else "corridor"
            raise _refused("UNSUPPORTED_PARAMETER", order, f"edge.{name}", "CRITICAL")
        if edge.maximum_speed is not None and edge.maximum_speed < slow:
            raise _refused("UNSUPPORTED_PARAMETER", order, "edge.maximumSpeed", "CRITICAL")
        if edge.actions:
            raise _refused("INVALID_ORDER_ACTION", order, "it does nothing on edges")
    for node in order.nodes:
        for action in node.actions:
            if action.action_type not in abilities.actions:
                raise _refused("INVALID_ORDER_ACTION", order, f"it cannot {action.action_type}")
        there = position.map_id if position else None
        if node.node_position is None or node.node_position.map_id != there:
            raise _refused("UNKNOWN_MAP_ID", order, f"it is on map {there}")
