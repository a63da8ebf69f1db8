"""What was looked at in vain is abandoned; what beams could have missed is tried once more."""

import numpy as np
import pytest

from app.exploration.grid import Box, Cell, GridFrame
from app.exploration.planning.goals import Goal
from app.exploration.planning.planning_map import build_planning_map
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.visits import count_visit

FRAME = GridFrame(60, 130, 0.1)
SETTINGS = PlannerSettings(sensor_range_m=16.0)  # so that what is 8 m away is viewed
FREE, WALL = -17, 24
MOST = SETTINGS.max_visits


def visits_of(
    unknown: Cell, *, viewpoint: Cell, side: int = 1, blocked: bool = False, wall: int | None = None
) -> int:
    """Count a visit for the frontier around unknown cells, a square, of a hall of 12 by 4 m."""
    evidence = np.zeros((60, 130), np.int16)
    evidence[9:51, 4:126] = WALL
    evidence[10:50, 5:125] = FREE
    evidence[unknown[0] : unknown[0] + side, unknown[1] : unknown[1] + side] = 0
    if wall is not None:
        evidence[10:50, wall] = WALL
    view = build_planning_map(evidence, np.zeros((60, 130), np.bool_), Box(9, 4, 51, 126), FRAME)
    corner = np.array((view.row0, view.col0), np.int32)
    cells = np.argwhere(view.frontier_mask).astype(np.int32) + corner
    goal = Goal(cells, viewpoint, ((6.0, 3.0),) if blocked else (), 0.2)
    visits = np.zeros(view.grid.shape, np.uint8)
    count_visit(visits, goal, view, SETTINGS)
    return int(visits.max())


@pytest.mark.parametrize(
    ("unknown", "viewpoint", "visits"),
    [
        ((30, 100), (30, 20), MOST),  # 8 m away: beams are 14 cm apart
        ((30, 60), (30, 20), MOST + 1),  # 4 m away: 7 cm
        ((49, 70), (30, 30), MOST + 1),  # at the wall, where no robot can drive
    ],
)
def test_a_cell_in_the_open_that_beams_could_miss_is_tried_again(
    unknown: Cell, viewpoint: Cell, visits: int
) -> None:
    """At the end, as what is abandoned by `MOST` visits; what was seen for certain is not."""
    assert visits_of(unknown, viewpoint=viewpoint) == visits


def test_a_robot_that_is_blocked_is_sent_once_more() -> None:
    """Nothing is abandoned before a robot has come to the stop, or was blocked twice."""
    assert visits_of((30, 60), viewpoint=(30, 20), blocked=True) == 1


@pytest.mark.parametrize(("side", "visits"), [(1, MOST), (3, 1)])
def test_a_long_rest_out_of_sight_is_worth_another_visit(side: int, visits: int) -> None:
    """Behind a wall that the map showed later, twelve cells of 10 cm are; four wait for the end."""
    assert visits_of((30, 60), viewpoint=(30, 20), side=side, wall=40) == visits
