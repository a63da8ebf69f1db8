"""Check spans and metrics against the OpenTelemetry messaging conventions, version 1.44.

The tables have the names, types and required attributes of the conventions. The project's own
names begin with `sagastream.`, `mission.` or `service.`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics.export import Histogram, MetricsData, Sum
from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True, slots=True)
class ExportedSpan:
    """A span, read from the SDK or from a collector."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    is_error: bool
    links: Sequence[str] = ()
    events: Sequence[str] = ()
    service: str = ""
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class ExportedSeries:
    """A metric with the attributes of one of its points, read from the SDK or a collector."""

    name: str
    unit: str
    instrument: str
    attributes: Mapping[str, Any]
    bounds: Sequence[float] = field(default=())


# For each operation type the allowed kinds of span.
_KINDS = {
    "create": {"producer"},
    "send": {"producer"},
    "receive": {"client"},
    "process": {"consumer"},
    "settle": {"client"},
}
_TYPES: dict[str, type] = {
    "messaging.system": str,
    "messaging.operation.name": str,
    "messaging.operation.type": str,
    "messaging.destination.name": str,
    "messaging.destination.template": str,
    "messaging.destination.partition.id": str,
    "messaging.message.id": str,
    "messaging.message.conversation_id": str,
    "messaging.consumer.group.name": str,
    "messaging.batch.message_count": int,
    "messaging.client.id": str,
    "server.address": str,
    "server.port": int,
    "error.type": str,
}
_REQUIRED = {"messaging.system", "messaging.operation.name", "messaging.destination.name"}
_RECOMMENDED = {"messaging.operation.type", "server.address"}
_OWN = ("sagastream.", "mission.", "service.")
# For each name the unit and the instrument.
_METRICS = {
    "messaging.client.operation.duration": ("s", "histogram"),
    "messaging.process.duration": ("s", "histogram"),
    "messaging.client.sent.messages": ("{message}", "counter"),
    "messaging.client.consumed.messages": ("{message}", "counter"),
}
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_NOT_IN_SERIES = {"messaging.message.id", "messaging.message.conversation_id"}
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-f]{16}")


def faults_of_span(span: ExportedSpan) -> list[str]:
    """Return how a span breaks the conventions, one line for each fault."""
    given = span.attributes
    faults = _faults_of_attributes(given)
    if "messaging.system" not in given:
        messaging = span.kind != "internal" or any(name.startswith("messaging.") for name in given)
        faults += ["no messaging.system"] if messaging else []
    else:
        faults += [f"no {name}" for name in sorted((_REQUIRED | _RECOMMENDED) - set(given))]
        low = given.get("messaging.destination.template") or given.get("messaging.destination.name")
        wanted = f"{given.get('messaging.operation.name')} {low}"
        if span.name != wanted:
            faults.append(f"is not named {wanted!r}")
        kinds = _KINDS.get(str(given.get("messaging.operation.type")), set())
        if span.kind not in kinds:
            faults.append(f"is {span.kind}, not one of {sorted(kinds)}")
        if "messaging.batch.message_count" in given and span.kind != "client":
            faults.append("has a message count but is not a batch operation")
        if given.get("messaging.operation.type") in {"process", "settle"}:
            needed = {"messaging.message.id"}
            # The queue of Celery has no consumer groups.
            if given.get("messaging.destination.name") != "celery":
                needed.add("messaging.consumer.group.name")
            faults += [f"no {name}" for name in sorted(needed - set(given))]
    if span.is_error != ("error.type" in given):
        faults.append("has only one of error status and error.type")
    if _ID.search(span.name):
        faults.append("has an id in its name")
    return [f"span {span.name!r}: {fault}" for fault in faults]


def faults_of_series(series: ExportedSeries) -> list[str]:
    """Return how a metric breaks the conventions, one line for each fault."""
    faults = _faults_of_attributes(series.attributes)
    if series.name.startswith("messaging."):
        known = _METRICS.get(series.name)
        if known is None:
            return [f"metric {series.name!r}: is not in the conventions"]
        if (series.unit, series.instrument) != known:
            faults.append(f"is a {series.instrument} in {series.unit!r}, not {known}")
        needed = {"messaging.system", "messaging.operation.name"}
        faults += [f"no {name}" for name in sorted(needed - set(series.attributes))]
        if series.instrument == "histogram" and tuple(series.bounds) != _BOUNDS:
            faults.append(f"has the buckets {series.bounds}")
    elif not series.name.startswith(_OWN):
        faults.append("has a name that is not in the conventions and not the project's")
    for name, value in series.attributes.items():
        if name in _NOT_IN_SERIES or _ID.search(str(value)):
            faults.append(f"has an id: {name}={value}")
    return [f"metric {series.name!r}: {fault}" for fault in faults]


def _faults_of_attributes(attributes: Mapping[str, Any]) -> list[str]:
    faults = []
    for name, value in attributes.items():
        wanted = _TYPES.get(name)
        if wanted is None and not name.startswith(_OWN):
            faults.append(f"{name} is not in the conventions")
        elif wanted is not None and not (isinstance(value, wanted) and value != ""):
            faults.append(f"{name} is {value!r}")
    return faults


def faults_of_trace(spans: Sequence[ExportedSpan]) -> list[str]:
    """Return why spans are not one trace with one root and no orphan, one line for each fault."""
    ids = [span.span_id for span in spans]
    faults = [f"span id {name} twice" for name in sorted({i for i in ids if ids.count(i) > 1})]
    if len({span.trace_id for span in spans}) != 1:
        faults.append(f"{len({span.trace_id for span in spans})} traces")
    roots = [span.name for span in spans if not span.parent_id]
    if len(roots) != 1:
        faults.append(f"roots: {roots}")
    faults += [
        f"{span.name!r} is an orphan"
        for span in spans
        if span.parent_id and span.parent_id not in ids
    ]
    return faults


def exported(span: ReadableSpan) -> ExportedSpan:
    """Convert a span of the SDK."""
    context = span.get_span_context()
    assert context is not None
    return ExportedSpan(
        name=span.name,
        kind=span.kind.name.lower(),
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else "",
        attributes=dict(span.attributes or {}),
        is_error=span.status.status_code.name == "ERROR",
        links=[f"{link.context.span_id:016x}" for link in span.links],
        events=[event.name for event in span.events],
    )


def series_of(data: MetricsData | None) -> list[ExportedSeries]:
    """Return all points of a metric reader of the SDK."""
    found = []
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                instrument = "gauge"
                if isinstance(metric.data, Histogram):
                    instrument = "histogram"
                elif isinstance(metric.data, Sum) and metric.data.is_monotonic:
                    instrument = "counter"
                for point in metric.data.data_points:
                    bounds = tuple(getattr(point, "explicit_bounds", ()))
                    attributes = dict(point.attributes or {})
                    found.append(
                        ExportedSeries(
                            metric.name, metric.unit or "", instrument, attributes, bounds
                        )
                    )
    return found
