"""Random schedules of a saga's pure journal: any declaration, outcomes, deaths and re-reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sagastream.saga import (
    Child,
    Compensation,
    ForEach,
    Journal,
    NextAction,
    Parallel,
    Saga,
    Step,
    WaitFor,
    next_actions,
)
from sagastream.saga.journal import conclude, intend, resume, settle, start_compensating
from sagastream.saga.journal_json import dump, load
from sagastream.saga.state import NOW, JournalEntry
from sagastream.saga.walk import open_waits

# Chooses one of these values.
Choose = Callable[[Sequence[Any]], Any]
ERROR = {"error_type": "Boom", "message": "it broke", "trace_id": ""}
ATTEMPTS = 3
_MOVES = 2000


def step(name: str, *, undo: bool = True, **options: Any) -> Step:
    """A step that asks `NAME:commands`, with a compensation if `undo`."""
    compensation = Compensation(f"{name}:undo", lambda _given, results: {"known": sorted(results)})
    return Step(
        name,
        f"{name}:commands",
        f"{name}:do",
        lambda _given, results: {"known": sorted(results)},
        compensation if undo else None,
        **options,
    )


def item_step(name: str) -> Step:
    """The step of a `ForEach`."""
    return Step(
        name,
        f"{name}:commands",
        f"{name}:do",
        lambda _given, _results, item: {"item": item},
        Compensation(f"{name}:undo", lambda _given, _results, item: {"item": item}),
    )


def new_journal(**given: Any) -> Journal:
    """The journal of a saga that has not begun."""
    return Journal(saga_id="s", saga="trip", correlation_id="c", input=given, v=3)


def described(choose: Choose, depth: int = 2) -> list[Any]:
    """A description of nodes, as `Builder` takes it."""
    return [_described_node(choose, depth) for _ in range(choose(range(1, 5)))]


def _described_node(choose: Choose, depth: int) -> Any:
    kind = choose(("step", "parallel", "each", "child", "wait") if depth else ("step",))
    if kind == "step":
        return ("step", choose((True, False)), choose((None, True, False)), choose((0, 1)))
    if kind == "each":
        return ("each", choose(range(4)), choose((1, 2)))
    if kind == "wait":
        return ("wait",)
    inner = [
        [_described_node(choose, depth - 1) for _ in range(choose(range(1, 4)))]
        for _ in range(choose(range(1, 4)) if kind == "parallel" else 1)
    ]
    return ("parallel", inner, choose((True, False))) if kind == "parallel" else (kind, inner[0])


@dataclass
class Builder:
    """Makes a declaration from a description, with a name for each node."""

    count: int = 0

    def name(self) -> str:
        """The next name."""
        self.count += 1
        return f"n{self.count}"

    def node(self, described: Any) -> Any:
        """The node of a description."""
        kind = described[0]
        if kind == "step":
            _, undo, when, retries = described
            condition = None if when is None else lambda _given, _results: when
            return step(self.name(), undo=undo, when=condition, retries=retries)
        if kind == "parallel":
            branches = [tuple(self.node(each) for each in branch) for branch in described[1]]
            return Parallel(*branches, failure="first" if described[2] else "all")
        if kind == "each":
            items = list(range(described[1]))
            return ForEach(item_step(self.name()), lambda _given, _results: items, described[2])
        if kind == "child":
            steps = tuple(self.node(each) for each in described[1])
            return Child(self.name(), Saga("inner", steps), lambda _given, _results: {})
        return WaitFor(self.name())


def _order(nodes: Any, prefix: str = "") -> list[tuple[set[str], set[str]]]:
    """Pairs of sets of steps: each of the first comes before each of the second."""
    pairs: list[tuple[set[str], set[str]]] = []
    before: set[str] = set()
    for node in nodes:
        names = _steps_in(node, prefix)
        pairs.append((set(before), names))
        before |= names
        if isinstance(node, Parallel):
            for branch in node.branches:
                pairs += _order(branch, prefix)
        if isinstance(node, Child):
            pairs += _order(node.saga.steps, f"{prefix}{node.name}/")
    return pairs


def _steps_in(node: Any, prefix: str, journal: Journal | None = None) -> set[str]:
    """The names of the steps and waits in a node; of a list those in a journal, or all that may be."""
    if isinstance(node, Parallel):
        inner = [each for branch in node.branches for each in branch]
        return set().union(*(_steps_in(each, prefix, journal) for each in inner))
    name = f"{prefix}{node.name}"
    if isinstance(node, Child):
        return set().union(*(_steps_in(each, f"{name}/", journal) for each in node.saga.steps))
    if isinstance(node, ForEach):
        entry = journal.last(name, "forward") if journal else None
        count = len(entry.result["items"]) if entry else 3
        return {f"{name}[{index}]" for index in range(count)}
    return {name}


def _move(saga: Saga, journal: Journal, choose: Choose, clock: float) -> Journal:
    """One of the moves that a runner may make now, with any outcome."""
    moves: list[NextAction | JournalEntry] = [*next_actions(saga, journal), *open_waits(journal)]
    if not moves:
        return settle(saga, journal, now=clock)
    move = choose(moves)
    error = ERROR if choose((False, False, False, True)) else None
    options: dict[str, Any] = {"now": clock, "max_attempts": ATTEMPTS, "error": error}
    if isinstance(move, JournalEntry):
        return conclude(saga, journal, move.request_id, result={}, **options)
    if not move.is_intended:
        return intend(saga, journal, move, now=clock, max_attempts=ATTEMPTS)
    entry = journal.last(*move.key)
    assert entry
    return conclude(saga, journal, entry.request_id, result={}, **options)


def run_schedule(nodes: list[Any], choose: Choose, *, is_stored: bool) -> Journal:
    """Run a saga to its end by any moves, and check after each what must hold.

    Args:
        nodes: The description of its declaration.
        choose: Chooses moves and outcomes.
        is_stored: Read the journal again after each move, as a runner does that follows a dead one.

    Raises:
        AssertionError: An order is wrong, or something intended is not undone.
    """
    builder = Builder()
    saga = Saga("trip", tuple(builder.node(each) for each in nodes))
    journal = settle(saga, new_journal(), now=0.0)
    order = _order(saga.steps)
    for clock in range(1, _MOVES):
        if journal.is_over:
            if journal.status != "stuck" or choose((True, False)):
                break
            journal = resume(journal)
        before, journal = journal, _move(saga, journal, choose, float(clock))
        if is_stored:
            journal = load(dump(journal))
        _check_order(saga, before, journal, order)
        assert not (before.status == "compensating" and journal.status == "running")
        if not choose(range(31)):  # an operator compensates it
            journal = settle(saga, start_compensating(journal, ERROR, now=float(clock)), now=0.0)
    assert journal.is_over
    _check_end(saga, journal)
    return journal


def _check_order(
    saga: Saga, before: Journal, after: Journal, order: list[tuple[set[str], set[str]]]
) -> None:
    """A new request comes after what it must come after."""
    done = {(e.step, e.direction) for e in before.entries if e.status in {"completed", "skipped"}}
    begun = {e.step for e in before.entries if e.direction == "forward" and e.kind == "request"}
    known = {(e.step, e.direction, e.attempt) for e in before.entries}
    new = [e for e in after.entries if (e.step, e.direction, e.attempt) not in known]
    for entry in new:
        if entry.kind != "request":
            continue
        for earlier, later in order:
            if entry.direction == "forward" and entry.step in later:
                open_before = {name for name in earlier & begun if (name, "forward") not in done}
                assert not open_before, (entry.step, open_before)
            if entry.direction == "undo" and entry.step in earlier:
                with_undo = {name for name in later & begun if not _is_undone(saga, before, name)}
                assert not with_undo, (entry.step, with_undo)
    for direction in ("forward", "undo"):
        running = [
            e.step for e in after.entries if (e.direction, e.status) == (direction, "intended")
        ]
        assert len(running) == len(set(running)), "one request of a step at once"


def _is_undone(saga: Saga, journal: Journal, name: str) -> bool:
    if saga.step(name).compensation is None:
        return True
    entry = journal.last(name, "undo")
    return entry is not None and entry.status == "completed"


def _check_end(saga: Saga, journal: Journal) -> None:
    begun = {e.step for e in journal.entries if e.direction == "forward" and e.kind == "request"}
    needed = {name for name in begun if saga.step(name).compensation is not None}
    undone = {e.step for e in journal.entries if (e.direction, e.status) == ("undo", "completed")}
    if journal.status == "compensated":
        assert undone == needed
    if journal.status == "completed":
        assert undone == set()
        every = set[str]().union(*(_steps_in(node, "", journal) for node in saga.steps))
        ended = {e.step for e in journal.entries if e.status in {"completed", "skipped"}}
        assert every <= ended
        assert all(e.status in {"completed", "skipped", "failed"} for e in journal.entries)
    if journal.status == "stuck":
        assert undone < needed
    assert not any(e.status in {"intended", "waiting"} for e in journal.entries if journal.is_over)
    assert NOW not in {e.started for e in journal.entries}
