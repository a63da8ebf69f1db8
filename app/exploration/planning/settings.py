"""All numbers that decide how a team explores."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """How a team explores.

    Costs and gains are in metres of path, so that they can be added and compared.

    Attributes:
        radius: robot radius, metres.
        speed: robot speed, metres per second; it determines the time of the barriers.
        round_min_s: shortest time between two barriers.
        round_max_s: longest time between two barriers.
        reassign_s: longest time between two assignments of goals.
        idle_s: the same, while a robot has no goal or a standby goal.
        frontier_min_m: shorter frontiers are ignored, as gaps between beams.
        frontier_max_m: longer frontiers are halved, so that several robots can share them.
        view_distance_m: distance from a viewpoint to the frontier cell that it views.
        far_view_distance_m: the same for the last rounds, for frontiers without a near viewpoint.
        retry_gain_m2: newly known area that justifies another retry of abandoned frontiers.
        max_visits: visits after which an unchanged frontier cell is abandoned.
        visit_spread_m: distance around an unchanged cell within which a visit counts, because
            cells of a redrawn map may shift.
        length_gain: gain of a frontier, metres of path for each metre of its length.
        length_gain_max_m: frontier length above which the gain does not grow.
        view_gain: gain of a frontier, metres of path for each square metre of unknown area in
            its line of sight.
        view_gain_max_m: upper limit of that gain.
        keep_goal_m: additional gain of the robot's current goal (hysteresis).
        spread_m: cost of a first goal at a right angle to the robot's initial bearing.
        local_search_m: path length of the local search that precedes one of the whole map.
        discount_m: gain that a frontier loses next to an assigned one, in Burgard's assignment;
            0 selects the Hungarian method.
        sensor_range_m: beyond this distance from an assigned frontier nothing is discounted, and
            unknown area is not counted.
        open_frontier_m: extent from which a frontier is explored before routes are planned over
            all that is left.
        slowing_share: growth of the map per metre of the last 15 % of the way, as a share of the
            average, below which robots view small frontiers on the way.
        diminished_share: the same, below which routes are planned over all that is left.
        lasting_share: the same of the last 30 %; above it, both wait.
        detour_price: metres of way back that each metre of such a detour has to save.
        growth_window_m: shortest recent way of each robot over which that is measured, metres.
        beam_spacing_rad: angle between two beams of the lidar, radians; it limits the distance from
            which a robot sees a single cell for certain.
        standby_cost_m: cost of a standby goal for each robot that already drives to its
            frontier; 0 lets a robot without a frontier wait where it is.
        standby_distance_m: distance before the viewpoint at which a robot on standby stops.
    """

    radius: float = 0.2
    speed: float = 0.5
    round_min_s: float = 1.0
    round_max_s: float = 4.0
    reassign_s: float = 20.0
    idle_s: float = 5.0
    frontier_min_m: float = 0.2
    frontier_max_m: float = 4.0
    view_distance_m: float = 0.5
    far_view_distance_m: float = 7.5
    retry_gain_m2: float = 0.25
    max_visits: int = 2
    visit_spread_m: float = 0.0
    length_gain: float = 2.0
    length_gain_max_m: float = 6.0
    view_gain: float = 1.0
    view_gain_max_m: float = 20.0
    keep_goal_m: float = 4.0
    spread_m: float = 4.0
    local_search_m: float = 12.0
    discount_m: float = 8.0
    sensor_range_m: float = 8.0
    beam_spacing_rad: float = math.radians(1.0)
    open_frontier_m: float = 3.0
    slowing_share: float = 0.3
    diminished_share: float = 0.04
    lasting_share: float = 0.5
    detour_price: float = 3.0
    growth_window_m: float = 6.0
    standby_cost_m: float = 3.0
    standby_distance_m: float = 1.0


DEFAULT_SETTINGS = PlannerSettings()

UNKNOWN_POSE_SETTINGS = PlannerSettings(radius=0.22, frontier_min_m=0.4, visit_spread_m=0.15)
"""For maps drawn at estimated poses: a margin for their errors, and no short frontiers, most of
which are artefacts of those errors."""
