"""Reads spans from OTLP JSON files: one export per line, from any number of processes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_ERROR = 2


@dataclass(frozen=True, slots=True)
class FileSpan:
    """A span read from a file.

    Attributes:
        name: The span's name.
        kind: `internal`, `server`, `client`, `producer` or `consumer`.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: 16 hex digits; '' for a root span.
        start: Seconds since the Unix epoch.
        end: Seconds since the Unix epoch.
        error: Error type and message; '' if the span did not fail.
        attributes: The span's attributes by name.
        events: Names of the span's events, in order.
        links: Ids of the linked spans.
        service: `service.name` of the process that recorded it.
        instance: `service.instance.id` of that process.
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


def read_spans(path: Path) -> Iterator[FileSpan]:
    """Read every span of a file; skip lines that a dying process left incomplete.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                exported = json.loads(line)
            except ValueError:
                continue
            for resource in exported.get("resourceSpans", ()):
                resource_attributes = _attributes(resource.get("resource", {}))
                for scope in resource.get("scopeSpans", ()):
                    for span in scope.get("spans", ()):
                        yield _span(span, resource_attributes)


def _span(span: Mapping[str, Any], resource: Mapping[str, Any]) -> FileSpan:
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
        service=str(resource.get("service.name", "")),
        instance=str(resource.get("service.instance.id", "")),
    )


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {item["key"]: _value(item["value"]) for item in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, found in value.items():
        return int(found) if kind == "intValue" else found
    return None
