"""The cost of one lidar scan, in CPU time of one core: the minimum of many repetitions."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from app.exploration.grid import FREE, GridFrame
from app.exploration.lidar import beam_angles, cast_rays, integrate
from app.exploration.simulation.halls_and_caves import draw_hall

_REPEATS = 40
_SCANS = 50


def least(scan: Callable[[], object]) -> float:
    """Return microseconds of CPU for one scan, the minimum of the means of many batches."""
    best = np.inf
    for _ in range(_REPEATS):
        began = time.process_time()
        for _ in range(_SCANS):
            scan()
        best = min(best, (time.process_time() - began) / _SCANS)
    return 1e6 * float(best)


def main() -> None:
    """Write the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    grid = draw_hall(0, width=24.5, height=24.5).grid[:500, :500]
    frame, blocked = GridFrame(500, 500, 0.05), np.ascontiguousarray(grid != FREE)
    evidence = np.zeros((500, 500), np.int8)
    rows, cols = np.nonzero(~blocked)
    middle = int(np.argmin(np.hypot(rows - 250, cols - 250)))
    at = frame.centre(int(rows[middle]), int(cols[middle]))
    angles = beam_angles(360, 0.001)
    ranges = cast_rays(blocked, frame, at, angles, reach=8.0)
    figures = {
        "cast_us": least(lambda: cast_rays(blocked, frame, at, angles, reach=8.0)),
        "integrate_us": least(lambda: integrate(evidence, frame, at, angles, ranges, reach=8.0)),
    }
    options.out.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
