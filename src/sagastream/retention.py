"""How long the results of ended requests are kept, and for how long their ids are remembered.

Two times, because they cost so differently: a result is a few hundred bytes and more, a
remembered id less than a hundred.
"""

import math
from dataclasses import dataclass, field

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is left of an ended request is kept.

    The requests of a saga are kept as long as the saga, whatever this says.

    Attributes:
        result_s: How long the result can be read, in seconds. Reply streams live as long after
            their last entry.
        remember_s: How long the id is remembered, in seconds; at least `result_s`. A request with
            a remembered id never runs again: it raises `ResultExpired`, with how it ended.
        max_kept: Results that are kept for each command stream; None for any number. The oldest
            are dropped first, and their ids are remembered.
        max_kept_bytes: As `max_kept`, in bytes of these results.

    Raises:
        ValueError: A value is not positive, or `remember_s` is less than `result_s`.
    """

    result_s: float = _HOUR_S
    remember_s: float = _DAY_S
    max_kept: int | None = None
    max_kept_bytes: int | None = None
    args: tuple[str, str, str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("result_s", "remember_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
        for name in ("max_kept", "max_kept_bytes"):
            limit = getattr(self, name)
            if limit is not None and (isinstance(limit, bool) or limit < 1):
                raise ValueError(f"{name} must be at least 1, or None, not {limit!r}")
        if self.remember_s < self.result_s:
            raise ValueError(
                f"remember_s ({self.remember_s:g}) must not be less than result_s "
                f"({self.result_s:g}): an id is remembered as long as its result is kept"
            )
        milliseconds = (max(1, round(1000 * value)) for value in (self.result_s, self.remember_s))
        limits = ("" if limit is None else limit for limit in (self.max_kept, self.max_kept_bytes))
        args = tuple(str(value) for value in (*milliseconds, *limits))
        object.__setattr__(self, "args", args)
