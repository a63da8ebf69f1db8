"""Path lengths between many places at once, on a map of coarser cells.

One distance field for each place would take seconds on the map's own cells. A coarse cell counts
as passable if any of its cells is, so that no narrow passage is lost. A wall cannot vanish: the
cells around it, where a robot does not fit, are wider than a coarse cell.
"""

import math
import os
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache

import numpy as np

from app.exploration.grid import Cells, Mask
from app.exploration.planning.min_max_routes import Metres
from app.exploration.shortest_paths import STRAIGHT, UNREACHED, DistanceField, distance_field

_COARSE_M = 0.2


class CoarseMap:
    """Passable cells in blocks.

    Args:
        passable: (rows, cols) bool.
        resolution: metres per cell.
    """

    def __init__(self, passable: Mask, resolution: float) -> None:
        self._size = max(1, round(_COARSE_M / resolution))
        self._metres = self._size * resolution / STRAIGHT
        rows, cols = (math.ceil(length / self._size) for length in passable.shape)
        padded = np.zeros((rows * self._size, cols * self._size), np.bool_)
        padded[: passable.shape[0], : passable.shape[1]] = passable
        blocks = padded.reshape(rows, self._size, cols, self._size)
        self._passable: Mask = np.asarray(blocks.any(axis=(1, 3)))

    def distances(self, sources: Cells, targets: Cells, threads: Executor) -> Metres:
        """Return path lengths, (sources, targets) metres, infinite without a path.

        Args:
            sources: (n, 2) int32, rows and columns of the map's own cells.
            targets: (m, 2) int32, the same.
            threads: where the fields are computed.
        """
        rows, cols = (targets // self._size).T

        def from_one(cell: Cells) -> DistanceField:
            field = distance_field(self._passable, (int(cell[0]), int(cell[1])))
            costs: DistanceField = field[rows, cols]
            return costs

        fields = threads.map(from_one, sources // self._size)
        costs = np.array(list(fields), np.int32).reshape(len(sources), len(targets))
        return np.where(costs == UNREACHED, np.inf, costs * self._metres)


@cache
def route_threads() -> ThreadPoolExecutor:
    """Return a pool of one thread per core; the search for routes releases the GIL."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="routes")


# A forked child does not inherit the threads: it makes its own pool.
os.register_at_fork(after_in_child=route_threads.cache_clear)
