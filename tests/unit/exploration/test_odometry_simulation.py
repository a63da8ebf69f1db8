"""Simulated odometry errs as specified."""

import numpy as np

from app.exploration.simulation.odometry_simulation import SMALL_BASE, OdometrySpec, WheelOdometry


def ends(steps: int, spec: OdometrySpec) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Drive one metre in some steps, many times; return the true lengths."""
    lengths = []
    for seed in range(800):
        wheels = WheelOdometry(spec, np.random.default_rng(seed))
        lengths.append(sum(wheels.move(0.0, 1.0 / steps)[1] for _ in range(steps)))
    return np.array(lengths)


def test_odometry_without_noise_is_exact() -> None:
    """Without noise the true motion is the one that the odometry shows."""
    wheels = WheelOdometry(OdometrySpec(0, 0, 0, 0, 0, 0), np.random.default_rng(0))

    assert wheels.move(0.5, 2.0) == (0.5, 2.0, 0.0)


def test_the_error_of_a_distance_does_not_depend_on_its_steps() -> None:
    """A metre has the stated standard deviation in one step or in ten."""
    spec = OdometrySpec(distance_per_metre=0.05, scale=0.0)

    for steps in (1, 10):
        assert abs(ends(steps, spec).std() / 0.05 - 1.0) < 0.1


def test_systematic_errors_are_constant() -> None:
    """A robot's heading always drifts to the same side."""
    spec = OdometrySpec(0, 0, 0, 0, scale=0.0, drift=0.05)
    wheels = WheelOdometry(spec, np.random.default_rng(5))

    turns = {wheels.move(0.0, 1.0)[2] for _ in range(5)}

    assert len(turns) == 1
    assert turns != {0.0}


def test_equal_seeds_give_equal_errors() -> None:
    """A mission can be repeated."""
    one, two = (WheelOdometry(SMALL_BASE, np.random.default_rng(9)) for _ in range(2))

    assert [one.move(0.1, 0.1) for _ in range(9)] == [two.move(0.1, 0.1) for _ in range(9)]
