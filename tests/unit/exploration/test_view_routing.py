"""What is left is seen from few stops, by the robots that are needed for it."""

import math

import numpy as np
import pytest

from app.exploration.driver import Pose
from app.exploration.grid import Box, GridFrame
from app.exploration.planning import view_routing
from app.exploration.planning.frontiers import Frontier, cluster_frontiers
from app.exploration.planning.goals import Goal, RobotState
from app.exploration.planning.planning_map import PlanningMap, build_planning_map
from app.exploration.planning.settings import PlannerSettings
from app.exploration.planning.view_routing import goal_at_best_pose, route_views, start_of

FRAME = GridFrame(60, 130, 0.1)
SETTINGS = PlannerSettings()
NEAR_SIGHTED = PlannerSettings(sensor_range_m=2.0)
FREE, WALL = -17, 24


def hall(
    *niches: int,
    wall: int | None = None,
    gate: bool = False,
    aisle: tuple[int, int] | None = None,
) -> tuple[PlanningMap, list[Frontier]]:
    """Draw a hall of 12 by 4 m.

    Args:
        niches: columns of unknown niches of 0.3 m in its upper wall.
        wall: column of a wall through the hall.
        gate: whether there is an unknown gate of 3.5 m in its right wall.
        aisle: columns between which an aisle of 1.5 m in the middle of the hall is unknown; its walls
            go on for 1.5 m.
    """
    evidence = np.zeros((60, 130), np.int16)
    evidence[9:51, 4:126] = WALL
    evidence[10:50, 5:125] = FREE
    for col in niches:
        evidence[50, col : col + 3] = 0
    if wall is not None:
        evidence[10:50, wall] = WALL
    if gate:
        evidence[12:47, 125] = 0
    if aisle is not None:
        evidence[[22, 38], aisle[0] - 15 : aisle[1] + 15] = WALL
        evidence[23:38, slice(*aisle)] = 0
    collisions = np.zeros((60, 130), np.bool_)
    view = build_planning_map(evidence, collisions, Box(9, 4, 51, 126), FRAME)
    return view, cluster_frontiers(view.frontier_mask, min_cells=2, max_extent=40)


def route(
    view: PlanningMap,
    frontiers: list[Frontier],
    *robots: RobotState,
    settings: PlannerSettings = SETTINGS,
) -> list[Goal | None]:
    """Plan the routes of robots."""
    return route_views(robots, frontiers, view, FRAME, settings)


def test_one_stop_views_all_niches_in_sight() -> None:
    """Five niches within two metres are one goal, and the second robot is not needed."""
    view, frontiers = hall(40, 44, 48, 52, 56)
    assert len(frontiers) == 5

    goals = route(view, frontiers, RobotState(Pose(2.0, 3.0)), RobotState(Pose(11.0, 3.0)))

    (goal,) = [goal for goal in goals if goal is not None]
    assert goal.route == ()
    assert len(goal.cells) == sum(frontier.size for frontier in frontiers)


def test_a_frontier_is_viewed_from_where_much_behind_it_is_in_range() -> None:
    """The stop for a gate is nearer to it than the range of the lidar, so that a room behind is seen."""
    view, frontiers = hall(gate=True)

    (goal,) = route(view, frontiers, RobotState(Pose(1.0, 3.0)))

    assert goal is not None
    assert goal.cells[:, 1].min() == 124
    assert 10.0 * SETTINGS.sensor_range_m - (124 - goal.target[1]) > 30


def test_niches_far_apart_are_shared() -> None:
    """Each of two robots views the end of the hall that is near it; their goals differ."""
    view, frontiers = hall(8, 118)

    goals = route(view, frontiers, RobotState(Pose(11.0, 3.0)), RobotState(Pose(2.0, 3.0)))

    assert [goal is not None and goal.target[1] > 65 for goal in goals] == [True, False]


@pytest.mark.parametrize("robots", [1, 2, 3, 5])
def test_no_two_robots_share_a_stop(robots: int) -> None:
    """However many robots there are, each stop is in one route only."""
    view, frontiers = hall(*range(8, 122, 6))
    team = [RobotState(Pose(6.0 + 0.1 * index, 3.0)) for index in range(robots)]

    goals = [goal for goal in route(view, frontiers, *team) if goal is not None]

    stops = [stop for goal in goals for stop in (goal.target, *goal.route)]
    assert goals
    assert len(set(stops)) == len(stops)


def test_stops_beside_each_other_are_viewed_from_two_places() -> None:
    """A robot does not drive to the pose that another one drives to, though it sees as much."""
    view, frontiers = hall(58)
    robot = RobotState(Pose(6.2, 3.0))
    start = start_of(robot, view, FRAME, SETTINGS)
    poses = np.array([(20, 58), (20, 59)], np.int32)

    def target(*taken: tuple[int, int]) -> tuple[int, int]:
        goal = goal_at_best_pose(
            robot.pose,
            start,
            poses,
            frontiers[0],
            route=np.zeros((0, 2), np.int32),
            taken=taken,
            view=view,
            frame=FRAME,
            settings=SETTINGS,
        )
        assert goal is not None
        return goal.target[0] - view.row0, goal.target[1] - view.col0

    assert target() == (20, 59)
    assert target((20, 59)) == (20, 58)


def test_a_robot_views_what_it_can_get_to() -> None:
    """Of two robots with a wall between them, each gets the niche on its own side."""
    view, frontiers = hall(20, 100, wall=65)

    goals = route(view, frontiers, RobotState(Pose(11.0, 3.0)), RobotState(Pose(2.0, 3.0)))
    alone = route(view, frontiers, RobotState(Pose(2.0, 3.0)))

    assert [goal is not None and goal.target[1] > 65 for goal in goals] == [True, False]
    assert alone[0] is not None
    assert alone[0].route == ()


def test_a_boxed_in_robot_backtracks_to_its_stop() -> None:
    """A robot that its map shut in drives back along its track, and then to the stop."""
    view, frontiers = hall(100, wall=12)
    track = ((6.0, 3.0), (3.0, 3.0), (0.8, 3.0))

    goals = route(view, frontiers, RobotState(Pose(0.8, 3.0), track=track))

    assert goals[0] is not None
    assert goals[0].path[: goals[0].backtrack] == ((3.0, 3.0),)
    assert math.dist(goals[0].path[-1], FRAME.centre(50, 101)) < 8.0


def test_what_nobody_can_see_is_left() -> None:
    """A frontier behind a closed wall is no goal, and with nothing else to do robots are idle."""
    view, frontiers = hall(100, wall=65)

    assert route(view, frontiers, RobotState(Pose(2.0, 3.0))) == [None]
    assert route(view, [], RobotState(Pose(2.0, 3.0))) == [None]


def test_a_wide_frontier_is_explored_before_the_rest() -> None:
    """One robot explores the gate of 3.5 m, though the niches are nearer; the other views them."""
    view, frontiers = hall(8, 14, 20, gate=True)

    team = [RobotState(Pose(2.0, 3.0)), RobotState(Pose(6.0, 3.0))]

    goals = route(view, frontiers, *team, settings=NEAR_SIGHTED)

    assert [goal is not None and goal.target[1] > 65 for goal in goals] == [False, True]


@pytest.mark.parametrize(
    ("x", "driven_m", "on_the_way"),
    [(3.0, 5.0, True), (3.0, 20.0, False), (8.5, 5.0, False)],
)
def test_a_niche_is_viewed_before_it_is_left_behind(
    x: float, driven_m: float, on_the_way: bool
) -> None:
    """A robot on its way to the gate turns to the niche behind it while that is near, and not little."""
    view, frontiers = hall(8, gate=True)
    robot = RobotState(Pose(x, 3.0), driven_m=driven_m)

    (goal,) = route(view, frontiers, robot, settings=NEAR_SIGHTED)

    assert goal is not None
    assert (goal.target[1] < 10.0 * x) is on_the_way
    assert (goal.route == ()) is not on_the_way  # the gate comes after the niche


@pytest.mark.parametrize("robots", [1, 2, 8])
def test_each_robot_raises_the_price_of_detours(
    robots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a tenth: the more robots pass, the more is seen in passing."""
    view, frontiers = hall(8, gate=True)
    prices: list[float] = []

    def spy(*_: object, price: float, driven_m: float) -> list[object]:
        prices.append(price)
        return []

    monkeypatch.setattr(view_routing, "best_detours", spy)
    route(view, frontiers, *[RobotState(Pose(3.0 + 0.5 * at, 3.0)) for at in range(robots)])

    assert prices == [pytest.approx((1.0 + 0.1 * robots) * SETTINGS.detour_price)]


@pytest.mark.parametrize(("other_x", "alone"), [(11.0, True), (7.0, False)])
def test_two_ends_of_a_short_aisle_are_work_for_one(other_x: float, alone: bool) -> None:
    """A robot that stands before an aisle explores it to its end, unless another is near that."""
    view, frontiers = hall(aisle=(30, 40))
    assert len(frontiers) == 2
    team = [RobotState(Pose(2.2, 3.0)), RobotState(Pose(other_x, 3.0))]

    goals = route(view, frontiers, *team, settings=NEAR_SIGHTED)

    assert goals[0] is not None
    assert (goals[1] is None) is alone


def test_robots_on_their_way_share_no_stop() -> None:
    """Two robots drive to the two halves of a gate and view different niches first."""
    view, frontiers = hall(8, 20, 32, gate=True)
    halves = [frontier for frontier in frontiers if frontier.cells[0, 1] < 100]
    gate = next(frontier.cells for frontier in frontiers if frontier.cells[0, 1] > 100)
    halves += [Frontier(gate[: len(gate) // 2]), Frontier(gate[len(gate) // 2 :])]
    team = [RobotState(Pose(2.0, 2.5)), RobotState(Pose(2.5, 3.5))]
    settings = PlannerSettings(sensor_range_m=1.0)

    goals = [goal for goal in route(view, halves, *team, settings=settings) if goal is not None]

    stops = [stop for goal in goals for stop in (goal.target, *goal.route)]
    assert len(goals) == len(team)
    assert len(stops) > len(team)
    assert len(set(stops)) == len(stops)


def test_a_robot_does_not_take_the_stop_that_another_one_keeps() -> None:
    """One place sees the gate, to which one robot drives, and the niche that is left for the other."""
    view, frontiers = hall(118, gate=True)
    settings = PlannerSettings(sensor_range_m=1.2)
    niche = [frontier for frontier in frontiers if frontier.cells[0, 1] < 122]
    gate = next(frontier for frontier in frontiers if frontier.cells[0, 1] > 122)
    free = RobotState(Pose(12.1, 1.6))
    (alone,) = route(view, niche, free, settings=settings)
    assert alone is not None
    kept = Goal(gate.cells, alone.target, (), settings.radius)
    other = RobotState(Pose(*FRAME.centre(alone.target[0] - 4, alone.target[1] - 4)), kept)

    goals = route(view, frontiers, free, other, settings=settings)

    targets = [goal.target for goal in goals if goal is not None]
    assert targets[1] == alone.target
    assert targets[0] != alone.target


def test_a_robot_keeps_to_its_way() -> None:
    """Planned again at each step, a robot between two ends goes on to the end that it chose."""
    view, frontiers = hall(8, 118)
    robot = RobotState(Pose(6.5, 3.0))
    chosen = []

    for _ in range(20):
        (goal,) = route(view, frontiers, robot)
        assert goal is not None
        chosen.append(goal.target)
        if math.dist(goal.path[-1], (robot.pose.x, robot.pose.y)) < 0.5:
            break
        ahead = goal.path[0]
        x, y = robot.pose.x, robot.pose.y
        share = min(0.4 / math.dist((x, y), ahead), 1.0)
        robot = RobotState(Pose(x + share * (ahead[0] - x), y + share * (ahead[1] - y)), goal)

    assert len(set(chosen)) == 1


def test_a_robot_turns_round_for_a_much_shorter_plan() -> None:
    """A robot that was sent to the far end takes the near one first, if that saves the way back."""
    view, frontiers = hall(8, 118)
    far = route(view, frontiers, RobotState(Pose(9.5, 3.0)))[0]
    assert far is not None
    assert far.target[1] > 65

    (goal,) = route(view, frontiers, RobotState(Pose(2.0, 3.0), far))

    assert goal is not None
    assert goal.target[1] < 65
