"""Distances on a coarse map are those of the real one, roughly."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from app.exploration.planning.stop_distances import CoarseMap


def test_the_way_leads_round_a_wall_and_through_a_door_of_one_cell() -> None:
    """A narrow door is not lost, a wall does not leak, and what is closed is not reached."""
    passable = np.ones((101, 103), np.bool_)
    passable[:, 48:56] = False
    passable[90, 48:56] = True
    passable[:, 90:98] = False
    cells = np.array([(10, 20), (10, 80), (10, 100)], np.int32)

    with ThreadPoolExecutor(2) as threads:
        metres = CoarseMap(passable, 0.05).distances(cells, cells, threads)

    straight = np.hypot(80, 28) * 0.05 + np.hypot(80, 28) * 0.05
    assert np.diag(metres).tolist() == [0, 0, 0]
    assert straight * 0.9 < metres[0, 1] < straight * 1.2
    assert np.isinf(metres[0, 2])
    assert metres[0, 1] == metres[1, 0]
