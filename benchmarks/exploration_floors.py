"""The floors that explorations are measured on: map files, and floors drawn from seeds."""

from pathlib import Path

from app.exploration.floorplan import draw_office
from app.exploration.grid import FloorMap
from app.exploration.landscapes import draw_cave, draw_hall
from app.exploration.map_files import load_map

DRAWN_SEEDS = range(4)


def real_floors(folder: Path) -> dict[str, FloorMap]:
    """Load every map of a folder, by name."""
    return {path.stem: load_map(path) for path in sorted(folder.glob("*.yaml"))}


def drawn_floors() -> dict[str, FloorMap]:
    """Draw offices, halls and caves, by kind and seed."""
    floors = {}
    for seed in DRAWN_SEEDS:
        floors[f"office-{seed}"] = draw_office(seed, width=30.0, height=16.0)
        floors[f"hall-{seed}"] = draw_hall(seed)
        floors[f"cave-{seed}"] = draw_cave(seed)
    return floors
