"""Wheels that err as they are told to."""

import numpy as np

from app.exploration.simulation.odometry_simulation import SMALL_BASE, OdometrySpec, WheelOdometry


def ends(steps: int, spec: OdometrySpec) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Drive one metre in some steps, many times; return the lengths that came of it."""
    lengths = []
    for seed in range(800):
        wheels = WheelOdometry(spec, np.random.default_rng(seed))
        lengths.append(sum(wheels.move(0.0, 1.0 / steps)[1] for _ in range(steps)))
    return np.array(lengths)


def test_perfect_wheels_do_what_they_say() -> None:
    """Without noise the motion is the one that the odometry shows."""
    wheels = WheelOdometry(OdometrySpec(0, 0, 0, 0, 0, 0), np.random.default_rng(0))

    assert wheels.move(0.5, 2.0) == (0.5, 2.0, 0.0)


def test_the_error_of_a_way_does_not_depend_on_its_steps() -> None:
    """A metre has the stated spread whether it is driven at once or in ten pieces."""
    spec = OdometrySpec(distance_per_metre=0.05, scale=0.0)

    for steps in (1, 10):
        assert abs(ends(steps, spec).std() / 0.05 - 1.0) < 0.1


def test_a_robot_keeps_its_own_error() -> None:
    """What its calibration left pulls a robot to the same side again and again."""
    spec = OdometrySpec(0, 0, 0, 0, scale=0.0, drift=0.05)
    wheels = WheelOdometry(spec, np.random.default_rng(5))

    turns = {wheels.move(0.0, 1.0)[2] for _ in range(5)}

    assert len(turns) == 1
    assert turns != {0.0}


def test_equal_seeds_err_equally() -> None:
    """A mission can be repeated."""
    one, two = (WheelOdometry(SMALL_BASE, np.random.default_rng(9)) for _ in range(2))

    assert [one.move(0.1, 0.1) for _ in range(9)] == [two.move(0.1, 0.1) for _ in range(9)]
