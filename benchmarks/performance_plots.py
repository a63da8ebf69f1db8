"""Plot the figures: latency, throughput over requests in flight, throughput over backlog."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from performance_matrix import BACKLOGS, CURVE
from performance_peers import PEERS

from app.missions.picture import save_picture

Point = tuple[float, float]
Image = npt.NDArray[np.uint8]

# Colours of Okabe and Ito, in OpenCV's order (blue first): colour-blind readers can distinguish them.
_COLOURS = (
    (178, 114, 0),
    (0, 94, 213),
    (0, 159, 230),
    (115, 158, 0),
    (167, 121, 204),
    (233, 180, 86),
    (120, 120, 120),
    (66, 200, 220),
    (40, 40, 40),
)
_INK, _FAINT = (40, 40, 40), (225, 225, 225)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WIDTH, _HEIGHT = 1080, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 850, 50, 570


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: logarithmic, or linear from zero.

    Attributes:
        title: The quantity, with its unit.
        ticks: Values with a line and a label.
        log: Whether it is logarithmic.
    """

    title: str
    ticks: Sequence[float]
    log: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value between the first tick and the last, from 0 to 1."""
        form: Callable[[float], float] = math.log10 if self.log else float
        first, last = form(self.ticks[0]), form(self.ticks[-1])
        return (form(value) - first) / (last - first)


def draw_plots(out: Path, figures: dict[str, Any]) -> None:
    """Write all plots to a folder."""
    _latency(out / "latency.png", figures)
    _in_flight(out / "in-flight.png", figures)
    _backlog(out / "backlog.png", figures)


def _latency(path: Path, figures: dict[str, Any]) -> None:
    """Plot the share of requests answered within a time, with one in flight."""
    lines = {}
    for peer in PEERS:
        measured = figures.get(f"{peer.name}/echo/1")
        if measured:
            spread = measured["quantiles_us"]
            last = len(spread) - 1
            lines[peer.name] = [(us, 100 * n / last) for n, us in enumerate(spread)][:last]
    every = [us for points in lines.values() for us, _ in points]
    x = Axis("microseconds, one request in flight", _decades(min(every), max(every)), log=True)
    y = Axis("% of requests answered within", range(0, 101, 10))
    _plot(path, x, y, lines, marked=False)


def _in_flight(path: Path, figures: dict[str, Any]) -> None:
    """Plot requests per second over requests in flight."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for peer in PEERS:
        measured = {n: figures.get(f"{peer.name}/echo/{n}") for n in CURVE}
        points = [(float(n), float(one["per_s"])) for n, one in measured.items() if one]
        if points:
            lines[peer.name] = points
    rates = [rate for points in lines.values() for _, rate in points]
    y = Axis("requests a second", _decades(min(rates), max(rates)), log=True)
    _plot(path, Axis("requests in flight", CURVE, log=True), y, lines)


def _backlog(path: Path, figures: dict[str, Any]) -> None:
    """Plot requests per second over commands in another stream."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for count in (1, 64):
        measured = {n: figures.get(f"sagastream-backlog-{n}/echo/{count}") for n in BACKLOGS}
        # A logarithmic axis has no zero: an empty stream is drawn at one command.
        points = [(float(max(n, 1)), float(one["per_s"])) for n, one in measured.items() if one]
        if points:
            lines[f"{count} in flight"] = points
    most = max(rate for points in lines.values() for _, rate in points)
    x = Axis("commands in another stream (0 drawn at 1)", [10**n for n in range(7)], log=True)
    _plot(path, x, Axis("requests a second", _steps(most)), lines)


def _decades(least: float, most: float) -> list[float]:
    """Return ticks at 1, 2 and 5 of each decade that enclose the values."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    ticks = [float(m) * 10**n for n in range(first, last + 1) for m in (1, 2, 5)]
    low = max(index for index, tick in enumerate(ticks) if tick <= least)
    high = min(index for index, tick in enumerate(ticks) if tick >= most)
    return ticks[low : high + 1]


def _steps(most: float) -> list[float]:
    """Return five to ten round ticks from zero to beyond a value."""
    unit = 10 ** math.floor(math.log10(most))
    step = next(unit * part for part in (0.1, 0.2, 0.5, 1, 2) if most / (unit * part) <= 10)
    return [step * n for n in range(math.ceil(most / step) + 1)]


def _plot(
    path: Path, x: Axis, y: Axis, lines: dict[str, list[Point]], *, marked: bool = True
) -> None:
    image: Image = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)

    def at(value: float, height: float) -> tuple[int, int]:
        across = _LEFT + (_RIGHT - _LEFT) * x.share(value)
        return round(across), round(_BOTTOM - (_BOTTOM - _TOP) * y.share(height))

    for tick in x.ticks:
        column, _ = at(tick, y.ticks[0])
        cv2.line(image, (column, _TOP), (column, _BOTTOM), _FAINT, 1)
        _write(image, f"{tick:,.0f}", (column, _BOTTOM + 22), centred=True)
    for tick in y.ticks:
        _, row = at(x.ticks[0], tick)
        cv2.line(image, (_LEFT, row), (_RIGHT, row), _FAINT, 1)
        _write(image, f"{tick:,.0f}", (_LEFT - 10, row + 5), right=True)
    _write(image, x.title, ((_LEFT + _RIGHT) // 2, _BOTTOM + 52), centred=True)
    _write(image, y.title, (_LEFT - 60, _TOP - 22))
    ends = []
    for index, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        pixels = [at(*point) for point in points]
        line = np.array(pixels, np.int32).reshape(-1, 1, 2)
        cv2.polylines(image, [line], False, colour, 2 if index else 4, cv2.LINE_AA)
        for pixel in pixels if marked else ():
            cv2.circle(image, pixel, 4, colour, -1, cv2.LINE_AA)
        ends.append((name, colour))
    for index, (name, colour) in enumerate(ends):
        row = _TOP + 14 + 26 * index
        cv2.line(image, (_RIGHT + 24, row), (_RIGHT + 54, row), colour, 3, cv2.LINE_AA)
        _write(image, name, (_RIGHT + 64, row + 5))
    save_picture(path, image)


def _write(
    image: Image, text: str, at: tuple[int, int], *, centred: bool = False, right: bool = False
) -> None:
    (width, _), _ = cv2.getTextSize(text, _FONT, 0.5, 1)
    column = at[0] - (width // 2 if centred else width if right else 0)
    cv2.putText(image, text, (column, at[1]), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
