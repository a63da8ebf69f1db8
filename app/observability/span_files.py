"""Spans as they stand in files of OTLP JSON: one export a line, from any number of processes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_ERROR = 2


@dataclass(frozen=True, slots=True)
class FileSpan:
    """A span as a file has it.

    Attributes:
        name: Its name.
        kind: `internal`, `producer`, `client` or `consumer`.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: 16 hex digits, '' for a root.
        start: Seconds since the epoch.
        end: Seconds since the epoch.
        error: What failed, '' if nothing did.
        attributes: By name.
        events: Their names, in order.
        links: The ids of the spans that it is linked to.
        service: The kind of process that made it.
        instance: The process that made it.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    error: str
    attributes: Mapping[str, Any]
    events: tuple[str, ...]
    links: tuple[str, ...]
    service: str
    instance: str


def spans_of(path: Path) -> Iterator[FileSpan]:
    """Every span in a file; a line that a dying process left half written is passed over."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                exported = json.loads(line)
            except ValueError:
                continue
            for resource in exported.get("resourceSpans", ()):
                about = _attributes(resource.get("resource", {}))
                for scope in resource.get("scopeSpans", ()):
                    for span in scope.get("spans", ()):
                        yield _span(span, about)


def _span(span: Mapping[str, Any], about: Mapping[str, Any]) -> FileSpan:
    attributes = _attributes(span)
    status = span.get("status", {})
    error = ""
    if status.get("code") == _ERROR:
        error = f"{attributes.get('error.type', 'error')}: {status.get('message', '')}"
    return FileSpan(
        name=span["name"],
        kind=_KINDS.get(span.get("kind", 1), "internal"),
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        start=int(span["startTimeUnixNano"]) / 1e9,
        end=int(span["endTimeUnixNano"]) / 1e9,
        error=error.removesuffix(": "),
        attributes=attributes,
        events=tuple(event["name"] for event in span.get("events", ())),
        links=tuple(link["spanId"] for link in span.get("links", ())),
        service=str(about.get("service.name", "")),
        instance=str(about.get("service.instance.id", "")),
    )


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {item["key"]: _value(item["value"]) for item in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, found in value.items():
        return int(found) if kind == "intValue" else found
    return None
