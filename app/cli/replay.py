"""`mission replay`, and the live map of other commands: both read only a mission's recording."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.live import Live

from app.cli.base import (
    EXIT_ERROR,
    Format,
    Output,
    app,
    leave,
    print_json,
    run_or_exit,
    settings_of_command,
)
from app.cli.display import MissionDisplay
from app.cli.kept_missions import server_of
from app.cli.terminal_map import draw_map, draw_on, scale_bar
from app.exploration.grid import UNKNOWN, GridFrame
from app.missions.frames import Frame
from app.missions.recording import RecordedFrame, read_frames
from app.redis_utils import get_bus

_PRINTED = {"width": 100, "height": 50}
_MAX_WAIT_S = 1.0


@app.command()
def replay(
    mission: Annotated[
        str, typer.Argument(help="The id of the mission, or its beginning; see `mission list`.")
    ],
    *,
    speed: Annotated[
        float, typer.Option(help="Simulated seconds per second.", min=0.1, max=1000)
    ] = 60.0,
    output: Format = Output.TEXT,
) -> None:
    """Replay a mission from its recording. Without a terminal, print its last frame only.

    Example: mission replay 3f2b6f6c-6a5d-4d57-9a3e-0d1f2a9c1b11 --speed 100
    """
    settings_of_command()
    console = Console()

    async def play(saga_id: str) -> list[RecordedFrame]:
        async with get_bus():
            recorded = [each async for each in read_frames(saga_id)]
        if recorded and console.is_terminal and output is Output.TEXT:
            await _play(recorded, speed, console)
        return recorded

    with server_of(mission) as saga_id:
        recorded = run_or_exit(play(saga_id), "stopped")
    if not recorded:
        leave(EXIT_ERROR, f"mission {saga_id} has no recording; see: mission list")
    if not print_json([_as_dict(each) for each in recorded], output):
        _, last, grid = recorded[-1]
        if not console.is_terminal:
            print(f"{draw_map(last, grid, **_PRINTED)}{scale_bar(grid, **_PRINTED)}")
        print(f"{last.simulated_s:.0f} s simulated, {known_m2(last, grid):.0f} m² known")


def known_m2(frame: Frame, grid: GridFrame) -> float:
    """Return the area of a frame's known cells, in square metres."""
    return float(np.count_nonzero(frame.cells != UNKNOWN)) * grid.resolution**2


async def _play(recorded: list[RecordedFrame], speed: float, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        before_s = recorded[0][1].simulated_s
        for _, frame, grid in recorded:
            await asyncio.sleep(min((frame.simulated_s - before_s) / speed, _MAX_WAIT_S))
            before_s = frame.simulated_s
            live.update(draw_on(console, frame, grid, height=console.size.height - 3), refresh=True)


def _as_dict(each: RecordedFrame) -> dict[str, Any]:
    entry_id, frame, _ = each
    robots = [
        {
            "name": robot.name,
            "pose": [robot.pose.x, robot.pose.y, robot.pose.heading],
            "driven_m": robot.driven_m,
            "lost": robot.lost,
            "apart": robot.apart,
        }
        for robot in frame.robots
    ]
    return {
        "entry_id": entry_id,
        "simulated_s": frame.simulated_s,
        "fraction": frame.fraction,
        "robots": robots,
    }


@asynccontextmanager
async def show_live_map(display: MissionDisplay, saga_id: str) -> AsyncIterator[None]:
    """Show a mission's map on a display while the context is open, if stderr is a terminal."""

    async def show() -> None:
        async for _, frame, grid in read_frames(saga_id, follow=True):
            display.show_map(frame, grid)

    if not sys.stderr.isatty():
        yield
        return
    showing = asyncio.create_task(show())
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait([showing])
