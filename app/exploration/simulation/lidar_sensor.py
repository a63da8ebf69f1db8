"""What a lidar says where it stands: true ranges, and what a real device makes of them."""

from dataclasses import dataclass

import numpy as np

from app.exploration.grid import GridFrame, Mask
from app.exploration.lidar import Floats, cast_rays


@dataclass(frozen=True, slots=True)
class LidarSpec:
    """A lidar.

    Attributes:
        beams: beams of one turn.
        max_range: metres; a beam that meets nothing within it returns infinity.
        range_noise: standard deviation of a range, metres.
        noise_share: likewise, as a share of the range; the larger of the two holds.
        min_range: metres; nearer things give no reading.
        dropout: share of the beams that fail by chance.
        rate_hz: turns a second.
    """

    beams: int = 360
    max_range: float = 8.0
    range_noise: float = 0.01
    noise_share: float = 0.0
    min_range: float = 0.0
    dropout: float = 0.0
    rate_hz: float = 5.0


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


def measure(
    blocked: Mask,
    frame: GridFrame,
    at: tuple[float, float],
    angles: Floats,
    *,
    spec: LidarSpec,
    random: np.random.Generator,
) -> Floats:
    """Take one turn of a lidar.

    Args:
        blocked: (rows, cols) bool, cells that stop a ray.
        frame: the grid's frame.
        at: (x, y) in metres, map frame.
        angles: (beams,) float64, radians, map frame.
        spec: the lidar.
        random: the only source of chance.

    Returns:
        (beams,) float64 metres, infinite for a beam that met nothing, NaN for one that failed.

    Raises:
        ValueError: the point lies outside the grid.
    """
    ranges = cast_rays(blocked, frame, at, angles, reach=spec.max_range)
    noise = random.standard_normal(len(angles))
    there = np.isfinite(ranges)
    spread = np.maximum(spec.range_noise, spec.noise_share * ranges[there])
    ranges[there] = np.maximum(ranges[there] + noise[there] * spread, 0.0)
    failed = ranges < spec.min_range
    if spec.dropout > 0.0:
        failed |= random.random(len(angles)) < spec.dropout
    ranges[failed] = np.nan
    return ranges
