"""The story of a mission from its spans: steps and their attempts, who ran each, how long it waited.

Values in, values out: `story` makes rows of spans, `draw` a table of rows. Orders to robots are
many, so that those of one kind stand in one line.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from app.observability.span_files import FileSpan, spans_of

Kind = Literal["step", "undo", "attempt", "orders"]

# Characters that the bars take, and the columns beside them.
_LEAST_BAR, _MOST_BAR, _BESIDE_BAR = 16, 32, 110
_COLOURS = {"done": "green", "undone": "cyan", "running": "yellow"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the waterfall.

    Attributes:
        kind: A step, the undoing of one, one handler's attempt at it, or orders of one kind.
        name: The step's, or the event type.
        attempt: From 1; of orders, how many.
        status: `done`, `FAILED`, `undone`, `UNDO FAILED`, `LOST`, `running`.
        start: Seconds from the mission's start.
        duration_s: Until its end; None while it has none.
        waited_s: From being sent until a handler began; None where that is not known.
        who: The process that ran it.
        error: What failed, '' if nothing did.
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
class Story:
    """A mission as its spans tell it.

    Attributes:
        saga_id: The mission.
        trace_id: Its trace.
        status: `completed`, `compensated`, `compensation FAILED` or `running`.
        duration_s: From its start to the last end of a step.
        failed: What turned it round, '' if nothing did.
        undone: The steps that were undone, in that order.
        rows: In the order in which they began.
    """

    saga_id: str
    trace_id: str
    status: str
    duration_s: float
    failed: str
    undone: tuple[str, ...]
    rows: tuple[Row, ...]


def story(spans: Sequence[FileSpan], steps: Sequence[str]) -> Story:
    """What a mission's spans tell.

    Args:
        spans: All spans of its trace, one at least, the root among them.
        steps: The names of all its steps, in order.

    Raises:
        ValueError: The root is not among the spans.
    """
    root = next((span for span in spans if _is_root(span)), None)
    if root is None:
        raise ValueError("the spans have no root of a saga")
    requests = defaultdict(list)
    for span in spans:
        requests[str(span.attributes.get("sagastream.request_id", ""))].append(span)
    ends = [span for span in spans if _is_step(span)]
    ended = {str(span.attributes["sagastream.request_id"]) for span in ends}
    # What has no end yet is known by the command that was sent for it.
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
        rows += _of_request(span, request, spans, root.start, has_ended=span in ends)
    return _told(root, rows, steps)


def find_story(mission: str, files: Iterable[Path], steps: Sequence[str]) -> Story | None:
    """What the first of some files that has a mission's root span tells of it; None if none has.

    Args:
        mission: Its id, or its trace's.
        files: Of OTLP JSON.
        steps: The names of all its steps, in order.

    Raises:
        OSError: A file cannot be read.
    """
    for path in files:
        spans = list(spans_of(path))
        for span in spans:
            if _is_root(span) and mission in {
                span.attributes["sagastream.saga_id"],
                span.trace_id,
            }:
                return story([one for one in spans if one.trace_id == span.trace_id], steps)
    return None


def trace_files(file: Path | None, place: Path) -> Iterator[Path]:
    """The file that spans go to now, if there is one, then those of a folder, the newest first."""
    if file and file.exists():
        yield file
    yield from sorted(place.glob("*.jsonl"), reverse=True)


def _is_root(span: FileSpan) -> bool:
    return span.name.startswith("saga ") and "sagastream.saga_id" in span.attributes


def _is_step(span: FileSpan) -> bool:
    return span.kind == "internal" and "sagastream.direction" in span.attributes


def _first_of_each(spans: Iterable[FileSpan]) -> list[FileSpan]:
    first: dict[str, FileSpan] = {}
    for span in sorted(spans, key=lambda span: span.start):
        first.setdefault(str(span.attributes["sagastream.request_id"]), span)
    return list(first.values())


def _of_request(
    span: FileSpan,
    request: Sequence[FileSpan],
    spans: Sequence[FileSpan],
    zero: float,
    *,
    has_ended: bool,
) -> list[Row]:
    """A step's line; one for each of its handlers, if they were several; one for each kind of order."""
    undo = span.attributes["sagastream.direction"] == "undo"
    handlers = sorted((one for one in request if one.kind == "consumer"), key=lambda one: one.start)
    sent = min((one.start for one in request if one.kind == "producer"), default=span.start)
    status = ("UNDO FAILED" if undo else "FAILED") if span.error else "undone" if undo else "done"
    row = Row(
        kind="undo" if undo else "step",
        name=str(span.attributes["sagastream.step"]),
        attempt=int(span.attributes.get("sagastream.attempt", 1)),
        status=status if has_ended else "running",
        start=span.start - zero,
        duration_s=span.end - span.start if has_ended else None,
        waited_s=max(0.0, handlers[0].start - sent) if handlers else None,
        who=_who(handlers[-1]) if handlers else "",
        error=span.error,
    )
    rows, before = [row], sent
    for number, handler in enumerate(handlers, 1):
        if len(handlers) > 1:
            lost = handler.error.startswith(("HandlerLost", "LeaseLost"))
            rows.append(
                Row(
                    "attempt",
                    row.name,
                    int(handler.attributes.get("sagastream.attempt", number)),
                    "LOST" if lost else "FAILED" if handler.error else "done",
                    handler.start - zero,
                    handler.end - handler.start,
                    max(0.0, handler.start - before),
                    "" if lost else _who(handler),
                    handler.error,
                )
            )
            before = handler.start if not lost else handler.end
        rows += _orders(handler, spans, zero)
    return rows


def _orders(handler: FileSpan, spans: Sequence[FileSpan], zero: float) -> list[Row]:
    """What a handler had others do, by kind."""
    sent = {
        span.span_id: span
        for span in spans
        if span.parent_id == handler.span_id and span.kind == "producer"
    }
    kinds = defaultdict(list)
    for span in spans:
        if span.kind == "consumer" and span.parent_id in sent:
            kinds[str(span.attributes.get("sagastream.event_type", span.name))].append(span)
    rows = []
    for name, orders in sorted(kinds.items(), key=lambda item: min(s.start for s in item[1])):
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
                start - zero,
                max(span.end for span in orders) - start,
                max(waits),
                ", ".join(sorted({_who(span) for span in orders})),
                error,
            )
        )
    return rows


def _who(span: FileSpan) -> str:
    return f"{span.service} {span.instance.rpartition('-')[2]}".strip()


def _told(root: FileSpan, rows: Sequence[Row], steps: Sequence[str]) -> Story:
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
    told = f"{failed[-1].name}: {failed[-1].error}" if failed else ""
    ends = [row.start + (row.duration_s or 0.0) for row in rows]
    return Story(
        str(root.attributes["sagastream.saga_id"]),
        root.trace_id,
        status,
        max(ends, default=0.0),
        told,
        tuple(undone),
        tuple(rows),
    )


def headline(told: Story) -> list[str]:
    """What failed and what was undone, in three lines at most."""
    lines = [f"mission {told.saga_id} {told.status}, {told.duration_s:.1f} s"]
    if told.failed:
        lines.append(f"  failed   {told.failed}")
    if told.undone:
        lines.append(f"  undone   {', '.join(told.undone)}")
    return lines


def draw(told: Story, width: int) -> Table:
    """The waterfall as a table; what went wrong is in capitals, whatever colours there are."""
    wide = max(_LEAST_BAR, min(_MOST_BAR, width - _BESIDE_BAR))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("step", "result"):
        table.add_column(name, no_wrap=True)
    for name in ("wait", "took"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"0 s{f'{told.duration_s:.1f} s':>{wide - 3}}", no_wrap=True)
    table.add_column("run by", no_wrap=True)
    table.add_column("error", overflow="fold")
    for row in told.rows:
        bad = row.status.isupper() or "FAILED" in row.status
        colour = "bold red" if bad else _COLOURS.get(row.status, "")
        if row.kind in {"attempt", "orders"}:
            colour = "red" if bad else "dim"
        table.add_row(
            Text(_label(row), style=colour),
            Text(row.status, style=colour),
            _seconds(row.waited_s),
            _seconds(row.duration_s),
            Text(_bar(row, told.duration_s, wide), style=colour),
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


def _bar(row: Row, whole_s: float, wide: int) -> str:
    scale = wide / whole_s if whole_s > 0 else 0.0
    first = min(wide - 1, int(row.start * scale))
    length = wide - first if row.duration_s is None else max(1, round(row.duration_s * scale))
    mark = {"orders": "·", "attempt": "─", "undo": "◄"}.get(row.kind, "█")
    return " " * first + mark * min(length, wide - first)
