"""Shows a running mission: one line per step, one line per robot, and the map."""

import math
import sys
import time
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.cli.base import printable
from app.cli.terminal_map import draw_on
from app.event_types import EXPLORATION_PERFORM, FORWARD_STEPS, step_of
from app.exploration.grid import GridFrame
from app.missions.frames import Frame
from app.missions.mission import MAX_ROBOTS

_MIN_MAP_LINES = 5
_LARGEST = 1e9  # of the numbers that are shown
_STATES = {"start": "running", "progress": "running"}
_COLOURS = {"running": "yellow", "completed": "green", "failed": "red", "cancelled": "red"}


class MissionDisplay:
    """Shows stages on stderr: live on a terminal, else one line per change of state.

    Args:
        started: When the mission started, in seconds since the Unix epoch, by the server's clock;
            None if it starts now.
        saga_id: The mission's id, if it is known yet.
    """

    def __init__(self, started: float | None = None, saga_id: str = "") -> None:
        self.saga_id = saga_id
        self._first_frame: tuple[float, float] | None = None
        self._console = Console(file=sys.stderr)
        self._started = started
        self._newest: tuple[float, float] = (0.0, time.monotonic())
        self._rows: dict[tuple[str, str], tuple[str, str]] = {}
        self._robots: dict[str, tuple[str, str]] = {}
        self._map: tuple[Frame, GridFrame] | None = None
        self._live = Live(
            console=self._console,
            refresh_per_second=8,
            get_renderable=self._draw,
            transient=False,
            # What is printed as JSON belongs to a pipe, not above the display.
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, stage: dict[str, Any]) -> None:
        """Show one stage of a step."""
        self._note_time(stage.get("timestamp"))
        event_type = stage.get("event_type", "")
        status, payload = stage.get("status", ""), stage.get("payload", {})
        step, direction = step_of(event_type) or (event_type, "forward")
        state = printable(_STATES.get(status, status))
        before = self._rows.get((step, direction), ("", ""))[0]
        self._rows[(step, direction)] = (state, _detail(status, payload))
        if event_type == EXPLORATION_PERFORM:
            robots = payload.get("robots") if status == "progress" else None
            self._robots |= _rows(robots) if isinstance(robots, dict) else {}
        if not self._console.is_terminal and state != before:
            detail = _detail(status, payload)
            label = printable(f"undo {step}" if direction == "undo" else step)
            print(
                f"{self._newest[0]:6.1f}s  {label}: {state}{' ' + detail if detail else ''}",
                file=sys.stderr,
            )

    def show_map(self, frame: Frame, grid: GridFrame) -> None:
        """Show the current frame of the mission; only terminals draw it."""
        self._map = (frame, grid)
        if self._first_frame is None:
            self._first_frame = frame.simulated_s, time.monotonic()

    def _headline(self) -> Text:
        """The id, the age, and what is left of the exploration, as an estimate in real time."""
        line = Text.assemble(
            ("mission ", "bold"), printable(self.saga_id), f"  {self._age():.0f} s"
        )
        if self._map is None or self._first_frame is None:
            return line
        frame, (first_s, seen) = self._map[0], self._first_frame
        passed_s = frame.simulated_s - first_s
        if frame.remaining and frame.remaining.seconds and passed_s > 0:
            per_simulated = (time.monotonic() - seen) / passed_s
            least, about, most = (
                max(1.0, each * per_simulated)
                for each in (
                    frame.remaining.least_s,
                    frame.remaining.seconds,
                    frame.remaining.most_s,
                )
            )
            line.append(f"  about {about:.0f} s left ({least:.0f} to {most:.0f} s)")
        return line

    def _note_time(self, timestamp: Any) -> None:
        """Note the time of a stage, in seconds since the mission's start; an odd one changes nothing."""
        try:
            at_s = float(timestamp) / 1000
        except (OverflowError, TypeError, ValueError):
            return
        if not math.isfinite(at_s):
            return
        if self._started is None:
            self._started = at_s
        if 0 <= at_s - self._started < _LARGEST:
            self._newest = at_s - self._started, time.monotonic()

    def _age(self) -> float:
        """Seconds since the mission's start: those of the newest stage, and what passed since it."""
        at_s, seen = self._newest
        return at_s + time.monotonic() - seen

    def _draw(self) -> Group:
        steps = Table.grid(padding=(0, 2))
        for name in FORWARD_STEPS.values():
            state, detail = self._rows.get((name, "forward"), ("-", ""))
            steps.add_row(name, Text(state, _COLOURS.get(state, "dim")), Text(detail))
        for (name, direction), (state, detail) in self._rows.items():
            if direction == "undo":
                label = Text(printable(f"undo {name}"))
                steps.add_row(label, Text(state, _COLOURS.get(state, "dim")), Text(detail))
        robots = Table.grid(padding=(0, 2))
        for name, cells in sorted(self._robots.items()):
            robots.add_row(Text(f"  {name}"), *cells)
        parts: list[RenderableType] = [self._headline(), steps, robots]
        if self._map:
            lines = self._console.size.height - steps.row_count - robots.row_count - 4
            parts.append(draw_on(self._console, *self._map, height=max(_MIN_MAP_LINES, lines)))
        return Group(*parts)


def _rows(robots: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The cells of the table of robots; one whose record is malformed has none."""
    rows = {}
    for name, robot in list(robots.items())[:MAX_ROBOTS]:
        try:
            x, y, _ = robot["pose"]
            cells = f"at ({x:.1f}, {y:.1f}) m", f"{robot['driven_m']:.1f} m driven"
        except (KeyError, OverflowError, TypeError, ValueError):
            continue
        rows[printable(name)] = cells
    return rows


def _detail(status: str, payload: dict[str, Any]) -> str:
    if status == "failed":
        return printable(f"{payload.get('error_type')}: {payload.get('message')}")
    if status != "progress":
        return ""
    # An area, no share: how much of a floor can be known is not known before the end.
    known, simulated = payload.get("known_m2"), payload.get("simulated_s")
    if _is_shown(known):
        return f"{known:.0f} m² known" + (
            f", {simulated:.0f} s simulated" if _is_shown(simulated) else ""
        )
    fraction = payload.get("fraction")
    return f"{fraction:.0%}" if _is_shown(fraction) and not simulated else ""


def _is_shown(value: Any) -> bool:
    """Whether a value is a number that a line has room for."""
    return isinstance(value, int | float) and abs(value) < _LARGEST
