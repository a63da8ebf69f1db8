"""Few stops that together see every frontier that is left: a set cover."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.exploration.grid import Cell
from app.exploration.planning.sightings import Sightings

_Indices = npt.NDArray[np.int64]


def cover(sightings: Sightings, *, keep: Sequence[Cell] = ()) -> list[tuple[int, _Indices]]:
    """Choose few poses that together see all that any pose sees: a greedy set cover.

    The greedy choice needs at most about ln(n) times as many sets as the best (Chvátal 1979).

    Args:
        sightings: which pose sees what.
        keep: cells that are chosen first if they are poses and see something new.

    Returns:
        Indices of poses, each with the indices of the targets that it was chosen for.
    """
    order = np.argsort(sightings.pose, kind="stable")
    starts = np.searchsorted(sightings.pose[order], np.arange(len(sightings.poses) + 1))
    targets = sightings.target[order]
    wanted = np.zeros(len(sightings.poses), np.int64)
    if keep:
        wanted[(sightings.poses[:, None] == np.array(keep)).all(axis=2).any(axis=1)] = 1
    chosen, owner = _greedy(starts, targets, len(sightings.targets), wanted)
    return [(int(pose), np.flatnonzero(owner == pose)) for pose in chosen]


@njit(cache=True, nogil=True)
def _greedy(
    starts: _Indices, targets: _Indices, count: int, wanted: _Indices
) -> tuple[_Indices, _Indices]:
    """Return the chosen poses, and the pose that each target was first seen from, or -1.

    Gains only fall, so a pose is counted again only while its last count is the highest.
    """
    poses = starts.size - 1
    owner = np.full(count, -1, np.int64)
    gains = starts[1:] - starts[:-1]
    chosen = np.empty(poses, np.int64)
    used = 0
    for phase in range(2):
        while True:
            best, most = -1, 0
            for pose in range(poses):
                if (phase == 1 or wanted[pose]) and gains[pose] > most:
                    fresh = 0
                    for at in range(starts[pose], starts[pose + 1]):
                        fresh += owner[targets[at]] < 0
                    gains[pose] = fresh
                    if fresh > most:
                        best, most = pose, fresh
            if best < 0:
                break
            for at in range(starts[best], starts[best + 1]):
                if owner[targets[at]] < 0:
                    owner[targets[at]] = best
            gains[best] = 0
            chosen[used] = best
            used += 1
    return chosen[:used].copy(), owner
