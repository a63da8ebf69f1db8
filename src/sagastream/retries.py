"""`RetryPolicy`: whether a failed attempt is followed by another one, and when."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from sagastream.errors import InvalidMessage

ErrorKind = type[BaseException] | str
_MAX_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often something that fails is tried, and how long the waits are.

    An error that says that the server is away is no failure, and counts for nothing. A handler
    that dies is tried again by the listener's `max_deliveries`, with or without a policy.

    Args:
        attempts: How many attempts may fail; after the last one it has failed.
        first_delay_s: Seconds before the second attempt.
        factor: By what each further wait is longer.
        max_delay_s: The longest wait, in seconds.
        jitter: By which share of it a wait is longer or shorter, at random; 0 to 1.
        retry_on: The errors that are tried again, as classes or names of classes; None for all but
            `InvalidMessage`, the requester's fault.
        never_on: The errors that are not, though `retry_on` has them.

    Raises:
        ValueError: A value is out of range.
    """

    attempts: int = 3
    first_delay_s: float = 1.0
    factor: float = 2.0
    max_delay_s: float = 60.0
    jitter: float = 0.1
    retry_on: tuple[ErrorKind, ...] | None = None
    never_on: tuple[ErrorKind, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise ValueError(  # noqa: TRY004 - one kind of error for all values
                f"attempts must be a whole number, not {self.attempts!r}"
            )
        for name, least, most in (
            ("attempts", 1, math.inf),
            ("first_delay_s", 0.0, math.inf),
            ("factor", 1.0, math.inf),
            ("max_delay_s", 0.0, math.inf),
            ("jitter", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not (least <= value <= most and math.isfinite(value)):
                raise ValueError(f"{name} must be from {least:g} to {most:g}, not {value!r}")
        for name in ("retry_on", "never_on"):
            kinds = getattr(self, name)
            if kinds is None and name == "retry_on":
                continue
            if isinstance(kinds, str) or not isinstance(kinds, Iterable):
                raise ValueError(  # noqa: TRY004
                    f"{name} must be a tuple of exception classes or their names"
                )
            object.__setattr__(self, name, tuple(kinds))
            for kind in kinds:
                if not (isinstance(kind, str) or _is_exception(kind)):
                    raise ValueError(f"{name}: {kind!r} is neither an exception class nor a name")

    def delay_s(self, failures: int, error: BaseException | str, *, seed: str) -> float | None:
        """The wait before the next attempt, in seconds; None if there is none.

        Args:
            failures: How many attempts have failed, this one included.
            error: What the last one failed with, or the name of its class.
            seed: What the jitter follows from, so that each process computes the same.
        """
        if failures >= self.attempts or not self._retries(error):
            return None
        growth = self.factor ** min(failures - 1, _MAX_DOUBLINGS)
        delay = min(self.max_delay_s, self.first_delay_s * growth)
        digest = hashlib.sha256(f"{seed}/{failures}".encode()).digest()
        share = int.from_bytes(digest[:4]) / 2**32
        return min(self.max_delay_s, delay * (1.0 + self.jitter * (2.0 * share - 1.0)))

    def _retries(self, error: BaseException | str) -> bool:
        if _is_one_of(error, self.never_on):
            return False
        if self.retry_on is None:
            return not _is_one_of(error, (InvalidMessage, "InvalidMessage", "InvalidPayload"))
        return _is_one_of(error, self.retry_on)


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _is_one_of(error: BaseException | str, kinds: Iterable[ErrorKind]) -> bool:
    if isinstance(error, str):
        return any(error == (kind if isinstance(kind, str) else kind.__name__) for kind in kinds)
    names = {each.__name__ for each in type(error).__mro__}
    return any(
        kind in names if isinstance(kind, str) else isinstance(error, kind) for kind in kinds
    )
