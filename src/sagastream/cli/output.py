"""Print answers: text for people, JSON for programs."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sagastream.message import printable

_CELL = 60


def print_answer(answer: Any, output: str, as_text: Callable[[Any], str]) -> None:
    """Print an answer.

    Args:
        answer: A JSON value; a list has one item per row.
        output: `text`, `json` or `jsonl`.
        as_text: Makes the text for people.
    """
    if output == "text":
        if answer == []:
            print_hint("nothing found")
        elif text := as_text(answer):
            print(printable(text))
    elif output == "jsonl" and isinstance(answer, list):
        for row in answer:
            print(json.dumps(row))
    else:
        print(json.dumps(answer))


def print_error(text: str) -> None:
    """Print one line to standard error."""
    print(printable(f"sagastream: {' '.join(text.split())}"), file=sys.stderr)


def print_hint(text: str) -> None:
    """Print a hint to standard error."""
    print(printable(text), file=sys.stderr)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a table. An id, which is in one of the first two columns, is never cut."""
    if not rows:
        return ""
    cells = [[_cell(row.get(name), name) for name in columns] for row in rows]
    widths = [max(len(name), *(len(line[at]) for line in cells)) for at, name in enumerate(columns)]
    lines = [[name.upper().replace("_", " ") for name in columns], *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def fields(row: dict[str, Any]) -> str:
    """One row, a field per line; an object is indented JSON."""
    width = max(len(name) for name in row)
    lines = []
    for name, value in row.items():
        if isinstance(value, dict | list):
            text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) if value else "-"
        else:
            text = _cell(value, name, cut=False)
        lines.append(f"{name.ljust(width)}  " + text.replace("\n", "\n" + " " * (width + 2)))
    return "\n".join(lines)


def percent(progress: Mapping[str, Any]) -> str:
    """The fraction of a progress; '' if there is none."""
    fraction = progress.get("fraction")
    return f"{fraction:.0%}" if isinstance(fraction, int | float) else ""


def _cell(value: Any, name: str, *, cut: bool = True) -> str:
    if value in (None, "", [], {}):
        return "-"
    if name in {"time", "started", "ended", "due", "last_fired"} and isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        value = ", ".join(str(each) for each in value)
    text = " ".join(str(value).split())
    if cut and name in {"message", "reason", "error", "progress"} and len(text) > _CELL:
        return text[: _CELL - 1] + "…"
    return text
