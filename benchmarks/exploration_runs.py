"""How the benchmarks of exploration start: options, missions, and a JSON line for each of them."""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from exploration_floors import chosen, drawn_floors, large_floors, real_floors

from app.exploration.grid import FloorMap

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mission:
    """One mission of a benchmark.

    Attributes:
        maps: folder of map_server files.
        name: the floor's name.
        robots: number of robots.
        seed: the mission's seed.
    """

    maps: Path
    name: str
    robots: int
    seed: int

    @property
    def floor(self) -> FloorMap:
        """The floor."""
        return _floors(self.maps)[self.name]


@lru_cache(maxsize=1)
def _floors(maps: Path) -> dict[str, FloorMap]:
    return real_floors(maps) | drawn_floors() | large_floors()


def mission_options(
    description: str | None, *, robots: Sequence[int], seeds: int
) -> argparse.ArgumentParser:
    """Return a parser of the options that all these benchmarks have, with some defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--maps", type=Path, required=True, help="folder of map_server files")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    parser.add_argument("--robots", type=int, nargs="+", default=list(robots))
    parser.add_argument("--seeds", type=int, default=seeds, help="number of seeds, from 0")
    parser.add_argument("--floors", nargs="*", help="names or kinds, such as office-2 or cave")
    parser.add_argument("--processes", type=int, default=1)
    return parser


def write_rows(options: argparse.Namespace, measure: Callable[[Mission], Row]) -> None:
    """Measure the missions that options select, and write a JSON line for each."""
    missions = [
        Mission(options.maps, name, robots, seed)
        for seed in range(options.seeds)
        for name in chosen(_floors(options.maps), options.floors)
        for robots in options.robots
    ]
    with options.out.open("w") as file, multiprocessing.Pool(options.processes) as pool:
        for row in pool.imap_unordered(measure, missions):
            file.write(json.dumps(row) + "\n")
            file.flush()
