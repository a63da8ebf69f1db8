"""The declaration of a saga: its steps and their compensations, as plain values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sagastream._codec.validation import check_name
from sagastream.effects import Effect
from sagastream.errors import SagaError

Results = Mapping[str, dict[str, Any]]
MakePayload = Callable[[dict[str, Any], Results], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Compensation:
    """The command that undoes a step, whether the step ran completely, in part, or not at all.

    Attributes:
        event_type: The command's event type, on the step's stream.
        payload: Makes its payload from the saga's input and the results of its steps.
    """

    event_type: str
    payload: MakePayload


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a saga.

    Attributes:
        name: Unique in the saga.
        stream: The command stream.
        event_type: The command's event type.
        payload: Makes its payload from the saga's input and the results of earlier steps.
        compensation: Undoes it; None for a step without effect.
        timeout: Seconds to wait for its end. Then it counts as failed, and as in doubt: it may
            still run.
        retries: How many times it is tried again before the saga starts compensating.
        effect: The effect policy that its handler must declare; None for any.
    """

    name: str
    stream: str
    event_type: str
    payload: MakePayload
    compensation: Compensation | None = None
    timeout: float = 30.0
    retries: int = 0
    effect: Effect | None = None


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
