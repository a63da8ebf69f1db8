"""`mission replay`, and the map that watching verbs draw: missions seen from their recordings alone."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from app.cli.base import (
    EXIT_ERROR,
    Format,
    Output,
    app,
    as_json,
    guarded,
    leave,
    settings_of_command,
)
from app.cli.display import MissionDisplay
from app.cli.terminal_map import draw_map
from app.missions.recording import Shown, frames
from app.redis_utils import get_bus
from sagastream._redis.retrying import end_tasks

_LONGEST_WAIT_S = 1.0


@app.command()
def replay(
    saga_id: Annotated[str, typer.Argument(help="The mission, as `mission list` names it.")],
    *,
    speed: Annotated[
        float, typer.Option(help="Simulated seconds in a second.", min=0.1, max=1000)
    ] = 60.0,
    output: Format = Output.TEXT,
) -> None:
    """Show again how a mission went, from what is recorded of it; what is no terminal gets its end.

    Example: mission replay 3f2b6f6c-6a5d-4d57-9a3e-0d1f2a9c1b11 --speed 100
    """
    settings_of_command()
    console = Console()

    async def play() -> list[Shown]:
        async with get_bus():
            shown = [seen async for seen in frames(saga_id)]
        if shown and console.is_terminal and output is Output.TEXT:
            await _play(shown, speed, console)
        return shown

    shown = guarded(play(), "stopped")
    if not shown:
        leave(EXIT_ERROR, f"nothing is recorded of mission {saga_id}; see: mission list")
    if not as_json([_row(seen) for seen in shown], output):
        _, last, grid = shown[-1]
        if not console.is_terminal:
            print(draw_map(last, grid, width=100, height=50))
        print(f"{last.simulated_s:.0f} s simulated, {last.fraction:.0%} of the area known")


async def _play(shown: list[Shown], speed: float, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        before_s = shown[0][1].simulated_s
        for _, frame, grid in shown:
            await asyncio.sleep(min((frame.simulated_s - before_s) / speed, _LONGEST_WAIT_S))
            before_s = frame.simulated_s
            size = console.size
            live.update(
                draw_map(frame, grid, width=size.width - 1, height=size.height - 2), refresh=True
            )


def _row(seen: Shown) -> dict[str, Any]:
    entry_id, frame, _ = seen
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
async def drawn(display: MissionDisplay, saga_id: str) -> AsyncIterator[None]:
    """Have a display draw a mission's map as it grows, where there is a terminal."""

    async def show() -> None:
        async for _, frame, grid in frames(saga_id, follow=True):
            display.show_map(frame, grid)

    showing = [asyncio.create_task(show())] if sys.stderr.isatty() else []
    try:
        yield
    finally:
        await end_tasks(*showing)
