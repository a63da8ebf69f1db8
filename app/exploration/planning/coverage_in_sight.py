"""How much of what is in sight of a team is known."""

import numpy as np

from app.exploration.grid import OCCUPIED, UNKNOWN
from app.exploration.lidar import beam_angles, mark_visible
from app.exploration.planning.stop_rule import Explorer

_BEAMS = 360


def coverage_in_sight(planner: Explorer) -> float:
    """Return the known area as a share of itself and the unknown area in sight of its frontiers.

    What no frontier has in sight cannot be counted, so that the share is an upper limit of the
    true coverage.
    """
    grid, frame = planner.team_grid(), planner.frame
    known = int(np.count_nonzero(grid != UNKNOWN))
    frontiers = [frame.cell(*point) for point in planner.frontiers_left]
    if not known or not frontiers:
        return float(known > 0)
    seen = mark_visible(
        grid == OCCUPIED,
        np.array(frontiers, np.int64),
        beam_angles(_BEAMS),
        planner.settings.sensor_range_m / frame.resolution,
    )
    return known / (known + int(np.count_nonzero(seen & (grid == UNKNOWN))))
