"""Robots out of reach explore for themselves, and nothing is lost when they meet."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from app.exploration.driver import Pose
from app.exploration.grid import UNKNOWN
from app.exploration.planning.radio_planner import RadioPlanner
from app.exploration.planning.radio_spec import DEFAULT_RADIO, RadioSpec
from app.exploration.planning.settings import PlannerSettings
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.halls_and_caves import draw_hall
from app.exploration.simulation.radio import DistanceRadio, PerfectRadio
from app.exploration.simulation.simulate import simulate
from app.exploration.simulation.simulate_radio import simulate_radio
from app.exploration.simulation.simulated_robot import RobotSpec, SimulatedRobot
from app.exploration.simulation.start_poses import start_poses

HALL = draw_hall(1)
SLOW = PlannerSettings(speed=0.05, round_min_s=10.0, round_max_s=40.0)
"""A tenth of the speed: ten minutes alone, in as many barriers as one minute."""


class Mission:
    """A team with a radio that the test switches."""

    def __init__(self, robots: int, *, spec: RadioSpec = DEFAULT_RADIO) -> None:
        starts = start_poses(HALL, robots, 2)
        self.apart = False
        robot_spec = RobotSpec(speed=SLOW.speed)
        self.team = [
            SimulatedRobot(HALL, slot=slot, seed=2, spec=robot_spec) for slot in range(robots)
        ]
        self.planner = RadioPlanner(HALL.frame, starts, self._groups, SLOW, radio=spec)
        for slot, pose in enumerate(starts):
            self.planner.observe(slot, self.team[slot].deploy(pose))

    def _groups(self, poses: Sequence[Pose]) -> list[list[int]]:
        slots = list(range(len(poses)))
        return [slots[:-1], slots[-1:]] if self.apart and len(poses) > 1 else [slots]

    def step(self) -> bool:
        """Drive to the next barrier; return whether anything is left to explore."""
        orders = self.planner.decide()
        for slot, order in orders.items():
            self.planner.observe(slot, self.team[slot].drive(order.path, order.until))
        return bool(orders)

    def drive_until(self, is_reached: Callable[[], bool]) -> None:
        """Drive until a condition holds."""
        while not is_reached():
            assert self.step()


def known_to_any(planner: RadioPlanner) -> int:
    """Return how many cells any robot has seen."""
    return int(np.count_nonzero(np.any([layer != 0 for layer in planner.layers()], axis=0)))


def known_together(planner: RadioPlanner) -> int:
    """Return how many cells the group that knows most knows."""
    return int(np.count_nonzero(planner.team_grid() != UNKNOWN))


def test_a_perfect_radio_changes_nothing() -> None:
    """With a radio that reaches everywhere a mission is the same as without the model."""
    floor = draw_rooms(4)
    starts = start_poses(floor, 2, 3)

    found = simulate_radio(floor, starts, 3, PerfectRadio())

    assert found.seconds == simulate(floor, 2, 3).seconds
    assert found.coverage == 1.0
    assert found.largest_gap_s == 0.0


def test_a_robot_that_was_alone_for_ten_minutes_is_merged_without_loss() -> None:
    """What each knew is known to both after they meet, and what was seen alone is on the map."""
    mission = Mission(3)
    mission.drive_until(lambda: mission.planner.time > 60.0)
    mission.apart = True
    mission.drive_until(lambda: mission.planner.time > 760.0)
    alone = known_together(mission.planner)
    assert mission.planner.groups == [[0, 1], [2]]
    assert known_to_any(mission.planner) > alone
    assert mission.planner.ages[2] > 600.0

    mission.apart = False
    mission.step()

    assert mission.planner.groups == [[0, 1, 2]]
    assert known_together(mission.planner) >= known_to_any(mission.planner)
    assert mission.planner.ages == [0.0] * 3
    assert mission.planner.out_of_reach == {}
    assert mission.planner.meetings == 1
    assert len(mission.planner.paths[2]) > 2


def test_orders_that_cannot_be_delivered_have_a_name_and_a_time() -> None:
    """The robot is named with the time at which it counts as missing, and is not lost."""
    mission = Mission(2, spec=RadioSpec(missing_after_s=300.0))
    mission.drive_until(lambda: mission.planner.time > 60.0)
    heard = mission.planner.time
    assert mission.planner.out_of_reach == {}

    mission.apart = True
    mission.drive_until(lambda: mission.planner.time > 200.0)

    ((slot, absent),) = mission.planner.out_of_reach.items()
    assert heard <= absent.heard_s <= heard + SLOW.round_max_s
    assert absent.missing_at_s == absent.heard_s + 300.0
    assert slot in mission.planner.active


@pytest.mark.parametrize("shares", [True, False])
def test_each_group_can_finish_alone(shares: bool) -> None:
    """Robots that never hear one another again still explore everything, each for itself."""
    floor = draw_rooms(4)
    starts = start_poses(floor, 2, 3)

    found = simulate_radio(floor, starts, 3, DistanceRadio(0.0), spec=RadioSpec(shares=shares))

    assert found.coverage == 1.0
    assert found.known_s <= found.seconds
    assert found.largest_gap_s > 0.0


def test_what_is_left_to_a_lost_robot_is_explored() -> None:
    """A robot that is lost out of reach leaves nothing unexplored."""
    starts = start_poses(HALL, 3, 2)

    found = simulate_radio(HALL, starts, 2, DistanceRadio(6.0), lost={1: 40.0, 2: 60.0})

    assert found.coverage > 0.99


def test_a_recovered_planner_knows_what_the_robots_know() -> None:
    """Each robot starts with its own map; those that hear one another join at once."""
    mission = Mission(3)
    mission.drive_until(lambda: mission.planner.time > 200.0)
    before, known = mission.planner, known_to_any(mission.planner)

    recovered = RadioPlanner.recover(HALL.frame, before.state(), {}, before.hear, SLOW)

    assert recovered.groups == [[0], [1], [2]]
    assert known_to_any(recovered) == known
    assert known_together(recovered) < known
    assert recovered.decide()
    assert recovered.groups == [[0, 1, 2]]
    assert known_together(recovered) >= known
    assert recovered.distances == pytest.approx(before.distances)


def test_the_callers_mistakes_are_errors() -> None:
    """A robot that has not reported, or was removed, is named."""
    mission = Mission(2)
    mission.planner.decide()

    with pytest.raises(ValueError, match=r"robots \[0, 1\] have not reported"):
        mission.planner.decide()
    mission.planner.remove(1)
    report = mission.team[1].recall()
    with pytest.raises(ValueError, match="takes no part"):
        mission.planner.observe(1, report)
    mission.planner.observe(0, mission.team[0].recall())
    assert mission.planner.decide().keys() == {0}
    assert mission.planner.active == [0]
