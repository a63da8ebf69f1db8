"""How much of what the frontiers have in sight is known."""

from collections.abc import Sequence

import numpy as np

from app.exploration.driver import Point
from app.exploration.grid import OCCUPIED, UNKNOWN, Grid, GridFrame
from app.exploration.lidar import beam_angles, mark_visible

_BEAMS = 360


def coverage_in_sight(
    grid: Grid, frame: GridFrame, frontiers_left: Sequence[Point], range_m: float
) -> float:
    """Return the known area as a share of itself and the unknown area in sight of its frontiers.

    What no frontier has in sight cannot be counted, so that the share is an upper limit of the
    true coverage.
    """
    known = int(np.count_nonzero(grid != UNKNOWN))
    frontiers = [frame.cell(*point) for point in frontiers_left]
    if not known or not frontiers:
        return float(known > 0)
    seen = mark_visible(
        grid == OCCUPIED,
        np.array(frontiers, np.int64),
        beam_angles(_BEAMS),
        range_m / frame.resolution,
    )
    return known / (known + int(np.count_nonzero(seen & (grid == UNKNOWN))))
