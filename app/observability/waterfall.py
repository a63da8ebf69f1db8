"""The waterfall of a mission's trace: steps, attempts, the process that ran each, waiting times.

Pure functions: `build_waterfall` turns spans into rows, `render` turns rows into a table. Orders
to robots are many, so all orders of one event type share a row.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from app.observability.span_files import FileSpan, read_spans

Kind = Literal["step", "undo", "attempt", "orders"]

# Widths in characters: of the bars, and of all other columns together.
_MIN_BAR, _MAX_BAR, _OTHER_COLUMNS = 16, 32, 110
_COLOURS = {"done": "green", "undone": "cyan", "running": "yellow"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the waterfall.

    Attributes:
        kind: A step, its compensation, one handler's attempt, or all orders of one event type.
        name: The name of the step, or the event type.
        attempt: From 1; for orders, their number.
        status: `done`, `FAILED`, `undone`, `UNDO FAILED`, `LOST`, `running`.
        start: Seconds since the mission's start.
        duration_s: Seconds until its end; None while it runs.
        waited_s: Seconds from sending until a handler started; None if unknown.
        who: The process that ran it.
        error: Error type and message; '' if it did not fail.
    """

    kind: Kind
    name: str
    attempt: int
    status: str
    start: float
    duration_s: float | None
    waited_s: float | None
    who: str
    error: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The waterfall of one mission.

    Attributes:
        saga_id: The mission's id.
        trace_id: The id of its trace.
        status: `completed`, `compensated`, `compensation FAILED`, `failed` or `running`.
        duration_s: Seconds from its start to the end of the last step.
        failed: The step and the error that started the compensation; '' if none did.
        undone: The compensated steps, in the order of their compensation.
        rows: The rows in the order of their start.
    """

    saga_id: str
    trace_id: str
    status: str
    duration_s: float
    failed: str
    undone: tuple[str, ...]
    rows: tuple[Row, ...]


def build_waterfall(
    spans: Sequence[FileSpan], steps: Sequence[str], *, now: float | None = None
) -> Waterfall:
    """Build the waterfall of a mission from its spans.

    The root span may be in the file of another process: the first span then counts as the start.

    Args:
        spans: All spans of the mission's trace.
        steps: The names of all steps, in order.
        now: The time until which a running mission has lasted, in seconds since the Unix epoch;
            None for the end of its last span.

    Raises:
        ValueError: There is no root span, and no span has a mission's id.
    """
    root = next((span for span in spans if _is_root(span)), None)
    if root is None:
        of_mission = [span for span in spans if "sagastream.saga_id" in span.attributes]
        if not of_mission:
            raise ValueError("the spans include no root span of a saga, and none has its id")
        root = min(of_mission, key=lambda span: span.start)
    requests = defaultdict(list)
    for span in spans:
        requests[str(span.attributes.get("sagastream.request_id", ""))].append(span)
    ends = [span for span in spans if _is_step(span)]
    ended = {str(span.attributes["sagastream.request_id"]) for span in ends}
    # A step's span is recorded at its end. A running step is found by the command sent for it.
    running = [
        span
        for span in spans
        if span.kind == "producer"
        and "sagastream.step" in span.attributes
        and "sagastream.direction" in span.attributes
        and span.attributes.get("sagastream.request_id") not in ended
    ]
    rows: list[Row] = []
    for span in sorted([*ends, *_first_of_each(running)], key=lambda span: span.start):
        request = requests[str(span.attributes["sagastream.request_id"])]
        rows += _request_rows(span, request, spans, root.start, has_ended=span in ends)
    return _summarise(root, rows, steps, now)


def find_waterfall(mission: str, files: Iterable[Path], steps: Sequence[str]) -> Waterfall | None:
    """Build a mission's waterfall from the first file with its spans; None if none has one.

    A file with the root span takes precedence.

    Args:
        mission: The mission's id, or the id of its trace.
        files: Files of OTLP JSON.
        steps: The names of all steps, in order.

    Raises:
        OSError: A file cannot be read.
    """
    without_root: list[FileSpan] = []
    for path in files:
        spans = list(read_spans(path))
        traces = {span.trace_id for span in spans if _is_of(span, mission)}
        same_trace = [span for span in spans if span.trace_id in traces]
        if any(_is_root(span) for span in same_trace):
            return build_waterfall(same_trace, steps, now=time.time())
        without_root = without_root or same_trace
    return build_waterfall(without_root, steps, now=time.time()) if without_root else None


def traced_missions(files: Iterable[Path]) -> set[str]:
    """Return the ids of the missions that have spans in files of OTLP JSON.

    Raises:
        OSError: A file cannot be read.
    """
    spans = (span for path in files for span in read_spans(path))
    ids = (span.attributes.get("sagastream.saga_id") for span in spans)
    return {str(one) for one in ids if one}


def trace_files(file: Path | None, folder: Path) -> Iterator[Path]:
    """Yield the current trace file, if it exists, then the files of a folder, newest first."""
    if file and file.exists():
        yield file
    yield from sorted(folder.glob("*.jsonl"), reverse=True)


def _is_root(span: FileSpan) -> bool:
    return span.name.startswith("saga ") and "sagastream.saga_id" in span.attributes


def _is_of(span: FileSpan, mission: str) -> bool:
    """Whether a span belongs to a mission, given by its id or that of its trace."""
    found = span.attributes.get("sagastream.saga_id")
    return bool(found) and mission in {found, span.trace_id}


def _is_step(span: FileSpan) -> bool:
    return span.kind == "internal" and "sagastream.direction" in span.attributes


def _first_of_each(spans: Iterable[FileSpan]) -> list[FileSpan]:
    first: dict[str, FileSpan] = {}
    for span in sorted(spans, key=lambda span: span.start):
        first.setdefault(str(span.attributes["sagastream.request_id"]), span)
    return list(first.values())


def _request_rows(
    span: FileSpan,
    request: Sequence[FileSpan],
    spans: Sequence[FileSpan],
    origin: float,
    *,
    has_ended: bool,
) -> list[Row]:
    """Return the rows of a step, of its handlers if there were several, and of its orders."""
    undo = span.attributes["sagastream.direction"] == "undo"
    handlers = sorted((s for s in request if s.kind == "consumer"), key=lambda s: s.start)
    sent = min((s.start for s in request if s.kind == "producer"), default=span.start)
    status = ("UNDO FAILED" if undo else "FAILED") if span.error else "undone" if undo else "done"
    row = Row(
        kind="undo" if undo else "step",
        name=str(span.attributes["sagastream.step"]),
        attempt=int(span.attributes.get("sagastream.attempt", 1)),
        status=status if has_ended else "running",
        start=span.start - origin,
        duration_s=span.end - span.start if has_ended else None,
        waited_s=max(0.0, handlers[0].start - sent) if handlers else None,
        who=_who(handlers[-1]) if handlers else "",
        error=span.error,
    )
    rows, available = [row], sent
    for number, handler in enumerate(handlers, 1):
        if len(handlers) > 1:
            lost = handler.error.startswith(("HandlerLost", "LeaseLost"))
            rows.append(
                Row(
                    "attempt",
                    row.name,
                    int(handler.attributes.get("sagastream.attempt", number)),
                    "LOST" if lost else "FAILED" if handler.error else "done",
                    handler.start - origin,
                    handler.end - handler.start,
                    max(0.0, handler.start - available),
                    "" if lost else _who(handler),
                    handler.error,
                )
            )
            available = handler.start if not lost else handler.end
        rows += _order_rows(handler, spans, origin)
    return rows


def _order_rows(handler: FileSpan, spans: Sequence[FileSpan], origin: float) -> list[Row]:
    """Return one row per event type of the orders that a handler sent."""
    sent = {
        span.span_id: span
        for span in spans
        if span.parent_id == handler.span_id and span.kind == "producer"
    }
    by_type = defaultdict(list)
    for span in spans:
        if span.kind == "consumer" and span.parent_id in sent:
            by_type[str(span.attributes.get("sagastream.event_type", span.name))].append(span)
    rows = []
    for name, orders in sorted(by_type.items(), key=lambda item: min(s.start for s in item[1])):
        start = min(span.start for span in orders)
        failed = Counter(span.error for span in orders if span.error)
        waits = [max(0.0, span.start - sent[span.parent_id].start) for span in orders]
        error = "; ".join(f"{count} x {text}" for text, count in failed.most_common(2))
        rows.append(
            Row(
                "orders",
                name,
                len(orders),
                f"{failed.total()} FAILED" if failed else "done",
                start - origin,
                max(span.end for span in orders) - start,
                max(waits),
                ", ".join(sorted({_who(span) for span in orders})),
                error,
            )
        )
    return rows


def _who(span: FileSpan) -> str:
    return f"{span.service} {span.instance.rpartition('-')[2]}".strip()


def _summarise(
    root: FileSpan, rows: Sequence[Row], steps: Sequence[str], now: float | None
) -> Waterfall:
    forward = {row.name: row for row in rows if row.kind == "step"}
    undoing = {row.name: row for row in rows if row.kind == "undo"}
    failed = [row for row in rows if row.kind == "step" and row.status == "FAILED"]
    undone = [row.name for row in rows if row.kind == "undo" and row.status == "undone"]
    unfinished = any(row.status == "running" for row in (*forward.values(), *undoing.values()))
    status = "running"
    if any(row.status == "UNDO FAILED" for row in undoing.values()):
        status = "compensation FAILED"
    elif undoing and not unfinished:
        status = "compensated"
    elif failed and not unfinished:
        status = "failed"
    elif all(name in forward and forward[name].status == "done" for name in steps):
        status = "completed"
    failure = f"{failed[-1].name}: {failed[-1].error}" if failed else ""
    ends = [row.start + (row.duration_s or 0.0) for row in rows]
    if status == "running" and now is not None:
        ends.append(now - root.start)
    return Waterfall(
        str(root.attributes["sagastream.saga_id"]),
        root.trace_id,
        status,
        max(ends, default=0.0),
        failure,
        tuple(undone),
        tuple(rows),
    )


def headline(waterfall: Waterfall) -> list[str]:
    """Return the status, what failed and what was undone, in at most three lines."""
    lines = [f"mission {waterfall.saga_id} {waterfall.status}, {waterfall.duration_s:.1f} s"]
    if waterfall.failed:
        lines.append(f"  failed   {waterfall.failed}")
    if waterfall.undone:
        lines.append(f"  undone   {', '.join(waterfall.undone)}")
    return lines


def render(waterfall: Waterfall, width: int) -> Table:
    """Return the waterfall as a table; failures are in capitals, so that they need no colour."""
    bar_width = max(_MIN_BAR, min(_MAX_BAR, width - _OTHER_COLUMNS))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("step", "result"):
        table.add_column(name, no_wrap=True)
    for name in ("wait", "took"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"0 s{f'{waterfall.duration_s:.1f} s':>{bar_width - 3}}", no_wrap=True)
    table.add_column("run by", no_wrap=True)
    table.add_column("error", overflow="fold")
    for row in waterfall.rows:
        bad = row.status.isupper() or "FAILED" in row.status
        colour = "bold red" if bad else _COLOURS.get(row.status, "")
        if row.kind in {"attempt", "orders"}:
            colour = "red" if bad else "dim"
        table.add_row(
            Text(_label(row), style=colour),
            Text(row.status, style=colour),
            _seconds(row.waited_s),
            _seconds(row.duration_s),
            Text(_bar(row, waterfall.duration_s, bar_width), style=colour),
            row.who,
            Text(row.error if row.kind != "step" or bad else "", style=colour),
        )
    return table


def _label(row: Row) -> str:
    again = f" (try {row.attempt})" if row.attempt > 1 else ""
    return {
        "step": f"{row.name}{again}",
        "undo": f"<- undo {row.name}{again}",
        "attempt": f"   handler {row.attempt}",
        "orders": f"   {row.name} x {row.attempt}",
    }[row.kind]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _bar(row: Row, total_s: float, bar_width: int) -> str:
    scale = bar_width / total_s if total_s > 0 else 0.0
    first = min(bar_width - 1, int(row.start * scale))
    length = bar_width - first if row.duration_s is None else max(1, round(row.duration_s * scale))
    mark = {"orders": "·", "attempt": "─", "undo": "◄"}.get(row.kind, "█")
    return " " * first + mark * min(length, bar_width - first)
