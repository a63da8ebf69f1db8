"""When robots that do not know of each other compare their maps, and how they explore meanwhile."""

from dataclasses import dataclass, field

from app.exploration.merging.registration import Gate
from app.exploration.planning.settings import Settings

SETTINGS = Settings(radius=0.22, frontier_least_m=0.4, visit_spread_m=0.15)
"""How robots explore whose maps err a little: some room for that, and no chase after slivers."""


@dataclass(frozen=True, slots=True)
class MeetingSpec:
    """When maps are registered with each other.

    Attributes:
        first_s: mission seconds before the first attempt.
        every_s: mission seconds between attempts.
        growth: a pair is tried again when both together know so many times more than last time.
        gate: what a registration must show.
    """

    first_s: float = 12.0
    every_s: float = 8.0
    growth: float = 1.25
    gate: Gate = field(default_factory=Gate)


MEETING = MeetingSpec()
