"""What a start form has to know: the maps and their pictures, free robots, what would be refused."""

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from app.config import get_settings
from app.exploration.grid import FREE, OCCUPIED
from app.exploration.map_files import find_map, known_maps, load_map
from app.missions.mission_saga import mission_runner
from app.redis_utils import get_bus
from app.robots import fleet
from sagastream import ServerError
from sagastream.status import stream_status

_PICTURE_PX = 360
_UNKNOWN_GREY, _FREE_GREY, _WALL_GREY = 214, 255, 45


@dataclass(frozen=True, slots=True)
class StartFacts:
    """What a mission would meet now.

    Attributes:
        areas: The maps that a mission may name.
        free: How many robots are present, and held by no mission.
        present: How many robots are present.
        hints: Why a mission would not run, and what to do; [] if it would.
    """

    areas: list[str]
    free: int
    present: int
    hints: list[str]


async def start_facts() -> StartFacts:
    """Look at maps, robots, listeners and open missions.

    Raises:
        ServerUnavailable: The server did not answer.
    """
    settings = get_settings()
    areas = await asyncio.to_thread(known_maps, settings.map_dir)
    hints, robots = [], []
    try:
        robots = [robot for robot in await fleet.robots() if robot.present]
    except ServerError as error:
        hints.append(f"The fleet cannot be read: {error}")
    free = sum(not robot.holder for robot in robots)
    if not areas:
        hints.append(f"There is no map in MAP_DIR, {settings.map_dir}: put one there.")
    unread = [stream for stream in settings.step_streams if not await _is_read(stream)]
    if unread and not robots:
        hints.append(
            "No workers run, so a mission would wait for them. Start them: mission workers"
        )
    elif unread:
        hints.append(f"No listener reads {', '.join(unread)}. Start one: mission workers")
    elif not robots:
        hints.append("No robot is present. Start some: mission workers")
    if (await mission_runner().counts())["open"] >= settings.web_open_missions:
        hints.append(
            f"{settings.web_open_missions} missions are open, as many as WEB_OPEN_MISSIONS allows. "
            "Another one is refused until one has ended."
        )
    return StartFacts(areas, free, len(robots), hints)


async def _is_read(stream: str) -> bool:
    """Whether a live listener reads a stream; a key that is no stream is read by nobody."""
    try:
        return bool((await stream_status(get_bus(), stream)).event_types)
    except ServerError:
        return False


def picture_of(area: str) -> bytes:
    """Draw a map that missions may name, as PNG.

    Raises:
        MapError: There is no such map, or it is invalid.
    """
    path = find_map(get_settings().map_dir, area)
    return _drawn(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _drawn(path: Path, _changed_ns: int) -> bytes:
    grid = load_map(path).grid
    picture = np.full(grid.shape, _UNKNOWN_GREY, np.uint8)
    picture[grid == FREE] = _FREE_GREY
    picture[grid == OCCUPIED] = _WALL_GREY
    scale = min(1.0, _PICTURE_PX / max(grid.shape))
    size = (max(1, round(grid.shape[1] * scale)), max(1, round(grid.shape[0] * scale)))
    small = cv2.resize(picture[::-1], size, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".png", small)[1])
