import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from app.observability.span_files import FileSpan
from app.observability.waterfall import build_waterfall, headline, render

STEPS = ("one", "two")


def span(name: str, kind: str, start: float, end: float, **more: Any) -> FileSpan:
    """Make a span; its attribute names get the prefix `sagastream.`."""
    attributes = {f"sagastream.{key}": value for key, value in more.get("about", {}).items()}
    return FileSpan(
        name=name,
        kind=kind,
        trace_id="t",
        span_id=more.get("id", name),
        parent_id=more.get("parent", "root"),
        start=start,
        end=end,
        error=more.get("error", ""),
        attributes=attributes,
        events=(),
        links=(),
        service=more.get("service", "listener"),
        instance="host-7",
    )


ROOT = span("saga mission", "internal", 10.0, 10.0, parent="", about={"saga_id": "m"})


def request(
    step: str, start: float, end: float, *, undo: bool = False, error: str = "", wait: float = 0.5
) -> list[FileSpan]:
    """Make the spans of a step: the step, the sending of its command, the handler."""
    request_id = f"{'undo ' if undo else ''}{step}"
    about = {
        "request_id": request_id,
        "step": step,
        "direction": "undo" if undo else "forward",
        "attempt": 1,
    }
    sent = span(f"send {step}", "producer", start, start, id=f"s-{request_id}", about=about)
    handled = span(
        *(f"process {step}", "consumer", start + wait, end),
        id=f"p-{request_id}",
        parent=sent.span_id,
        error=error,
        about={"request_id": request_id, "attempt": 1},
    )
    whole = span(request_id, "internal", start, end, error=error, about=about)
    return [sent, handled, whole]


def drawn(spans: list[FileSpan]) -> str:
    """Render a waterfall as a terminal without colours shows it."""
    out = io.StringIO()
    Console(file=out, width=150, no_color=True).print(render(build_waterfall(spans, STEPS), 150))
    return out.getvalue()


def test_a_mission_that_completed() -> None:
    """Each step has waiting time, duration and process; nothing failed."""
    told = build_waterfall([ROOT, *request("one", 10, 12), *request("two", 12, 15)], STEPS)
    assert headline(told) == ["mission m completed, 5.0 s"]
    rows = [(r.name, r.status, r.start, r.duration_s, r.waited_s, r.who) for r in told.rows]
    assert rows == [
        ("one", "done", 0.0, 2, 0.5, "listener 7"),
        ("two", "done", 2.0, 3, 0.5, "listener 7"),
    ]


def test_the_headline_names_failure_and_compensations() -> None:
    """The headline names the error and the compensations in their order."""
    spans = [
        *(ROOT, *request("one", 10, 12), *request("two", 12, 13, error="Boom: no floor")),
        *request("two", 13, 14, undo=True),
        *request("one", 14, 15, undo=True),
    ]
    assert headline(build_waterfall(spans, STEPS)) == [
        "mission m compensated, 5.0 s",
        "  failed   two: Boom: no floor",
        "  undone   two, one",
    ]
    lines = drawn(spans).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        *(["one", "done"], ["two", "FAILED"], ["<-", "undo"], ["<-", "undo"])
    ]


def test_a_failed_compensation_is_conspicuous() -> None:
    """It is in the headline, and in capitals in its row."""
    spans = [ROOT, *request("one", 10, 11, error="Boom: x")]
    spans += request("one", 11, 12, undo=True, error="Stuck: y")
    assert build_waterfall(spans, STEPS).status == "compensation FAILED"
    assert "UNDO FAILED" in drawn(spans)


def test_a_lost_handler_and_its_successor_have_rows() -> None:
    """The first is LOST; the second waited until the lease of the first expired."""
    spans = [ROOT, *request("one", 10, 20)]
    about = {"request_id": "one", "attempt": 1}
    lost = "HandlerLost: its handler was lost"
    spans += [span("process one", "consumer", 10.2, 14, id="lost", error=lost, about=about)]
    spans[2] = span(
        "process one", "consumer", 14, 20, id="again", about={"request_id": "one", "attempt": 2}
    )
    rows = build_waterfall(spans, STEPS).rows
    assert [(r.kind, r.attempt, r.status, r.who) for r in rows] == [
        ("step", 1, "done", "listener 7"),
        ("attempt", 1, "LOST", ""),
        ("attempt", 2, "done", "listener 7"),
    ]
    assert rows[1].waited_s == pytest.approx(0.2)


def test_orders_of_one_event_type_share_a_row() -> None:
    """The row has the number of orders, of failures, and the errors."""
    spans = [ROOT, *request("one", 10, 20)]
    for number in range(5):
        start = 11 + number
        sent = span("send robots", "producer", start, start, id=f"o{number}", parent="p-one")
        error = "Stale: no" if number == 3 else ""
        about = {"event_type": "robot:drive", "request_id": f"o{number}"}
        spans += [
            sent,
            span(
                *("process robots", "consumer", start + 0.25, start + 1),
                parent=sent.span_id,
                service="robots",
                error=error,
                about=about,
            ),
        ]
    (orders,) = [row for row in build_waterfall(spans, STEPS).rows if row.kind == "orders"]
    assert (orders.name, orders.attempt, orders.status) == ("robot:drive", 5, "1 FAILED")
    assert (orders.error, orders.who, orders.waited_s) == ("1 x Stale: no", "robots 7", 0.25)


def test_a_running_step_has_no_duration() -> None:
    """A sent step whose span is missing is running, and so is the mission."""
    told = build_waterfall([ROOT, *request("one", 10, 12), *request("two", 12, 15)[:1]], STEPS)
    assert told.status == "running"
    assert [(row.name, row.status, row.duration_s) for row in told.rows][1] == (
        *("two", "running", None),
    )
    assert "running" in drawn([ROOT, *request("one", 10, 12)[:2]])


def test_spans_without_a_root_are_a_waterfall_too() -> None:
    """The root may be in another process's file: the first span of the mission is the start."""
    spans = request("one", 10, 12)
    spans[0] = replace(spans[0], attributes={**spans[0].attributes, "sagastream.saga_id": "m"})
    told = build_waterfall([*spans, *request("two", 12, 15)], STEPS)
    assert (told.saga_id, told.status, told.duration_s) == ("m", "completed", 5)
    assert [row.start for row in told.rows] == [0, 2]


def test_a_running_mission_lasts_until_now() -> None:
    """Not until the end of its last span; one that has ended does not grow."""
    running = [ROOT, *request("one", 10, 12), *request("two", 12, 15)[:1]]
    assert build_waterfall(running, STEPS, now=57.0).duration_s == 47.0
    ended = [ROOT, *request("one", 10, 12), *request("two", 12, 15)]
    assert build_waterfall(ended, STEPS, now=57.0).duration_s == 5.0


def test_spans_without_a_root_are_an_error() -> None:
    """Spans that no mission's id is on are an error, not an empty waterfall."""
    with pytest.raises(ValueError, match="no root"):
        build_waterfall(request("one", 10, 12), STEPS)
