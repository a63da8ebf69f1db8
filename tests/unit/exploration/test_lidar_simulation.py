"""A lidar that is as good as its data sheet, and no better."""

import numpy as np

from app.exploration.grid import GridFrame
from app.exploration.lidar import LidarSpec, beam_angles
from app.exploration.simulation.lidar_simulation import LDS_02, simulate_scan

FRAME = GridFrame(200, 200, 0.05)
AT = (5.025, 5.025)


def room(half: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """A square room around the middle, walls so many cells away."""
    blocked = np.ones((200, 200), np.bool_)
    blocked[100 - half : 101 + half, 100 - half : 101 + half] = False
    return blocked


def turn(half: int, spec: LidarSpec, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One turn in the middle of the room."""
    random = np.random.default_rng(seed)
    return simulate_scan(room(half), FRAME, AT, beam_angles(spec.beams), spec=spec, random=random)


def test_noise_grows_with_the_range() -> None:
    """At 4 m the spread is 1 % of the range, as taken from the data sheet."""
    truth = turn(80, LidarSpec(range_noise=0.0))

    off = np.concatenate([(turn(80, LDS_02, seed) - truth) / truth for seed in range(20)])

    assert abs(np.nanstd(off) / 0.01 - 1.0) < 0.1


def test_some_beams_fail() -> None:
    """The share of beams without reading is the stated one."""
    failed = np.mean([np.isnan(turn(80, LDS_02, seed)).mean() for seed in range(40)])

    assert abs(failed - 0.02) < 0.005


def test_what_is_too_near_gives_no_reading() -> None:
    """Walls within the least range are not seen at all."""
    near = turn(1, LidarSpec(min_range=0.16, range_noise=0.0))

    assert np.isnan(near).all()
