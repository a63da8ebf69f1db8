"""Answers that are held until replicas have confirmed the writes behind them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sagastream._redis.protocol import Receive, pack
from sagastream.errors import NotReplicated

# A connection that is silent for longer counts as lost.
_LONGEST_S = 4.0


@dataclass(frozen=True, slots=True)
class Replication:
    """How many replicas have to confirm what a server did, and in what time.

    Attributes:
        replicas: How many.
        within_s: How long they have for that, in seconds.
        key: A hash for a write that comes after those of a function. A repeated function writes
            nothing, and WAIT would not wait for the writes of its first call.

    Raises:
        ValueError: A value is out of range.
    """

    replicas: int
    within_s: float
    key: str

    def __post_init__(self) -> None:
        if isinstance(self.replicas, bool) or self.replicas < 1:
            raise ValueError(f"replicas must be at least 1, not {self.replicas!r}")
        if not 0 < self.within_s <= _LONGEST_S:
            raise ValueError(
                f"replicated_within_s must be more than 0 and at most {_LONGEST_S:g}, "
                f"not {self.within_s!r}"
            )

    def commands(self, address: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What is sent after a function."""
        return (
            ("HSET", self.key, "replicated", address),
            ("WAIT", self.replicas, round(1000 * self.within_s)),
        )


class Confirmation:
    """Holds the answer of a function until the answers of `Replication.commands` are there.

    Args:
        replication: Who has to confirm.
        address: The server.
        receive: Gets the function's answer; or `NotReplicated`, or the error that came instead.
    """

    __slots__ = ("_address", "_answers", "_receive", "_replication")

    def __init__(self, replication: Replication, address: str, receive: Receive) -> None:
        self._replication = replication
        self._address = address
        self._receive = receive
        self._answers: list[Any] = []

    def packed(self, *function: Any) -> Iterator[tuple[bytes, Receive]]:
        """The function's command and those after it, with the receiver of their answers."""
        for command in (function, *self._replication.commands(self._address)):
            yield pack(command), self._note

    def _note(self, answer: Any) -> None:
        self._answers.append(answer)
        if len(self._answers) < 3:  # noqa: PLR2004 - the function, HSET and WAIT
            return
        of_function, *others = self._answers
        errors = [each for each in self._answers if isinstance(each, Exception)]
        if errors:
            self._receive(errors[0])
        elif others[1] < self._replication.replicas:
            confirmed, wanted = others[1], self._replication.replicas
            within = f"within {self._replication.within_s:g} s"
            reason = f"{confirmed} of {wanted} replicas have confirmed it {within}"
            self._receive(NotReplicated(self._address, reason))
        else:
            self._receive(of_function)
