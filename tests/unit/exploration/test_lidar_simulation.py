"""The simulated lidar is as accurate as its data sheet states."""

import numpy as np

from app.exploration.grid import GridFrame
from app.exploration.lidar import LidarSpec, beam_angles
from app.exploration.simulation.lidar_simulation import LDS_02, simulate_scan

FRAME = GridFrame(200, 200, 0.05)
AT = (5.025, 5.025)


def room(half: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Draw a square room around the centre, with walls at a distance in cells."""
    blocked = np.ones((200, 200), np.bool_)
    blocked[100 - half : 101 + half, 100 - half : 101 + half] = False
    return blocked


def turn(half: int, spec: LidarSpec, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Simulate one turn in the centre of the room."""
    random = np.random.default_rng(seed)
    return simulate_scan(
        room(half), FRAME, AT, beam_angles(spec.beams), spec=spec, random=random, chord_share=0.0
    )


def test_noise_grows_with_the_range() -> None:
    """At 4 m the standard deviation is 1 % of the range, as the data sheet states."""
    truth = turn(80, LidarSpec(range_noise=0.0))

    off = np.concatenate([(turn(80, LDS_02, seed) - truth) / truth for seed in range(20)])

    assert abs(np.nanstd(off) / 0.01 - 1.0) < 0.1


def test_some_beams_fail() -> None:
    """The share of failed beams is the stated one."""
    failed = np.mean([np.isnan(turn(80, LDS_02, seed)).mean() for seed in range(40)])

    assert abs(failed - 0.02) < 0.005


def test_near_walls_give_no_reading() -> None:
    """Walls within the minimum range are not seen at all."""
    near = turn(1, LidarSpec(min_range=0.16, range_noise=0.0))

    assert np.isnan(near).all()
