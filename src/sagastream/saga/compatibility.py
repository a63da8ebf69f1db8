"""Whether open sagas can go on with a declaration: what `sagastream saga check` says before a deployment.

A pure comparison of journals with declarations.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sagastream.errors import SagaError
from sagastream.saga.definition import Child, ForEach, Node, Parallel, Saga, Step, WaitFor
from sagastream.saga.state import Journal


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """Why open sagas cannot go on with a declaration.

    Attributes:
        saga: The declaration's name.
        version: The version with which they began.
        problem: What breaks.
        saga_ids: The sagas.
    """

    saga: str
    version: int
    problem: str
    saga_ids: tuple[str, ...]


def find_incompatibilities(
    declarations: Iterable[Saga], journals: Iterable[Journal]
) -> list[Incompatibility]:
    """What breaks for open sagas when only these declarations are deployed.

    Args:
        declarations: The declarations, and the older versions that are deployed with them.
        journals: The sagas; those that have ended are not looked at.
    """
    by_version = {(saga.name, saga.version): saga for saga in declarations}
    names = {name for name, _ in by_version}
    found: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for journal in journals:
        if journal.saga not in names or journal.status in {"completed", "compensated"}:
            continue
        if journal.status == "unreadable":
            message = str(journal.error.get("message", ""))
            found[journal.saga, 0, f"it cannot be read: {message}"].append(journal.saga_id)
            continue
        for problem in problems_of(by_version.get((journal.saga, journal.version)), journal):
            found[journal.saga, journal.version, problem].append(journal.saga_id)
    return [Incompatibility(*key, tuple(ids)) for key, ids in found.items()]


def problems_of(saga: Saga | None, journal: Journal) -> list[str]:
    """Why an open saga cannot go on with a declaration of its version; empty if it can.

    Args:
        saga: The declaration of its version; None if there is none.
        journal: The saga.
    """
    if saga is None:
        problem = (
            f"version {journal.version} is not declared; keep it in the code until its sagas have "
            "ended, for `SagaRunner(…, older=[…])`"
        )
        return [problem]
    problems = [
        f"step {name!r} has run and is no longer declared; declare a new version"
        for name in dict.fromkeys(entry.step for entry in journal.entries)
        if _node_of(saga.steps, name) is None
    ]
    problems += _changed_kinds(saga, journal)
    if journal.status == "running":
        problems += _out_of_order(saga.steps, "", journal)
    return problems


def _node_of(nodes: Sequence[Node], name: str) -> Node | None:
    """The node of an entry: of an item that of its list."""
    for node in nodes:
        if isinstance(node, Parallel):
            for branch in node.branches:
                if (found := _node_of(branch, name)) is not None:
                    return found
        elif node.name == name or (isinstance(node, ForEach) and name.startswith(f"{node.name}[")):
            return node
        elif isinstance(node, Child) and name.startswith(f"{node.name}/"):
            return _node_of(node.saga.steps, name.removeprefix(f"{node.name}/"))
    return None


def _changed_kinds(saga: Saga, journal: Journal) -> Iterator[str]:
    """Names that stand for something else now, and compensations that are needed and gone."""
    for entry in journal.entries:
        node = _node_of(saga.steps, entry.step)
        is_list = entry.kind == "decision" and "items" in entry.result
        fits: dict[str, bool] = {
            "request": isinstance(node, Step | ForEach),
            "wait": isinstance(node, WaitFor),
            "decision": isinstance(node, ForEach) == is_list,
        }
        if node is not None and not fits[entry.kind]:
            yield f"step {entry.step!r} is of another kind now; declare a new version"
        elif entry.direction == "undo" and entry.status != "completed":
            try:
                has_undo = saga.step(entry.step).compensation is not None
            except SagaError:
                continue
            if not has_undo:
                yield f"step {entry.step!r} is being undone and has no compensation now"


def _out_of_order(nodes: Sequence[Node], prefix: str, journal: Journal) -> Iterator[str]:
    """Steps without an entry before steps that have begun: they would run late, or never did."""
    begun = {entry.step for entry in journal.entries if entry.direction == "forward"}
    skipped: list[str] = []
    for node in nodes:
        if _has_begun(node, prefix, begun):
            for name in skipped:
                yield (
                    f"step {name!r} is declared before {prefix + node.name!r}, which has begun, and "
                    "would run after it; declare a new version"
                )
            skipped = []
        else:
            skipped.append(prefix + node.name)
        if isinstance(node, Parallel):
            for branch in node.branches:
                yield from _out_of_order(branch, prefix, journal)
        if isinstance(node, Child):
            yield from _out_of_order(node.saga.steps, f"{prefix}{node.name}/", journal)


def _has_begun(node: Node, prefix: str, begun: set[str]) -> bool:
    if isinstance(node, Parallel):
        return any(_has_begun(each, prefix, begun) for branch in node.branches for each in branch)
    return prefix + node.name in begun
