"""What a saga needs next, from its declaration and its journal: a walk over the tree of steps.

Pure functions. Forward, a node comes after the nodes before it have completed, and the branches of
a `Parallel` come together. Compensating, the same tree is walked in reverse: so what was done in
order is undone in the reverse order, and branches are undone together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sagastream.retries import RetryPolicy
from sagastream.saga.definition import (
    Child,
    ForEach,
    Node,
    Parallel,
    Results,
    Saga,
    Step,
    WaitFor,
    input_converter,
)
from sagastream.saga.state import Direction, Journal, JournalEntry

# A payload that does not fit today does not fit at the next attempt either.
_NOT_RETRIED = frozenset({"InvalidPayload", "InvalidMessage"})
# Stands for "no item": an item may be None.
_NO_ITEM: Any = ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What the builders of a step see of the journal.

    Attributes:
        prefix: The names of the child sagas around it, each followed by `/`; '' outside of all.
        item: The item of its `ForEach`; `...` if it has none.
    """

    prefix: str = ""
    item: Any = _NO_ITEM

    def call(self, function: Any, journal: Journal) -> Any:
        """Call a builder or a condition of a declaration; it gets copies of what is in the journal.

        Raises:
            Exception: It may raise anything.
        """
        given, results = self.input_of(journal), deepcopy(self.results_of(journal))
        if converter := input_converter(function):
            given = converter.decode(given, "input")
        if self.item is _NO_ITEM:
            return function(given, results)
        return function(given, results, deepcopy(self.item))

    def input_of(self, journal: Journal) -> Any:
        """The input of the saga, or of the child saga around the step."""
        if not self.prefix:
            return deepcopy(journal.input)
        entry = journal.last(self.prefix.removesuffix("/"), "forward")
        return deepcopy(entry.payload) if entry else {}

    def results_of(self, journal: Journal) -> Results:
        """The results of the completed steps that it sees, by name."""
        return journal.results(self.prefix)


@dataclass(frozen=True, slots=True)
class NextAction:
    """A request that a saga needs next.

    Attributes:
        step: The step, with its whole name.
        direction: `forward`, or `undo` for its compensation.
        attempt: From 1.
        failures: How many times it has failed; `undo` counts from the last resume.
        scope: What its builders see of the journal.
        is_intended: Whether its intent is in the journal.
    """

    step: Step
    direction: Direction
    attempt: int
    failures: int = 0
    scope: Scope = Scope()
    is_intended: bool = field(default=False, compare=False)

    @property
    def key(self) -> tuple[str, Direction]:
        """What it has alone in the saga: no step has two requests in a direction at once."""
        return self.step.name, self.direction


@dataclass(frozen=True, slots=True)
class Decision:
    """A node that has to be decided, and written to the journal, before the saga can go on.

    Attributes:
        node: The node: a step or child to skip, a list to make, a wait to begin.
        name: Its whole name.
        scope: What its functions see of the journal.
        failure: What the condition of a step has raised; None if the step is to be skipped.
    """

    node: Step | WaitFor | ForEach | Child
    name: str
    scope: Scope
    failure: Exception | None = None


State = Literal["done", "open", "failed", "blocked"]


@dataclass(slots=True)
class Outlook:
    """What a part of a saga needs.

    Attributes:
        state: `done`; `open`, something is needed or runs; `failed`, a step failed for the last
            time; or `blocked`, a compensation did.
        actions: The requests that are needed now, those that run included.
        decisions: What has to be decided.
    """

    state: State = "done"
    actions: list[NextAction] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)


def forward(saga: Saga, journal: Journal) -> Outlook:
    """What a running saga needs next."""
    return _Forward(journal).sequence(saga.steps, Scope())


def backward(saga: Saga, journal: Journal) -> Outlook:
    """What a compensating saga needs next."""
    return _Backward(journal).sequence(saga.steps, Scope())


class _Requests:
    """The entries of a journal by step, read once: a list may have many."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._last: dict[tuple[str, Direction], tuple[int, JournalEntry]] = {}
        self._failures: dict[tuple[str, Direction], int] = {}
        for index, entry in enumerate(journal.entries):
            key = (entry.step, entry.direction)
            self._last[key] = (index, entry)
            if entry.status == "failed" and (
                entry.direction == "forward" or index >= journal.resumed
            ):
                self._failures[key] = self._failures.get(key, 0) + 1

    def last(self, name: str, direction: Direction) -> JournalEntry | None:
        """The latest entry of a node in a direction."""
        found = self._last.get((name, direction))
        return found[1] if found else None

    def is_exhausted(self, name: str) -> bool:
        """Whether the compensation of a step is not tried again before a resume."""
        index, entry = self._last[name, "undo"]
        return bool(entry.error.get("exhausted")) and index >= self.journal.resumed

    def action(self, step: Step, direction: Direction, scope: Scope) -> NextAction:
        """The next attempt of a step, or the one that runs."""
        entry = self.last(step.name, direction)
        if entry is None:
            return NextAction(step, direction, 1, 0, scope)
        attempt = entry.attempt + (entry.status == "failed")
        failures = self._failures.get((step.name, direction), 0)
        is_intended = entry.status == "intended"
        return NextAction(step, direction, attempt, failures, scope, is_intended)

    def each(
        self,
        node: ForEach,
        scope: Scope,
        direction: Direction,
        outlook_of: Callable[[Step, Scope], "Outlook"],
    ) -> list["Outlook"]:
        """What the items of a list need: those that have begun first, then others up to `at_once`.

        Only for these a step is made: a list may be long.
        """
        list_entry = self.last(scope.prefix + node.name, "forward")
        items = list_entry.result.get("items", []) if list_entry else []
        found: list[Outlook] = []
        fresh: list[int] = []
        for index in range(len(items)):
            entry = self.last(node.name_of(index, scope.prefix), direction)
            if entry is None:
                fresh.append(index)
            elif entry.status != "completed":
                step = node.step_of(index, scope.prefix)
                found.append(outlook_of(step, replace(scope, item=items[index])))
        free = node.at_once - sum(each.state == "open" for each in found)
        for index in fresh:
            if free <= 0:
                found.append(Outlook("open"))
                break
            outlook = outlook_of(
                node.step_of(index, scope.prefix), replace(scope, item=items[index])
            )
            free -= outlook.state == "open"
            found.append(outlook)
        return found


class _Forward:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._requests = _Requests(journal)

    def sequence(self, nodes: Iterable[Node], scope: Scope) -> Outlook:
        for node in nodes:
            outlook = self._node(node, scope)
            if outlook.state != "done":
                return outlook
        return Outlook()

    def _node(self, node: Node, scope: Scope) -> Outlook:
        if isinstance(node, Parallel):
            found = [self.sequence(branch, scope) for branch in node.branches]
            return _together(found, first=node.failure == "first")
        name = scope.prefix + node.name
        entry = self._requests.last(name, "forward")
        if isinstance(node, Step):
            return self._step(_with_whole_name(node, scope), entry, scope)
        if entry is None:
            return Outlook("open", decisions=[Decision(node, name, scope)])
        if entry.status != "completed":
            states: dict[str, State] = {"skipped": "done", "failed": "failed"}
            return Outlook(states.get(entry.status, "open"))
        if isinstance(node, ForEach):
            found = self._requests.each(node, scope, "forward", self._outlook_of)
            return _together(found, first=node.failure == "first")
        if isinstance(node, Child):
            return self.sequence(node.saga.steps, Scope(f"{name}/"))
        return Outlook()

    def _outlook_of(self, step: Step, scope: Scope) -> Outlook:
        return self._step(step, self._requests.last(step.name, "forward"), scope)

    def _step(self, step: Step, entry: JournalEntry | None, scope: Scope) -> Outlook:
        if entry is None:
            is_needed = _is_needed(step, scope, self._journal)
            if is_needed is not True:
                failure = is_needed or None
                return Outlook("open", decisions=[Decision(step, step.name, scope, failure)])
        elif entry.status in {"completed", "skipped"}:
            return Outlook()
        action = self._requests.action(step, "forward", scope)
        if entry and entry.status == "failed" and not _is_tried_again(step, entry, action.failures):
            return Outlook("failed")
        return Outlook("open", [action])


class _Backward:
    def __init__(self, journal: Journal) -> None:
        self._requests = _Requests(journal)

    def sequence(self, nodes: Sequence[Node], scope: Scope) -> Outlook:
        for node in reversed(nodes):
            outlook = self._node(node, scope)
            if outlook.state != "done":
                return outlook
        return Outlook()

    def _node(self, node: Node, scope: Scope) -> Outlook:
        if isinstance(node, Parallel):
            return _together([self.sequence(branch, scope) for branch in node.branches])
        if isinstance(node, Step):
            return self._step(_with_whole_name(node, scope), scope)
        if isinstance(node, ForEach):
            return _together(self._requests.each(node, scope, "undo", self._step))
        if isinstance(node, Child):
            return self.sequence(node.saga.steps, Scope(f"{scope.prefix}{node.name}/"))
        return Outlook()

    def _step(self, step: Step, scope: Scope) -> Outlook:
        begun = self._requests.last(step.name, "forward")
        # What was only decided has no effect; what failed may have one.
        if step.compensation is None or begun is None or begun.kind != "request":
            return Outlook()
        entry = self._requests.last(step.name, "undo")
        if entry and entry.status == "completed":
            return Outlook()
        if entry and entry.status == "failed" and self._requests.is_exhausted(step.name):
            return Outlook("blocked")
        return Outlook("open", [self._requests.action(step, "undo", scope)])


def _with_whole_name(step: Step, scope: Scope) -> Step:
    """A step with its whole name."""
    return replace(step, name=scope.prefix + step.name) if scope.prefix else step


def _together(found: Sequence[Outlook], *, first: bool = False) -> Outlook:
    """What parts that run at the same time need.

    Args:
        found: The parts.
        first: Whether the first that failed ends all of them.
    """
    states = {each.state for each in found}
    if "failed" in states and (first or "open" not in states):
        return Outlook("failed")
    state: State = "done"
    if "open" in states:
        state = "open"
    elif "blocked" in states:
        state = "blocked"
    return Outlook(
        state,
        [action for each in found for action in each.actions],
        [decision for each in found for decision in each.decisions],
    )


def _is_needed(step: Step, scope: Scope, journal: Journal) -> bool | Exception:
    """Whether the condition of a step holds, or what it has raised."""
    try:
        return step.when is None or bool(scope.call(step.when, journal))
    except Exception as failure:  # noqa: BLE001 - a declaration may raise anything
        return failure


def _is_tried_again(step: Step, entry: JournalEntry, failures: int) -> bool:
    """Whether another attempt follows a step's last one, which failed."""
    if entry.kind != "request":
        return False
    policy, kind = step.retries, str(entry.error.get("error_type", ""))
    if isinstance(policy, RetryPolicy):
        return policy.delay_s(failures, kind, seed=entry.request_id) is not None
    return kind not in _NOT_RETRIED and failures <= policy


def open_waits(journal: Journal) -> Iterator[JournalEntry]:
    """The waits of a running saga that have not ended."""
    if journal.status == "running":
        yield from (entry for entry in journal.entries if entry.status == "waiting")
