"""Write the figures of exploration as tables and a plot.

It reads the JSON lines of `exploration_known.py`, `exploration_bounds.py`, `exploration_tail.py`,
`exploration_slam.py` and `exploration_merging.py` from a folder and writes `figures.md` and
`speed-up.png`. A section of the page without new figures stays as it is.
`scripts/exploration-benchmark.sh` runs all of them in order.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from exploration_floors import LARGE_M2, kind
from exploration_runs import Row

from app.missions.picture import save_picture

_ONE_ROOM = "turtlebot3_world"
_ORDER = ("Known poses", "Bounds", "Driving after T99", "Unknown poses, 4 robots", "Merging")
_RIGHT_M, _RIGHT_DEG = 0.5, 2.5
_COLOURS = (
    (178, 114, 0),
    (0, 94, 213),
    (115, 158, 0),
    (167, 121, 204),
    (0, 159, 230),
    (120, 120, 120),
)


def rows_of(folder: Path, pattern: str) -> list[Row]:
    """Read all JSON lines of the files that match."""
    return [
        json.loads(line)
        for path in sorted(folder.glob(pattern))
        for line in path.read_text().splitlines()
    ]


def speed_ups(rows: Iterable[Row]) -> dict[str, dict[int, list[float]]]:
    """Return T99 of one robot over T99 of the team, same floor and seed, by group and team size."""
    alone = {(row["floor"], row["seed"]): row["t99"] for row in rows if row["robots"] == 1}
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        base = alone.get((row["floor"], row["seed"]))
        if base and row["t99"] > 0.0 and math.isfinite(base):
            found.setdefault(kind(row["floor"]), {}).setdefault(row["robots"], []).append(
                base / row["t99"]
            )
    return found


def sections(page: str) -> dict[str, str]:
    """Return the sections of a page by heading, each with its heading."""
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return {
        part.partition("\n")[0].removeprefix("## "): part.strip()
        for part in parts
        if part.startswith("## ")
    }


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> list[str]:
    """Write a Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines),
        "",
    ]


def known_part(rows: list[Row]) -> list[str]:
    """Report completeness and speed with known poses, of teams that start together or scattered."""
    complete = sum(row["coverage"] >= 0.99 for row in rows)
    left = sum(row["worth_left"] > 0 for row in rows)
    patched = sum(row["hidden_left"] > 0 for row in rows)
    together = [row for row in rows if not row["scattered"]]
    alone = [row for row in together if row["robots"] == 1]
    scattered = [row for row in rows if row["scattered"] and row["robots"] > 1]
    reachable = sum(row["reachable_left"] > 0 for row in rows)
    return [
        "## Known poses",
        "",
        f"{complete} of {len(rows)} missions ended by themselves with a coverage of at least 0.99.",
        f"In {reachable} of them a frontier remained that a robot can reach,",
        f"and in {sum(row['shared_goals'] > 0 for row in rows)} two robots had one goal at one time.",
        f"In {left} of them 5 or more unreachable frontier cells remained next to cells that are",
        f"observable from elsewhere; in {patched} of them a patch of 5 or more such cells stayed unknown.",
        "",
        "Teams that start together, by the size of the floor; medians of all missions:",
        "",
        *_by_size(together),
        f"({_ONE_ROOM} is excluded: it is one room, almost all of which the first scan shows.)",
        "",
        "The same by floor:",
        "",
        *_by_floor(together, speed_ups(together)),
        "Makespan over T99, medians of the missions' own quotients:",
        "",
        *_makespans(together),
        "![Speed-up over team size](speed-up.png)",
        "",
        *(
            [
                "Teams that start scattered, each robot at a random place:",
                "",
                *_by_floor(scattered, speed_ups([*alone, *scattered])),
            ]
            if scattered
            else []
        ),
    ]


def _by_size(rows: list[Row]) -> list[str]:
    """Return medians by size of floor and size of team."""
    rows = [row for row in rows if row["floor"] != _ONE_ROOM]
    large = [row for row in rows if row["free_m2"] >= LARGE_M2]
    small = [row for row in rows if row["free_m2"] < LARGE_M2]
    lines = []
    for name, own in ((f"{LARGE_M2:,.0f} m2 or more", large), ("smaller", small)):
        ups = speed_ups(own)
        for robots in sorted({row["robots"] for row in own} - {1}):
            team = [row for row in own if row["robots"] == robots]
            gain = median(up for of_floor in ups.values() for up in of_floor.get(robots, []))
            overlap = median(row["overlap_t99"] for row in team)
            each = f"{overlap / (robots - 1):.2f}"
            lines.append([name, robots, len(team), f"{gain:.2f}", f"{overlap:.2f}", each])
    head = ["free area", "robots", "missions", "speed-up to T99", "overlap at T99"]
    return table([*head, "for each robot beyond the first"], lines)


def _by_floor(rows: list[Row], ups: dict[str, dict[int, list[float]]]) -> list[str]:
    """Return medians by floor and team size."""
    lines = []
    for group in sorted({kind(row["floor"]) for row in rows}):
        for robots in sorted({row["robots"] for row in rows}):
            own = [r for r in rows if kind(r["floor"]) == group and r["robots"] == robots]
            if own:
                up = ups.get(group, {}).get(robots)
                cells = [f"{median(r[key] for r in own):.0f}" for key in ("t90", "t99", "makespan")]
                shares = [
                    f"{median(r[key] for r in own):.2f}" for key in ("overlap_t99", "overlap")
                ]
                distance = f"{median(r['travelled'] for r in own):.0f}"
                least = f"{min(r['coverage'] for r in own):.4f}"
                gain = f"{median(up):.2f}" if up else "-"
                lines.append([group, robots, len(own), least, *cells, gain, *shares, distance])
    head = ["floor", "robots", "missions", "least coverage", "T90 s", "T99 s", "makespan s"]
    return table(
        [*head, "speed-up to T99", "overlap at T99", "overlap at the end", "distance m"], lines
    )


def _makespans(rows: list[Row]) -> list[str]:
    """Return the median of makespan over T99, by floor and team size."""
    sizes = sorted({row["robots"] for row in rows})
    lines = []
    for group in sorted({kind(row["floor"]) for row in rows}):
        cells = []
        for robots in sizes:
            own = [r for r in rows if kind(r["floor"]) == group and r["robots"] == robots]
            quotients = [r["makespan"] / r["t99"] for r in own if 0.0 < r["t99"] < math.inf]
            cells.append(f"{median(quotients):.2f}" if quotients else "-")
        lines.append([group, *cells])
    return table(["floor", *(f"{robots} robots" for robots in sizes)], lines)


def tail_part(rows: list[Row]) -> list[str]:
    """Report the driving after T99 next to a tour that knows what is left."""
    rows = [row for row in rows if row["ratio"] is not None]
    lines = []
    for group in sorted({kind(row["floor"]) for row in rows}):
        for robots in sorted({row["robots"] for row in rows if kind(row["floor"]) == group}):
            own = [r for r in rows if kind(r["floor"]) == group and r["robots"] == robots]
            cells = [f"{median(r[key] for r in own):.0f}" for key in ("driven_after_m", "tour_m")]
            lines.append(
                [group, robots, len(own), *cells, f"{median(r['ratio'] for r in own):.2f}"]
            )
    middle = median(row["ratio"] for row in rows)
    return [
        "## Driving after T99",
        "",
        "Against a tour of the same team that knows what is left (`exploration_tail.py`).",
        f"In the median of {len(rows)} missions the team drives {middle:.2f} times that tour.",
        "",
        *table(["floor", "robots", "missions", "driven m", "tour m", "quotient"], lines),
    ]


def bounds_part(bounds: list[Row], rows: list[Row]) -> list[str]:
    """Report the bounds for any team that starts together, next to our figures."""
    together = [row for row in rows if not row["scattered"]]
    t99 = {(row["floor"], row["seed"], row["robots"]): row["t99"] for row in together}
    lines = []
    for group in sorted({kind(row["floor"]) for row in bounds}):
        for robots in sorted({row["robots"] for row in bounds}):
            own = [r for r in bounds if kind(r["floor"]) == group and r["robots"] == robots]
            own = [r for r in own if (r["floor"], r["seed"], robots) in t99]
            alone = [t99.get((r["floor"], r["seed"], 1), math.nan) / r["t99_least"] for r in own]
            if own:
                ours = median(t99[r["floor"], r["seed"], robots] for r in own)
                least = median(r["t99_least"] for r in own)
                overlap = median(r["overlap_least"] for r in own)
                cells = [f"{least:.0f}", f"{ours:.0f}", f"{median(alone):.2f}", f"{overlap:.2f}"]
                lines.append([group, robots, len(own), *cells])
    head = ["floor", "robots", "missions", "least T99 s", "T99 s", "maximum speed-up"]
    return [
        "## Bounds",
        "",
        "For any team that starts together, even if it knew the floor; medians (`exploration_bounds.py`):",
        "",
        *table([*head, "least overlap"], lines),
    ]


def slam_part(rows: list[Row]) -> list[str]:
    """Report missions with unknown poses."""
    good = sum(row["ate_m"] <= 0.10 and row["status"] == "completed" for row in rows)

    def middle_of(name: str, own: list[Row]) -> str:
        return f"{median(row[name] for row in own):.3f}"

    names = ("ate_m", "free_iou", "occupied_f1", "agreement", "coverage")
    lines = []
    groups = sorted({kind(row["floor"]) for row in rows})
    for group in [*groups, "all"]:
        own = [row for row in rows if group in ("all", kind(row["floor"]))]
        worst = f"{max(row['ate_m'] for row in own):.3f}"
        pace = f"{median(row['pace_cpu'] for row in own):.0f}"
        lines.append([group, len(own), *(middle_of(name, own) for name in names), worst, pace])
    head = ["floor", "missions", "ATE m", "free IoU", "occupied F1", "agreement", "coverage"]
    return [
        "## Unknown poses, 4 robots",
        "",
        f"{good} of {len(rows)} missions ended with one map and an ATE of at most 0.10 m.",
        "",
        *table([*head, "worst ATE m", "simulated s a CPU s"], lines),
    ]


def merging_part(rows: list[Row]) -> list[str]:
    """Report registrations of pairs."""

    def right(row: Row) -> bool:
        off_m, off_deg = row.get("off_m", math.inf), row.get("off_deg", 180.0)
        return bool(off_m < _RIGHT_M and off_deg < _RIGHT_DEG)

    def line(name: str, chosen: Callable[[Row], bool]) -> list[object]:
        own = [row for row in rows if chosen(row)]
        accepted = [row for row in own if row["accepted"]]
        true = [row for row in accepted if right(row)]
        return [name, len(own), len(true), len(accepted) - len(true)]

    lines = [
        line("overlap >= 0.3", lambda row: row["overlap"] >= 0.3),
        line("overlap 0.1 to 0.3", lambda row: 0.1 <= row["overlap"] < 0.3),
        line(
            "same floor, no overlap", lambda row: row["overlap"] == 0 and "|" not in row["floors"]
        ),
        line("different floors", lambda row: "|" in row["floors"]),
    ]
    true = [row for row in rows if row["accepted"] and right(row)]
    off_cm, off_deg = 100 * median(r["off_m"] for r in true), median(r["off_deg"] for r in true)
    cpu = median(row["cpu_s"] for row in rows)
    return [
        "## Merging",
        "",
        *table(["pairs", "number", "merged right", "merged wrong"], lines),
        f"The median error of those merged right is {off_cm:.1f} cm and {off_deg:.2f} degrees;",
        f"the median CPU time of a pair is {cpu:.2f} s.",
        "",
    ]


def plot(path: Path, ups: dict[str, dict[int, list[float]]]) -> None:
    """Plot the median speed-up over team size, one line for each group, and the ideal."""
    size, left, low, step = 640, 70, 560, 60
    image = np.full((size, size + 160, 3), 255, np.uint8)

    def at(robots: float, gain: float) -> tuple[int, int]:
        return round(left + step * robots), round(low - step * gain)

    font = cv2.FONT_HERSHEY_SIMPLEX
    for number in range(1, 9):
        cv2.line(image, at(0, number), at(8, number), (225, 225, 225), 1)
        cv2.putText(
            image, str(number), (left - 25, at(0, number)[1] + 5), font, 0.5, (40, 40, 40), 1
        )
        cv2.putText(
            image, str(number), (at(number, 0)[0] - 5, low + 22), font, 0.5, (40, 40, 40), 1
        )
    cv2.line(image, at(1, 1), at(8, 8), (160, 160, 160), 1, cv2.LINE_AA)
    cv2.putText(image, "robots", at(3.5, -0.8), font, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    cv2.putText(
        image,
        f"speed-up to T99, median, floors of {LARGE_M2:,.0f} m2 or more",
        (left, 30),
        font,
        0.55,
        (40, 40, 40),
        1,
        cv2.LINE_AA,
    )
    for index, (group, gains) in enumerate(sorted(ups.items())):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [at(robots, median(values)) for robots, values in sorted(gains.items())]
        line = np.array(points, np.int32).reshape(-1, 1, 2)
        cv2.polylines(image, [line], False, colour, 2, cv2.LINE_AA)
        y = 70 + 26 * index
        cv2.line(image, (size - 30, y), (size, y), colour, 2, cv2.LINE_AA)
        cv2.putText(image, group, (size + 8, y + 5), font, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    save_picture(path, image)


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    known, bounds, tail, slam, merging = (
        rows_of(options.results, f"{name}*.jsonl")
        for name in ("known", "bounds", "tail", "slam", "merging")
    )
    page = options.out / "figures.md"
    parts = sections(page.read_text()) if page.exists() else {}
    parts |= sections(
        "\n".join(
            [
                *(known_part(known) if known else []),
                *(bounds_part(bounds, known) if bounds else []),
                *(tail_part(tail) if tail else []),
                *(slam_part(slam) if slam else []),
                *(merging_part(merging) if merging else []),
            ]
        )
    )
    page.write_text(
        "# Figures of exploration\n\n"
        "Written by `scripts/exploration-benchmark.sh`; [README.md](README.md) explains them.\n\n"
        + "\n\n".join(parts[name] for name in _ORDER if name in parts)
        + "\n"
    )
    if known:
        together = [row for row in known if not row["scattered"] and row["floor"] != _ONE_ROOM]
        large = [row for row in together if row["free_m2"] >= LARGE_M2]
        plot(options.out / "speed-up.png", speed_ups(large))


if __name__ == "__main__":
    main()
