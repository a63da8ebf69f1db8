"""Who is sent where, jointly."""

import numpy as np

from app.exploration.driver import Pose
from app.exploration.frontiers import cluster
from app.exploration.goals import Seeker, choose
from app.exploration.grid import Box, GridFrame
from app.exploration.settings import Settings
from app.exploration.survey import Survey, survey

FRAME = GridFrame(60, 60, 0.1)
FREE, WALL = -17, 24
NEAR, NEXT, FAR = 12, 23, 50  # columns of three gates in the hall's far wall


def hall(*, partition: bool) -> Survey:
    """A hall whose three gates alone lead on, with a wall between the first two or without it."""
    evidence = np.zeros((60, 60), np.int16)
    evidence[19:41, 1:59] = WALL
    evidence[20:40, 2:58] = FREE
    for gate in (NEAR, NEXT, FAR):
        evidence[40, gate - 4 : gate + 5] = 0
    if partition:
        evidence[31:41, 17] = WALL
    return survey(evidence, np.zeros((60, 60), np.bool_), Box(19, 1, 41, 59), FRAME)


def gates(view: Survey) -> list[int]:
    """Send two robots that stand before the first two gates; the columns of where they go."""
    seekers = [Seeker(Pose(x, 2.5)) for x in (1.2, 2.3)]
    frontiers = cluster(view.border, least=2, longest=40)
    settings = Settings(discount_m=8.0, discount_far_m=8.0)
    goals = choose(seekers, frontiers, view, FRAME, settings, afar=False)
    return [round(float(goal.cells[:, 1].mean())) for goal in goals if goal is not None]


def test_what_lies_beside_a_chosen_frontier_is_left_to_the_robot_that_goes_there() -> None:
    """From one gate the other's ground would be seen, too: the second robot goes further off."""
    assert gates(hall(partition=False)) == [NEAR, FAR]


def test_what_a_wall_hides_from_a_chosen_frontier_is_worth_as_much_as_before() -> None:
    """Two rooms side by side teach nothing about each other, however close they lie."""
    assert gates(hall(partition=True)) == [NEAR, NEXT]
