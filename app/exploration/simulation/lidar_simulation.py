"""A simulated lidar: true ranges, and the noise, failures and limits of a real device."""

import numpy as np

from app.exploration.grid import GridFrame, Mask
from app.exploration.lidar import Floats, LidarSpec, cast_rays

LDS_02 = LidarSpec(
    beams=360,
    max_range=8.0,
    range_noise=0.0033,
    noise_share=0.01,
    min_range=0.16,
    dropout=0.02,
    rate_hz=5.0,
)
"""The LDS-02 of the TurtleBot3: 0.16 to 8 m, 1 degree, 5 Hz; its stated accuracy (10 mm below
0.3 m, 3 % above) taken as three standard deviations. The share of failed beams is an assumption.
https://emanual.robotis.com/docs/en/platform/turtlebot3/appendix_lds_02/"""


def simulate_scan(
    blocked: Mask,
    frame: GridFrame,
    at: tuple[float, float],
    angles: Floats,
    *,
    spec: LidarSpec,
    random: np.random.Generator,
    chord_share: float,
) -> Floats:
    """Simulate one turn of a lidar.

    Args:
        blocked: (rows, cols) bool, cells that stop a ray.
        frame: the grid's frame.
        at: (x, y) in metres, map frame.
        angles: (beams,) float64, radians, map frame.
        spec: the lidar.
        random: the only source of randomness.
        chord_share: share of a ray's chord through a cell at which its range ends, see `cast_rays`.

    Returns:
        (beams,) float64 metres, infinite for a beam without return, NaN for a failed one.

    Raises:
        ValueError: the point lies outside the grid.
    """
    ranges = cast_rays(blocked, frame, at, angles, reach=spec.max_range, chord_share=chord_share)
    noise = random.standard_normal(len(angles))
    returned = np.isfinite(ranges)
    sigma = np.maximum(spec.range_noise, spec.noise_share * ranges[returned])
    ranges[returned] = np.maximum(ranges[returned] + noise[returned] * sigma, 0.0)
    failed = ranges < spec.min_range
    if spec.dropout > 0.0:
        failed |= random.random(len(angles)) < spec.dropout
    ranges[failed] = np.nan
    return ranges
