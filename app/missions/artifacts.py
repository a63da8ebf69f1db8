"""The result files of missions: one folder per mission, which appears complete or not at all."""

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

# Each folder of results has this file, and no other folder of ours.
_REPORT = "report.json"
_MISSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def folder_of(out_dir: Path, mission: str) -> Path:
    """Return the folder of a mission's results.

    Raises:
        InvalidMessage: The mission's id cannot be the name of a folder.
    """
    if not _MISSION_ID.fullmatch(mission):
        raise InvalidMessage("mission", f"{mission[:70]!r} must be letters, digits, - and _")
    return out_dir.resolve() / mission


def require_unused(folder: Path) -> None:
    """Check that a mission may write its results to this folder, and remove it when it is undone.

    Raises:
        InvalidMessage: The folder exists and has no mission's results.
    """
    if folder.exists() and not _is_ours(folder):
        raise InvalidMessage("mission", f"{folder} is no folder of results; choose another id")


def _is_ours(folder: Path) -> bool:
    return (folder / _REPORT).is_file()


def write(
    folder: Path,
    grid: Grid,
    frame: GridFrame,
    *,
    paths: Sequence[Sequence[Point]],
    names: Sequence[str] = (),
    frontiers: Sequence[Point],
    title: str,
    report: dict[str, Any],
    others: Sequence[tuple[Grid, GridFrame]] = (),
) -> dict[str, str]:
    """Write map, picture and report into a draft folder, then rename it to the mission's folder.

    Args:
        folder: The mission's folder; an older one is replaced.
        grid: (rows, cols) int8 occupancy of the merged map.
        frame: The pose and resolution of that grid.
        paths: For each robot the points that it drove through, metres, map frame.
        names: The names of these robots.
        frontiers: A point of each remaining frontier, metres, map frame.
        title: The title of the picture; ASCII.
        report: The content of `report.json`.
        others: Maps that could not be merged; written as `map-2.yaml` and so on.

    Returns:
        The paths of the files: `map_yaml`, `map_pgm`, `picture`, `report`.

    Raises:
        OSError: The folder cannot be written.
        InvalidMessage: The folder exists and has no mission's results.
    """
    require_unused(folder)
    draft = folder.with_name(f".{folder.name}.draft")
    discard(folder)
    draft.mkdir(parents=True)
    save_map(draft / "map.yaml", grid, frame)
    for number, (other, other_frame) in enumerate(others, 2):
        save_map(draft / f"map-{number}.yaml", other, other_frame)
    save_picture(draft / "map.png", draw(grid, frame, paths, frontiers, names=names, title=title))
    text = json.dumps(report, indent=2, sort_keys=True) + "\n"
    (draft / _REPORT).write_text(text, encoding="utf-8")
    os.replace(draft, folder)  # noqa: PTH105 - renames the folder atomically
    return {
        "map_yaml": str(folder / "map.yaml"),
        "map_pgm": str(folder / "map.pgm"),
        "picture": str(folder / "map.png"),
        "report": str(folder / _REPORT),
    }


def discard(folder: Path) -> None:
    """Remove a mission's results and any draft of them; do nothing if there are none."""
    draft = folder.with_name(f".{folder.name}.draft")
    if _is_ours(folder):
        shutil.rmtree(folder)
    if draft.exists():
        shutil.rmtree(draft)
