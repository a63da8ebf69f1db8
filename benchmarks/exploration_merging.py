"""Registrations of pairs of maps with unknown relative pose: figures for each, right or wrong."""

import argparse
import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
from exploration_floors import real_floors
from exploration_pairs import Pair, pairs_of

from app.exploration.grid import FloorMap
from app.exploration.merging.registration import DEFAULT_GATE, register
from app.exploration.se2 import apply, wrap
from app.exploration.simulation.floor_plans import draw_office
from app.exploration.simulation.halls_and_caves import draw_cave, draw_hall

# The maps, and the seeds of each kind of drawn floor, by metres a cell. Seeds 200 to 205 and 300 to
# 305 were tests of earlier gates.
_FLOORS: dict[str, tuple[list[str], dict[float, list[int]]]] = {
    "fix": (
        ["depot"],
        {
            0.05: [*range(100, 106), *range(200, 206), *range(400, 420)],
            0.1: [*range(430, 433)],
            0.03: [*range(433, 436)],
        },
    ),
    "test": (["warehouse", "willow-full"], {0.05: [*range(500, 506)]}),
}


def floors_for(use: str, folder: Path) -> dict[str, FloorMap]:
    """Return the floors for one use: the gate is fitted on other floors than it is tested on."""
    real = real_floors(folder)
    names, drawn = _FLOORS[use]
    floors = {name: real[name] for name in names if name in real}
    for resolution, seeds in drawn.items():
        for seed in seeds:
            floors[f"office-{seed}"] = draw_office(
                seed, width=30.0, height=16.0, resolution=resolution
            )
            floors[f"hall-{seed}"] = draw_hall(seed, resolution=resolution)
            floors[f"cave-{seed}"] = draw_cave(seed, resolution=resolution)
    return floors


def measure(pair: Pair) -> dict[str, object]:
    """Register one pair."""
    began, cpu_began = time.perf_counter(), time.process_time()
    found = register(pair.grids[0], pair.frames[0], pair.grids[1], pair.frames[1])
    row: dict[str, object] = {
        "floors": pair.floors,
        "overlap": pair.overlap,
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu_began,
        "accepted": found is not None and DEFAULT_GATE.accepts(found),
    }
    if found is None:
        return row
    row |= {
        "walls": found.walls,
        "agreement": found.agreement,
        "distinct": found.distinct,
        "conflict": found.conflict,
        "residual_rms": found.residual_rms,
    }
    if pair.truth is not None:
        known = np.argwhere(pair.grids[1] >= 0).mean(axis=0)
        middle = np.array([pair.frames[1].centre(*known)])
        off = apply(found.transform, middle) - apply(pair.truth, middle)
        turn = wrap(float(found.transform[2] - pair.truth[2]))
        row |= {"off_m": float(np.hypot(*off[0])), "off_deg": math.degrees(abs(turn))}
    return row


def main() -> None:
    """Write one JSON line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("use", choices=["fix", "test"])
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100, help="of each of four kinds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    count = options.pairs
    floors = floors_for(options.use, options.maps)
    with options.out.open("w") as file:
        for pair in pairs_of(
            floors, options.seed, wide=count, narrow=count, disjoint=count, foreign=count
        ):
            file.write(json.dumps(measure(pair)) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
