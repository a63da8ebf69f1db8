"""When an exploration has found enough, though more could be reached."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self, cast, get_args

from app.exploration.driver import Order, Point
from app.exploration.grid import Grid, GridFrame
from app.exploration.planning.settings import PlannerSettings

Kind = Literal["everything", "coverage", "frontier", "time", "battery"]

# The largest value of each rule.
_MOST: dict[str, float] = {"coverage": 1.0, "frontier": 100.0, "time": 1e7, "battery": 100.0}
_FORMS = (
    "everything, coverage:SHARE (0 to 1), frontier:METRES (up to 100), "
    "time:SECONDS, or battery:PERCENT (up to 100)"
)


class BadStopRule(ValueError):
    """A stop rule is not one of the forms that exist, or its number is out of range."""


class Explorer(Protocol):
    """What a stop rule asks a planner."""

    frame: GridFrame
    settings: PlannerSettings

    @property
    def time(self) -> float:
        """Mission seconds at the last barrier."""
        ...

    @property
    def frontiers_left(self) -> list[Point]:
        """A point of each frontier on the team's map, metres, map frame."""
        ...

    def team_grid(self) -> Grid:
        """Return the team's map."""
        ...


@dataclass(frozen=True, slots=True)
class StopRule:
    """When to stop, as `--until` states it.

    Attributes:
        kind: `everything`: when no frontier can be reached. `coverage`: when the known area is this
            share of itself and the unknown area in sight of the frontiers. `frontier`: when no
            frontier is as long as this, metres. `time`: at this mission second. `battery`: when
            the first robot's charge is down to this, percent.
        value: the number after the colon; 0 for `everything`.
    """

    kind: Kind = "everything"
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a stop rule such as `coverage:0.95`.

        Raises:
            BadStopRule: the text has another form, or its number is out of range.
        """
        kind, colon, number = text.partition(":")
        if text == "everything":
            return cls()
        if kind not in get_args(Kind) or not colon or kind == "everything":
            raise BadStopRule(f"until: {text!r:.60} is no stop rule; give {_FORMS}")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0.0 < value <= _MOST[kind]:
            raise BadStopRule(f"until: {number!r:.30} is no number for {kind}; give {_FORMS}")
        return cls(cast("Kind", kind), value)

    def apply_to(self, settings: PlannerSettings) -> PlannerSettings:
        """Return settings with which a planner ignores what this rule does not ask for."""
        if self.kind != "frontier":
            return settings
        return replace(settings, frontier_min_m=max(settings.frontier_min_m, self.value))

    def limit(self, orders: Mapping[int, Order]) -> dict[int, Order]:
        """Return orders that do not go beyond the time of this rule."""
        if self.kind != "time":
            return dict(orders)
        return {
            slot: replace(order, until=min(order.until, self.value))
            for slot, order in orders.items()
        }

    def is_met(self, planner: Explorer, charges: Sequence[float] = ()) -> bool:
        """Return whether a team has found enough.

        Args:
            planner: its planner.
            charges: the charge of each robot that takes part, percent.
        """
        if self.kind == "time":
            return planner.time >= self.value
        if self.kind == "battery":
            return min(charges, default=100.0) <= self.value
        if self.kind == "coverage":
            # Here, because each command imports this module, but few missions need the compiler.
            from app.exploration.planning.frontiers import (  # noqa: PLC0415
                coverage_in_sight,
            )

            seen = coverage_in_sight(
                planner.team_grid(),
                planner.frame,
                planner.frontiers_left,
                planner.settings.sensor_range_m,
            )
            return seen >= self.value
        return False


EVERYTHING = StopRule()
"""The default: explore all that can be reached."""
