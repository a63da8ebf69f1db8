"""The declaration of a saga, as plain values: its steps and their compensations, its branches and waits.

A declaration is a tree. Its leaves are steps and waits; `walk` says which of them come next.
"""

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Union

from sagastream._codec.converters import Converter
from sagastream._codec.typed_payloads import UnsupportedType, converter_of
from sagastream._codec.validation import check_name
from sagastream.admission import Priority
from sagastream.effects import Effect
from sagastream.errors import SagaError
from sagastream.message import Payload
from sagastream.retries import RetryPolicy

Results = Mapping[str, dict[str, Any]]
# Its first parameter gets the input as the type of its annotation, such as a dataclass.
MakePayload = Callable[[Any, Results], Payload]
# As `MakePayload`, with one item of a `ForEach` as a third argument.
MakeItemPayload = Callable[[Any, Results, Any], Payload]
MakePriority = Callable[[Any, Results], Priority]
MakeItemPriority = Callable[[Any, Results, Any], Priority]
Condition = Callable[[Any, Results], bool]
MakeItems = Callable[[Any, Results], Sequence[Any]]
MakeKey = Callable[[Any, Results], str]


@lru_cache(maxsize=1024)
def input_converter(make_payload: Callable[..., Any]) -> Converter | None:
    """What converts a saga's input for a builder of payloads; None if it takes the dict.

    Raises:
        SagaError: The annotation of its first parameter cannot be resolved, or be JSON.
    """
    try:
        first = next(iter(inspect.signature(make_payload).parameters.values()), None)
    except (TypeError, ValueError):
        return None
    if first is None or first.annotation in (first.empty, Any):
        return None
    name = getattr(make_payload, "__qualname__", repr(make_payload))
    scope = getattr(inspect.unwrap(make_payload), "__globals__", {})
    place = type("Place", (), {"__annotations__": {first.name: first.annotation}})
    try:
        return converter_of(typing.get_type_hints(place, scope, include_extras=True)[first.name])
    except (NameError, UnsupportedType) as error:
        raise SagaError(
            f"{name}: its parameter {first.name} cannot be the input of a saga: {error}"
        ) from error


@dataclass(frozen=True, slots=True)
class Compensation:
    """The command that undoes a step, whether the step ran completely, in part, or not at all.

    Attributes:
        event_type: The command's event type, on the step's stream.
        payload: Makes its payload from the saga's input and the results of its steps; for each item of
            a `ForEach` also from the item.

    Raises:
        SagaError: `payload` declares a type for the input that cannot be JSON.
    """

    event_type: str
    payload: MakePayload | MakeItemPayload

    def __post_init__(self) -> None:
        input_converter(self.payload)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a saga.

    Attributes:
        name: Unique in the saga.
        stream: The command stream.
        event_type: The command's event type.
        payload: Makes its payload, a dict or a model, from the saga's input and the results of
            earlier steps; for each item of a `ForEach` also from the item. If it declares a model as
            its first parameter, it gets the input so.
        compensation: Undoes it; None for a step without effect.
        timeout: Seconds to wait for its end. Then it counts as failed, and as in doubt: it may
            still run.
        retries: How many times it is tried again before the saga starts compensating, or a policy,
            which also says when; then errors count by the names of their classes. A payload that its
            handler refuses as invalid is not tried again. Waits are kept in the journal.
        effect: The effect policy that its handler must declare; None for any.
        delay_s: Seconds before which an attempt does not begin; `timeout` counts from then.
        when: Whether it is needed, from the saga's input and the results of earlier steps; it is
            skipped otherwise, and has no result. None for always.
        priority: That of its command and of its compensation; or a function that makes it as
            `payload` makes the payload, such as a `fairness_key` from the input. None for none.

    Raises:
        SagaError: `payload` declares a type for the input that cannot be JSON, `delay_s` is negative
            or not finite, or `priority` is of another type.
    """

    name: str
    stream: str
    event_type: str
    payload: MakePayload | MakeItemPayload
    compensation: Compensation | None = None
    timeout: float = 30.0
    retries: int | RetryPolicy = 0
    effect: Effect | None = None
    delay_s: float = 0.0
    when: Condition | None = None
    priority: Priority | MakePriority | MakeItemPriority | None = None

    def __post_init__(self) -> None:
        input_converter(self.payload)
        if callable(self.priority):
            input_converter(self.priority)
        elif not isinstance(self.priority, Priority | None):
            raise SagaError(
                f"step {self.name!r}: priority must be a Priority or a function, not {self.priority!r}"
            )
        if self.when is not None:
            input_converter(self.when)
        if not 0.0 <= self.delay_s < math.inf:
            raise SagaError(
                f"step {self.name!r}: delay_s is {self.delay_s!r}, it must be 0 or more"
            )


@dataclass(frozen=True, slots=True)
class WaitFor:
    """A wait for an event, such as the decision of a person; it holds no task and no connection.

    An event that came before the wait began is kept, and ends it at once.

    Attributes:
        name: Unique in the saga. `signal_saga` and `sagastream saga signal` name it.
        key: Makes the key of an event that also ends it, from the saga's input and the results of
            earlier steps; such an event is sent with `send_event`. None for signals by name alone.
        timeout: Seconds to wait, from the time at which the saga gets there.
        on_timeout: Whether the saga is compensated then (`fail`), or goes on without a result
            (`continue`).
        accept: Whether a payload lets the saga go on; it is compensated otherwise. None for any.
        when: As of a `Step`.

    Raises:
        SagaError: A value is invalid.
    """

    name: str
    key: MakeKey | None = None
    timeout: float = 86_400.0
    on_timeout: Literal["fail", "continue"] = "fail"
    accept: Callable[[dict[str, Any]], bool] | None = None
    when: Condition | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.timeout < math.inf:
            raise SagaError(f"wait {self.name!r}: timeout is {self.timeout!r}, it must be above 0")
        if self.on_timeout not in {"fail", "continue"}:
            raise SagaError(f"wait {self.name!r}: on_timeout must be 'fail' or 'continue'")


@dataclass(frozen=True, slots=True, init=False)
class Parallel:
    """Branches that run at the same time; the saga goes on when all have ended.

    They are compensated at the same time, too.

    Attributes:
        branches: Each is a step or another node, or a tuple of nodes that run one after the other.
        failure: Whether the saga is compensated at the first failure (`first`), or when all
            branches have ended (`all`).

    Raises:
        SagaError: There is no branch, or `failure` is unknown.
    """

    branches: tuple[tuple["Node", ...], ...]
    failure: Literal["first", "all"]

    def __init__(
        self, *branches: "Node | tuple[Node, ...]", failure: Literal["first", "all"] = "first"
    ) -> None:
        as_tuples = tuple(each if isinstance(each, tuple) else (each,) for each in branches)
        object.__setattr__(self, "branches", as_tuples)
        object.__setattr__(self, "failure", failure)
        if not branches or not all(as_tuples):
            raise SagaError("Parallel needs at least one branch, and each at least one step")
        if failure not in {"first", "all"}:
            raise SagaError(f"Parallel: failure must be 'first' or 'all', not {failure!r}")

    @property
    def name(self) -> str:
        """The names of the first steps of its branches."""
        return " | ".join(branch[0].name for branch in self.branches)


@dataclass(frozen=True, slots=True)
class ForEach:
    """A step for each item of a list, a bounded number of them at once.

    The requests are named `name[0]`, `name[1]` and so on. Its result has the `items` and, in their
    order, the `results`.

    Attributes:
        step: The step. Its builders get the item as a third argument.
        items: Makes the list from the saga's input and the results of earlier steps: JSON values. It
            is kept in the journal.
        at_once: How many of them run, and are compensated, at the same time.
        failure: As of `Parallel`.

    Raises:
        SagaError: A value is invalid, or the step has a `when`: leave the item out instead.
    """

    step: Step
    items: MakeItems
    at_once: int = 10
    failure: Literal["first", "all"] = "first"

    def __post_init__(self) -> None:
        if type(self.at_once) is not int or self.at_once < 1:
            raise SagaError(f"{self.name!r}: at_once must be 1 or more, not {self.at_once!r}")
        if self.failure not in {"first", "all"}:
            raise SagaError(f"{self.name!r}: failure must be 'first' or 'all'")
        if self.step.when is not None:
            raise SagaError(f"{self.name!r}: leave items out of the list instead of `when`")

    @property
    def name(self) -> str:
        """The name of its step."""
        return self.step.name

    def name_of(self, index: int, prefix: str = "") -> str:
        """The name of the step of an item."""
        return f"{prefix}{self.step.name}[{index}]"

    def step_of(self, index: int, prefix: str = "") -> Step:
        """The step of an item."""
        return replace(self.step, name=self.name_of(index, prefix))


@dataclass(frozen=True, slots=True)
class Child:
    """The steps of another declaration, as a part of this saga, with their own input and results.

    Its requests are named `name/step`. Its result has the results of its steps by name. It is
    compensated with the saga, also after it has completed.

    Attributes:
        name: Unique in the saga.
        saga: The other declaration.
        input: Makes its input from the saga's input and the results of earlier steps.
        when: As of a `Step`.
    """

    name: str
    saga: "Saga"
    input: MakePayload
    when: Condition | None = None


# A part of a saga: a step, a wait, branches, a list or a child saga.
Node = Union[Step, WaitFor, Parallel, ForEach, Child]  # noqa: UP007 - it refers to itself
_IN_BRANCHES = re.compile(r"[^\[\]/|]+")


@dataclass(frozen=True, slots=True)
class Saga:
    """A named sequence of steps and branches.

    Attributes:
        name: The declaration's name.
        steps: They run in this order.
        version: Which version of the declaration this is, from 1. An open saga goes on with the
            version that it began with: change it with each change that `sagastream saga check`
            reports.

    Raises:
        SagaError: There is no step, two have the same name, or the version is not from 1.
    """

    name: str
    steps: tuple[Node, ...]
    version: int = 1

    def __post_init__(self) -> None:
        check_name("saga", self.name)
        if type(self.version) is not int or self.version < 1:
            raise SagaError(f"saga {self.name!r}: version must be from 1, not {self.version!r}")
        names = [node.name for node in leaves(self.steps)]
        if not names or len(set(names)) != len(names):
            raise SagaError(
                f"saga {self.name!r} needs at least one step, and a unique name for each: {names}"
            )
        if not all(isinstance(node, Step) for node in self.steps):
            for name in names:
                if not _IN_BRANCHES.fullmatch(name):
                    raise SagaError(f"saga {self.name!r}: the name {name!r} has one of [ ] / |")

    @property
    def is_plain(self) -> bool:
        """Whether it is a sequence of steps without conditions, as in every release."""
        return self.version == 1 and all(
            isinstance(node, Step) and node.when is None for node in self.steps
        )

    def step(self, name: str) -> Step:
        """The step with that name, such as `pack`, `ship[3]` or `child/pack`.

        Raises:
            SagaError: There is none.
        """
        found = _find(self.steps, name)
        if not isinstance(found, Step):
            known = ", ".join(node.name for node in leaves(self.steps))
            raise SagaError(f"saga {self.name!r} has no step {name!r} (it has: {known})")
        return found

    def every_step(self) -> list[Step]:
        """The steps that it may run, those of lists and child sagas included, as they are declared."""
        found = []
        for node in leaves(self.steps):
            if isinstance(node, Step):
                found.append(node)
            elif isinstance(node, ForEach):
                found.append(node.step)
            elif isinstance(node, Child):
                found += node.saga.every_step()
        return found

    def wait(self, name: str) -> WaitFor:
        """The wait with that name, such as `approval` or `child/approval`.

        Raises:
            SagaError: There is none.
        """
        found = _find(self.steps, name)
        if not isinstance(found, WaitFor):
            raise SagaError(f"saga {self.name!r} has no wait {name!r}")
        return found

    @property
    def has_waits(self) -> bool:
        """Whether it may wait for an event."""
        return any(
            isinstance(node, WaitFor) or (isinstance(node, Child) and node.saga.has_waits)
            for node in leaves(self.steps)
        )


def _find(nodes: Sequence[Node], name: str) -> Step | WaitFor | ForEach | Child | None:
    """The node with that name, with its whole name if it is a step."""
    for node in leaves(nodes):
        item = re.fullmatch(r"(.*)\[(\d+)\]", name)
        if isinstance(node, ForEach) and item and item[1] == node.name:
            return node.step_of(int(item[2]))
        if isinstance(node, Child) and name.startswith(f"{node.name}/"):
            inner = _find(node.saga.steps, name.removeprefix(f"{node.name}/"))
            return replace(inner, name=name) if isinstance(inner, Step) else inner
        if node.name == name:
            return node
    return None


def leaves(nodes: Sequence[Node]) -> Iterator[Step | WaitFor | ForEach | Child]:
    """The nodes with a name in the journal, in the order of their declaration."""
    for node in nodes:
        if isinstance(node, Parallel):
            for branch in node.branches:
                yield from leaves(branch)
        else:
            yield node
