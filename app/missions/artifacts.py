"""What a mission leaves on disk: one folder a mission, complete or not there."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.exploration.driver import Point
from app.exploration.grid import Grid, GridFrame
from app.exploration.map_files import save_map
from app.missions.picture import draw, save_picture
from sagastream import InvalidMessage

_MISSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def folder(out_dir: Path, mission: str) -> Path:
    """Where a mission's results are.

    Raises:
        InvalidMessage: The mission's id is no name of a folder.
    """
    if not _MISSION.fullmatch(mission):
        raise InvalidMessage("mission", f"{mission[:70]!r} must be letters, digits, - and _")
    return out_dir.resolve() / mission


def write(
    place: Path,
    grid: Grid,
    frame: GridFrame,
    *,
    paths: Sequence[Sequence[Point]],
    frontiers: Sequence[Point],
    title: str,
    report: dict[str, Any],
    others: Sequence[tuple[Grid, GridFrame]] = (),
) -> dict[str, str]:
    """Write map, picture and report into a new folder that appears whole.

    Maps that stayed apart, `others`, become `map-2.yaml` and so on.

    Returns:
        The files: `map_yaml`, `map_pgm`, `picture`, `report`.
    """
    draft = place.with_name(f".{place.name}.draft")
    discard(place)
    draft.mkdir(parents=True)
    save_map(draft / "map.yaml", grid, frame)
    for number, (other, its_frame) in enumerate(others, 2):
        save_map(draft / f"map-{number}.yaml", other, its_frame)
    save_picture(draft / "map.png", draw(grid, frame, paths, frontiers, title=title))
    text = json.dumps(report, indent=2, sort_keys=True) + "\n"
    (draft / "report.json").write_text(text, encoding="utf-8")
    os.replace(draft, place)  # noqa: PTH105 - a folder takes the place of none, atomically
    return {
        "map_yaml": str(place / "map.yaml"),
        "map_pgm": str(place / "map.pgm"),
        "picture": str(place / "map.png"),
        "report": str(place / "report.json"),
    }


def discard(place: Path) -> None:
    """Remove a mission's results, and any draft of them; right if there are none."""
    for path in (place, place.with_name(f".{place.name}.draft")):
        if path.exists():
            shutil.rmtree(path)
