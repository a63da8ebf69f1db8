#!/usr/bin/env python3
"""Measure the error of the estimated end of explorations.

    PYTHONPATH=. .venv/bin/python benchmarks/remaining.py [--missions 100] [--seed 1000] [MAP.yaml ...]

Simulates missions with one to six robots on rooms, halls and caves, and on the maps that are given.
Prints one JSON object: at shares of the true duration, the share of missions whose estimated
duration was within 30 % of the true one, and the median error.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from app.exploration.grid import FloorMap
from app.exploration.map_files import load_map
from app.exploration.simulation.estimates import error_at, estimates_of
from app.exploration.simulation.floor_plans import draw_rooms
from app.exploration.simulation.halls_and_caves import draw_cave, draw_hall

_WITHIN = 0.3
_SHARES = (0.25, 0.5, 0.75)
_MOST_ROBOTS = 6
_KINDS = 3


def _floors(missions: int, seed: int, maps: list[Path]) -> Iterator[tuple[FloorMap, int, int]]:
    loaded = [load_map(path) for path in maps]
    for number in range(seed, seed + missions):
        robots = 1 + number % _MOST_ROBOTS
        kind = number % (_KINDS + len(loaded))
        if kind == 0:
            yield draw_rooms(4 + number % 20), robots, number
        elif kind == 1:
            yield draw_hall(number), robots, number
        elif kind == 2:
            yield draw_cave(number), robots, number
        else:
            yield loaded[kind - _KINDS], robots, number


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("maps", nargs="*", type=Path)
    parser.add_argument("--missions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)
    given = parser.parse_args()
    errors: dict[float, list[float]] = {share: [] for share in _SHARES}
    for floor, robots, seed in _floors(given.missions, given.seed, given.maps):
        end_s, estimates = estimates_of(floor, robots, seed)
        for share in _SHARES:
            if estimates:
                errors[share].append(error_at(share, end_s, estimates))
    told = {
        f"at_{share:.0%}": {
            "missions": len(found),
            "within_30_percent": round(sum(abs(e) <= _WITHIN for e in found) / len(found), 2),
            "median_error": round(statistics.median(map(abs, found)), 2),
        }
        for share, found in errors.items()
    }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
