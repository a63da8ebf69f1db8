"""The floors that explorations are measured on: map files, and floors drawn from seeds."""

from collections.abc import Sequence
from pathlib import Path

from app.exploration.grid import FREE, FloorMap
from app.exploration.map_files import load_map
from app.exploration.simulation.floor_plans import draw_campus, draw_office
from app.exploration.simulation.halls_and_caves import draw_cave, draw_hall

DRAWN_SEEDS = range(4)
LARGE_M2 = 1000.0


def real_floors(folder: Path) -> dict[str, FloorMap]:
    """Load every map of a folder, by name."""
    return {path.stem: load_map(path) for path in sorted(folder.glob("*.yaml"))}


def drawn_floors() -> dict[str, FloorMap]:
    """Draw offices, halls and caves, by kind and seed: 200 to 740 square metres."""
    floors = {}
    for seed in DRAWN_SEEDS:
        floors[f"office-{seed}"] = draw_office(seed, width=30.0, height=16.0)
        floors[f"hall-{seed}"] = draw_hall(seed)
        floors[f"cave-{seed}"] = draw_cave(seed)
    return floors


def large_floors() -> dict[str, FloorMap]:
    """Draw larger floors of the same kinds, by kind and seed: 1,500 to 2,900 square metres."""
    floors = {}
    for seed in DRAWN_SEEDS:
        floors[f"campus-{seed}"] = draw_campus(seed)
        floors[f"plant-{seed}"] = draw_hall(seed, width=72.0, height=48.0)
        floors[f"cavern-{seed}"] = draw_cave(seed, width=80.0, height=60.0)
    return floors


def kind(floor: str) -> str:
    """Return the group that a floor is reported in: its name without the seed."""
    stem, _, seed = floor.rpartition("-")
    return stem if seed.isdecimal() else floor


def chosen(floors: dict[str, FloorMap], names: Sequence[str] | None) -> dict[str, FloorMap]:
    """Select floors by name or kind, all of them if none is named."""
    return {
        name: floor
        for name, floor in floors.items()
        if not names or name in names or kind(name) in names
    }


def free_m2(floor: FloorMap) -> float:
    """Return the free area of a floor, square metres."""
    return int((floor.grid == FREE).sum()) * floor.frame.resolution**2
