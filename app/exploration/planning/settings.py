"""How a team explores: every number of its judgement in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """How a team explores.

    Attributes:
        radius: of a robot, metres.
        speed: of a robot, metres a second; sets the barriers.
        round_min_s: shortest time between two barriers.
        round_max_s: longest time between two barriers.
        reassign_s: goals are weighed anew at least so often.
        idle_s: and so often while a robot has nothing to do.
        frontier_least_m: shorter frontiers are left alone, as gaps between beams.
        frontier_longest_m: longer ones are halved for several robots.
        look_m: how close a robot goes to a frontier's cell.
        look_far_m: at the end, how far away it looks at what it cannot get near.
        retry_m2: a last round that taught so much is followed by another.
        visits: so many visits that leave a frontier cell as it was give it up.
        visit_spread_m: and so far around it, for maps that are drawn anew shift by a cell.
        gain: metres of way that a metre of frontier is worth.
        gain_longest_m: a longer frontier is worth no more.
        view_gain: metres of way that a square metre of unknown ground in its sight is worth.
        view_gain_most: more of it is worth no more than so many metres.
        keep_m: metres of way that a robot's present goal is worth.
        divide_m: metres of way that a first goal square to the robot's own direction costs.
        near_m: way that is searched before the whole map is.
        discount_m: metres of way by which a frontier beside a chosen one is worth less, by
            Burgard's assignment; 0 for the Hungarian one.
        sight_m: how far a robot sees: so far from a chosen frontier nothing is worth less, and
            unknown ground so far from a frontier is no gain.
        help_m: metres of way that a robot without a frontier goes further for one that fewer
            robots are at; 0 to have it stand.
        help_back_m: metres before the place to look from at which it stops.
    """

    radius: float = 0.2
    speed: float = 0.5
    round_min_s: float = 1.0
    round_max_s: float = 4.0
    reassign_s: float = 20.0
    idle_s: float = 5.0
    frontier_least_m: float = 0.2
    frontier_longest_m: float = 4.0
    look_m: float = 0.5
    look_far_m: float = 7.5
    retry_m2: float = 0.25
    visits: int = 2
    visit_spread_m: float = 0.0
    gain: float = 2.0
    gain_longest_m: float = 6.0
    view_gain: float = 1.0
    view_gain_most: float = 20.0
    keep_m: float = 4.0
    divide_m: float = 4.0
    near_m: float = 12.0
    discount_m: float = 8.0
    sight_m: float = 8.0
    help_m: float = 3.0
    help_back_m: float = 1.0


DEFAULTS = Settings()
