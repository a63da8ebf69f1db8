"""The map of a whole log: SLAM over all of its scans, drawn on the smallest grid that holds them."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from app.exploration.grid import MAX_CELLS, Grid, GridFrame, bounding_box
from app.exploration.mapping.keyframes import draw_keyframes
from app.exploration.mapping.slam import SlamMap
from app.exploration.merging.evidence import occupancy
from app.exploration.se2 import between
from app.exploration.simulation.log_replay import LogError, LogRecord


def map_of_log(
    name: str, records: Sequence[LogRecord], resolution: float
) -> tuple[Grid, GridFrame]:
    """Map a log.

    Args:
        name: The log's name, for errors.
        records: The log; the map has the frame of its odometry at the first scan.
        resolution: The side of a cell, metres.

    Returns:
        (rows, cols) int8 occupancy, and where it lies.

    Raises:
        LogError: The map would have too many cells: the odometry may jump.
    """
    slam = SlamMap()
    slam.begin(records[0].scan, records[0].odometry)
    for before, after in pairwise(records):
        slam.add(after.scan, between(before.odometry, after.odometry))
    slam.solve()
    margin = max(keyframe.scan.reach for keyframe in slam.keyframes) + 1.0
    low = slam.poses[:, :2].min(axis=0) - margin
    width, height = np.ceil((slam.poses[:, :2].max(axis=0) + margin - low) / resolution)
    if width * height > MAX_CELLS:
        raise LogError(
            f"log {name}: the map would have {height:.0f} x {width:.0f} cells, {MAX_CELLS:,} are the limit; "
            "choose a coarser resolution, or look for a jump of the odometry"
        )
    frame = GridFrame(int(height), int(width), resolution, float(low[0]), float(low[1]))
    evidence = np.zeros((frame.rows, frame.cols), np.int8)
    draw_keyframes(evidence, frame, slam.keyframes, slam.poses)
    box = bounding_box(evidence)
    if box is None:
        raise LogError(f"log {name}: no scan has a valid beam")
    grid = np.ascontiguousarray(occupancy(evidence[box.slices]))
    x, y = low + np.array([box.col0, box.row0]) * resolution
    rows, cols = grid.shape
    return grid, GridFrame(rows, cols, resolution, float(x), float(y))
