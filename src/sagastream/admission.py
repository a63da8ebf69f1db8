"""`Limit` and `Priority`: which requests wait for others before they begin."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sagastream.errors import RegistrationError

PriorityClass = Literal["high", "normal", "low"]

_CLASSES: dict[str, int] = {name: i for i, name in enumerate(get_args(PriorityClass), start=1)}
# A longer value of a key is replaced by its digest.
_LONGEST_VALUE = 64
# A rate without a burst lets this many seconds' worth begin at once.
_BURST_S = 0.1
_MOST = 1_000_000
_WEIGHTS = (0.001, 1000.0)


@dataclass(frozen=True, slots=True)
class Limit:
    """How many requests of a handler run at once, or begin in a time, over all listeners.

    A request beyond it waits on the server, without a slot and without a lease, and begins when it is
    its turn. A handler that died counts until its lease has lapsed.

    Args:
        concurrency: How many run at once at most.
        rate: How many begin within `rate_s` seconds at most, on average.
        rate_s: The time that `rate` is for, in seconds.
        burst: How many may begin at once after a quiet time; None for what begins in a tenth of a
            second, at least 1.
        per: Count for each value of this field of the payload by itself; `customer.id` is a field
            within a field. '' counts all requests of the handler together.

    Raises:
        ValueError: A value is out of range, or neither `concurrency` nor `rate` is given.
    """

    concurrency: int | None = None
    rate: int | None = None
    rate_s: float = 1.0
    burst: int | None = None
    per: str = ""

    def __post_init__(self) -> None:
        if self.concurrency is None and self.rate is None:
            raise ValueError("a Limit needs `concurrency` or `rate`")
        for name in ("concurrency", "rate", "burst"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST
            ):
                raise ValueError(
                    f"{name} must be a whole number from 1 to {_MOST:,}, not {value!r}"
                )
        if not (0.0 < self.rate_s < math.inf):
            raise ValueError(f"rate_s must be more than 0, not {self.rate_s!r}")
        if self.burst is not None and self.rate is None:
            raise ValueError("burst belongs to `rate`; give both or neither")
        if not isinstance(self.per, str) or "\n" in self.per:
            raise ValueError(f"per must be the name of a field, not {self.per!r}")

    def limiters(self, event_type: str, payload: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """The limiters of a request on the server: name, count, interval of a rate in ms."""
        key = event_type
        if self.per:
            key += f" {self.per}={_value_of(payload, self.per)}"
        found = []
        if self.concurrency is not None:
            found.append((f"limit {key}", str(self.concurrency), "0"))
        if self.rate is not None:
            burst = self.burst or max(1, math.ceil(self.rate / self.rate_s * _BURST_S))
            found.append((f"rate {key}", str(burst), repr(1000 * self.rate_s / self.rate)))
        return found


@dataclass(frozen=True, slots=True)
class Priority:
    """When a request begins before others that wait for a listener.

    The classes share a stream's listeners 64 to 8 to 1 while all three have requests, so that none
    starves. Within a class the requests take turns by `fairness_key`: one key's backlog holds up no
    other key. Give every command of a stream a priority, or none: one without goes before.

    Args:
        priority: `high`, `normal` or `low`.
        fairness_key: Whose turn it uses, such as a tenant; '' is a key like any other.
        weight: How many turns this key gets for one of a key with weight 1; 0.001 to 1000.

    Raises:
        ValueError: A value is out of range.
    """

    priority: PriorityClass = "normal"
    fairness_key: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.priority not in _CLASSES:
            names = ", ".join(_CLASSES)
            raise ValueError(f"priority must be one of {names}, not {self.priority!r}")
        if not isinstance(self.fairness_key, str) or "\n" in self.fairness_key:
            raise ValueError(f"fairness_key must be a line of text, not {self.fairness_key!r}")
        if not _WEIGHTS[0] <= self.weight <= _WEIGHTS[1]:
            raise ValueError(f"weight must be from 0.001 to 1000, not {self.weight!r}")

    @property
    def turn(self) -> str:
        """What the server keeps of it: class, weight and key, one per line."""
        key = shortened(self.fairness_key)
        return f"{_CLASSES[self.priority]}\n{self.weight!r}\n{key}"


@dataclass(frozen=True, slots=True)
class Unique:
    """One command by key within a window of time: the first, or the last.

    Args:
        key: What the commands of a stream have in common.
        window_s: How long the window is, in seconds.
        keep: `first`: those that follow within the window write nothing. `last`: each one replaces
            the one before, which ends as `cancelled`, and begins `window_s` after it was emitted.
        max_wait_s: With `last`: it begins this many seconds after the first one at the latest, though
            others follow; None for no such end.

    Raises:
        ValueError: A value is out of range.
    """

    key: str
    window_s: float
    keep: Literal["first", "last"] = "first"
    max_wait_s: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise ValueError(f"key must be text, not {self.key!r}")
        for name in ("window_s", "max_wait_s"):
            value = getattr(self, name)
            if value is not None and not 0.001 <= value < math.inf:  # noqa: PLR2004 - the server counts ms
                raise ValueError(f"{name} must be at least 0.001, not {value!r}")
        if self.keep not in {"first", "last"}:
            raise ValueError(f"keep must be first or last, not {self.keep!r}")
        if self.max_wait_s is not None and self.keep == "first":
            raise ValueError("max_wait_s belongs to keep='last'")

    @property
    def options(self) -> dict[str, str]:
        """What the server is told, by name."""
        found = {"unique": shortened(self.key), "unique_keep": self.keep}
        found["unique_ms"] = str(round(1000 * self.window_s))
        if self.max_wait_s is not None:
            found["unique_wait_ms"] = str(round(1000 * self.max_wait_s))
        return found


def check_limits(what: str, limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """The limits of a handler in the order in which a request takes them.

    One request keeps what it has while it waits for the next, so those of a key come before those
    of all, and what runs at once before a rate. The order is the same for all requests.

    Raises:
        RegistrationError: One is no limit, or two count the same.
    """
    counted = set()
    for limit in limits:
        if not isinstance(limit, Limit):
            raise RegistrationError(f"{what}: {limit!r} is not a Limit")
        for name in ("concurrency", "rate"):
            if getattr(limit, name) is None:
                continue
            if (name, limit.per) in counted:
                per = f" per {limit.per}" if limit.per else ""
                raise RegistrationError(f"{what}: two limits have a {name}{per}; give one")
            counted.add((name, limit.per))
    return tuple(sorted(limits, key=lambda limit: not limit.per))


def limiters_of(
    limits: Sequence[Limit], event_type: str, payload: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """The limiters of a request, in the order in which it takes them."""
    found = [limiter for limit in limits for limiter in limit.limiters(event_type, payload)]
    return sorted(found, key=lambda limiter: limiter[0].startswith("rate "))


def shortened(text: str) -> str:
    """A key as the server keeps it: a long one, or one of several lines, as a digest."""
    if len(text) <= _LONGEST_VALUE and text.isprintable():
        return text
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _value_of(payload: Mapping[str, Any], path: str) -> str:
    value: Any = payload
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return shortened(value if isinstance(value, str) else json.dumps(value, sort_keys=True))
