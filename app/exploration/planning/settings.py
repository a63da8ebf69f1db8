"""All numbers that decide how a team explores."""

import math
from dataclasses import dataclass

_RANGE_SHARE = 0.55  # of the range: from the end of it a robot sees nothing behind a frontier
_SURE_BEAMS = 1.5  # largest angle between beams, in widths of a cell, at which a cell is seen


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """How a team explores.

    Attributes:
        radius: robot radius, metres.
        speed: robot speed, metres per second; it determines the time of the barriers.
        round_min_s: shortest time between two barriers.
        round_max_s: longest time between two barriers.
        reassign_s: longest time between two assignments of goals.
        idle_s: the same, while a robot has no goal.
        frontier_min_m: shorter frontiers are ignored, as gaps between beams.
        frontier_max_m: longer frontiers are halved, so that several robots can share them.
        retry_gain_m2: newly known area that justifies another retry of abandoned frontiers.
        max_visits: visits after which an unchanged frontier cell is abandoned.
        visit_spread_m: distance around an unchanged cell within which a visit counts, because
            cells of a redrawn map may shift.
        sensor_range_m: range of the lidar, metres.
        open_frontier_m: extent from which a frontier may hide a room, and is explored first.
        detour_price: metres of way back that each metre of a detour to other frontiers has to save, if
            the way to all of them is as long as what the team has driven. With half that way it is
            four times as much; it is a tenth more for each robot.
        beam_spacing_rad: angle between two beams of the lidar, radians; it limits the distance from
            which a robot sees a single cell for certain.
    """

    radius: float = 0.2
    speed: float = 0.5
    round_min_s: float = 1.0
    round_max_s: float = 4.0
    reassign_s: float = 20.0
    idle_s: float = 5.0
    frontier_min_m: float = 0.2
    frontier_max_m: float = 4.0
    retry_gain_m2: float = 0.25
    max_visits: int = 2
    visit_spread_m: float = 0.0
    sensor_range_m: float = 8.0
    beam_spacing_rad: float = math.radians(1.0)
    open_frontier_m: float = 1.0
    detour_price: float = 1.8

    def view_reach(self, resolution: float) -> int:
        """Return the distance from which a frontier is viewed at most, cells.

        Up to there a robot sees a single cell for certain, and sees far behind the frontier.
        """
        sure = _SURE_BEAMS / self.beam_spacing_rad
        return max(1, math.floor(min(sure, _RANGE_SHARE * self.sensor_range_m / resolution)))


DEFAULT_SETTINGS = PlannerSettings()

UNKNOWN_POSE_SETTINGS = PlannerSettings(radius=0.22, frontier_min_m=0.4, visit_spread_m=0.15)
"""For maps drawn at estimated poses: a margin for their errors, and no short frontiers, most of
which are artefacts of those errors."""
