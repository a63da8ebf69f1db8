"""The declaration of a saga: its steps and their compensations, as plain values."""

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sagastream._codec.converters import Converter
from sagastream._codec.typed_payloads import UnsupportedType, converter_of
from sagastream._codec.validation import check_name
from sagastream.effects import Effect
from sagastream.errors import SagaError
from sagastream.message import Payload
from sagastream.retries import RetryPolicy

Results = Mapping[str, dict[str, Any]]
# Its first parameter gets the input as the type of its annotation, such as a dataclass.
MakePayload = Callable[[Any, Results], Payload]


@lru_cache(maxsize=1024)
def input_converter(make_payload: MakePayload) -> Converter | None:
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
        payload: Makes its payload from the saga's input and the results of its steps.

    Raises:
        SagaError: `payload` declares a type for the input that cannot be JSON.
    """

    event_type: str
    payload: MakePayload

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
            earlier steps. If it declares a model as its first parameter, it gets the input so.
        compensation: Undoes it; None for a step without effect.
        timeout: Seconds to wait for its end. Then it counts as failed, and as in doubt: it may
            still run.
        retries: How many times it is tried again before the saga starts compensating, or a policy,
            which also says when; then errors count by the names of their classes. A payload that its
            handler refuses as invalid is not tried again. Waits are kept in the journal.
        effect: The effect policy that its handler must declare; None for any.
        delay_s: Seconds before which an attempt does not begin; `timeout` counts from then.

    Raises:
        SagaError: `payload` declares a type for the input that cannot be JSON, or `delay_s` is
            negative or not finite.
    """

    name: str
    stream: str
    event_type: str
    payload: MakePayload
    compensation: Compensation | None = None
    timeout: float = 30.0
    retries: int | RetryPolicy = 0
    effect: Effect | None = None
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        input_converter(self.payload)
        if not 0.0 <= self.delay_s < math.inf:
            raise SagaError(
                f"step {self.name!r}: delay_s is {self.delay_s!r}, it must be 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Saga:
    """A named sequence of steps.

    Raises:
        SagaError: There is no step, or two have the same name.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        check_name("saga", self.name)
        names = [step.name for step in self.steps]
        if not names or len(set(names)) != len(names):
            raise SagaError(
                f"saga {self.name!r} needs at least one step, and a unique name for each: {names}"
            )

    def step(self, name: str) -> Step:
        """The step with that name.

        Raises:
            SagaError: There is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        known = ", ".join(step.name for step in self.steps)
        raise SagaError(f"saga {self.name!r} has no step {name!r} (it has: {known})")
