"""Write the Grafana dashboards to deploy/grafana/dashboards; with --check, report differences."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

PLACE = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
TEMPO = {"type": "tempo", "uid": "tempo"}
_RATE = "[$__rate_interval]"
_WIDTH, _HEIGHT = 12, 8

Panel = dict[str, Any]


def _graph(title: str, unit: str, *queries: tuple[str, str], description: str = "") -> Panel:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": PROMETHEUS,
            "expr": expression,
            "legendFormat": legend,
            "exemplar": "histogram_quantile" in expression,
        }
        for number, (expression, legend) in enumerate(queries)
    ]
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": PROMETHEUS,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"showLegend": True}},
    }


def _stat(title: str, expression: str, unit: str = "short", *, bad_from: float = 0) -> Panel:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if bad_from:
        steps.append({"color": "red", "value": bad_from})
    return {
        "type": "stat",
        "title": title,
        "datasource": PROMETHEUS,
        "targets": [{"refId": "A", "datasource": PROMETHEUS, "expr": expression}],
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"},
    }


def _search(title: str, query: str) -> Panel:
    target = {
        "refId": "A",
        "datasource": TEMPO,
        "queryType": "traceql",
        "query": query,
        "limit": 50,
        "tableType": "traces",
    }
    return {"type": "table", "title": title, "datasource": TEMPO, "targets": [target]}


def _quantiles(metric: str, by: str) -> list[tuple[str, str]]:
    return [
        (f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{_RATE})))", legend)
        for q, legend in ((0.5, f"{{{{{by}}}}} median"), (0.95, f"{{{{{by}}}}} 95th percentile"))
    ]


def _dashboard(uid: str, title: str, panels: list[Panel], variables: list[Any]) -> dict[str, Any]:
    x = y = row = 0
    for number, panel in enumerate(panels, 1):
        width = panel.pop("width", {"stat": 6}.get(panel["type"], _WIDTH))
        height = panel.pop("height", {"stat": 4}.get(panel["type"], _HEIGHT))
        if x + width > 2 * _WIDTH:
            x, y, row = 0, y + row, 0
        panel |= {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
        x, row = x + width, max(row, height)
    return {
        "uid": uid,
        "title": title,
        "tags": ["mission-control"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "Mission control", "tags": ["mission-control"]},
        ],
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": panels,
    }


def _missions() -> dict[str, Any]:
    state = 'max by (sagastream_saga_state) (sagastream_sagas{{sagastream_saga_state="{}"}})'
    step = "sagastream_saga_step_duration_seconds"
    return _dashboard(
        "missions",
        "Missions",
        [
            _stat("Open", state.format("open")),
            _stat("Ended (retained)", state.format("ended")),
            _stat("Stuck", state.format("stuck"), bad_from=1),
            _stat("Explored", "max(mission_explored)", "percentunit"),
            _graph(
                "Steps ended per second",
                "ops",
                (
                    f"sum by (sagastream_step, sagastream_direction) (rate({step}_count{_RATE}))",
                    "{{sagastream_direction}} {{sagastream_step}}",
                ),
            ),
            _graph("Duration of steps", "s", *_quantiles(step, "sagastream_step")),
            _graph(
                "Failed steps per second",
                "ops",
                (
                    f'sum by (sagastream_step, error_type) (rate({step}_count{{error_type!=""}}{_RATE}))',
                    "{{sagastream_step}} {{error_type}}",
                ),
            ),
            _graph(
                "Compensations per second",
                "ops",
                (
                    (
                        "sum by (sagastream_step, error_type) "
                        f"(rate(sagastream_saga_compensations_total{_RATE}))"
                    ),
                    "{{sagastream_step}} {{error_type}}",
                ),
            ),
            _search("Missions, newest first", '{ name = "saga mission" }'),
            _search(
                "Missions with a failed step",
                '{ name = "saga mission" } && { status = error && span.sagastream.direction != nil }',
            ),
        ],
        [],
    )


def _handlers() -> dict[str, Any]:
    process = "messaging_process_duration_seconds"
    by = "sagastream_event_type"
    return _dashboard(
        "handlers",
        "Handlers",
        [
            _graph(
                "Commands handled per second",
                "ops",
                (f"sum by ({by}) (rate({process}_count{_RATE}))", f"{{{{{by}}}}}"),
            ),
            _graph(
                "Failures per second",
                "ops",
                (
                    f'sum by ({by}, error_type) (rate({process}_count{{error_type!=""}}{_RATE}))',
                    f"{{{{{by}}}}} {{{{error_type}}}}",
                ),
            ),
            _graph("Duration of handlers", "s", *_quantiles(process, by)),
            _graph(
                "Duration of stream operations",
                "s",
                *_quantiles(
                    "messaging_client_operation_duration_seconds", "messaging_operation_name"
                ),
            ),
            _search("Handlers that failed", "{ kind = consumer && status = error }"),
        ],
        [],
    )


def _streams() -> dict[str, Any]:
    stream = "messaging_destination_name"

    def gauge(name: str) -> tuple[str, str]:
        return f"max by ({stream}) ({name})", f"{{{{{stream}}}}}"

    def rate(name: str) -> tuple[str, str]:
        by = f"{stream}, messaging_destination_template"
        return (
            f"sum by ({by}) (rate({name}{_RATE}))",
            f"{{{{{stream}}}}}{{{{messaging_destination_template}}}}",
        )

    return _dashboard(
        "streams",
        "Streams",
        [
            _graph("Unread commands", "short", gauge("sagastream_stream_depth")),
            _graph("Pending commands", "short", gauge("sagastream_stream_pending")),
            _graph(
                "Age of the oldest pending command",
                "s",
                gauge("sagastream_stream_pending_age_seconds"),
            ),
            _graph("Dead letters", "short", gauge("sagastream_stream_dead_letters")),
            _graph("Sent per second", "ops", rate("messaging_client_sent_messages_total")),
            _graph("Consumed per second", "ops", rate("messaging_client_consumed_messages_total")),
            _graph("Redeliveries per second", "ops", rate("sagastream_redeliveries_total")),
            _graph("Lost leases per second", "ops", rate("sagastream_lease_losses_total")),
        ],
        [],
    )


def _mission_trace() -> dict[str, Any]:
    trace = {
        "type": "traces",
        "title": "Trace $trace",
        "description": "The trace id that `mission show` and `mission run` print last.",
        "datasource": TEMPO,
        "targets": [{"refId": "A", "datasource": TEMPO, "queryType": "traceql", "query": "$trace"}],
        "width": 24,
        "height": 22,
    }
    graph = {
        "type": "nodeGraph",
        "title": "Service graph",
        "datasource": TEMPO,
        "targets": [{"refId": "A", "datasource": TEMPO, "queryType": "serviceMap"}],
        "width": 24,
        "height": 12,
    }
    edges = _graph(
        "Requests between services",
        "ops",
        (
            f"sum by (client, server) (rate(traces_service_graph_request_total{_RATE}))",
            "{{client}} to {{server}}",
        ),
    )
    waits = _graph(
        "Time in streams, 95th percentile",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (le, client, server) (rate("
                f"traces_service_graph_request_messaging_system_seconds_bucket{_RATE})))"
            ),
            "{{client}} to {{server}}",
        ),
    )
    variable = {"type": "textbox", "name": "trace", "label": "Trace id", "query": ""}
    return _dashboard(
        "mission-trace", "A mission's trace", [trace, graph, edges, waits], [variable]
    )


def dashboards() -> dict[str, dict[str, Any]]:
    """Return every dashboard by the name of its file."""
    made = (_missions(), _handlers(), _streams(), _mission_trace())
    return {f"{dashboard['uid']}.json": dashboard for dashboard in made}


def drift(place: Path) -> list[str]:
    """Return the names of the files that differ from what this script would write."""
    wanted = {name: json.dumps(made, indent=2) + "\n" for name, made in dashboards().items()}
    existing = {path.name: path.read_text() for path in place.glob("*.json")}
    names = sorted(wanted.keys() | existing.keys())
    return [name for name in names if wanted.get(name) != existing.get(name)]


def main() -> int:
    """Write the dashboards, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file differs"
    )
    if parser.parse_args().check:
        differ = drift(PLACE)
        print("\n".join(f"{name} differs: run scripts/dashboards.py" for name in differ))
        return 1 if differ else 0
    for name, made in dashboards().items():
        (PLACE / name).write_text(json.dumps(made, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
