"""Counters and histograms of messages and sagas; needs only the OpenTelemetry API.

Names and units follow the messaging semantic conventions, version 1.44; names that are not in
them begin with `sagastream.`. No attribute is an id: a stream is named by its template.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry import metrics

_METER = metrics.get_meter("sagastream", schema_url="https://opentelemetry.io/schemas/1.44.0")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_MINUTES = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
Series = Mapping[str, str | int]
# The attributes that a series may have.
_KEPT = (
    "messaging.system",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.consumer.group.name",
    "server.address",
    "server.port",
)

_OPERATION = _METER.create_histogram(
    "messaging.client.operation.duration",
    unit="s",
    description="Duration of messaging operation initiated by a producer or consumer client.",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
_PROCESS = _METER.create_histogram(
    "messaging.process.duration",
    unit="s",
    description="Duration of processing operation.",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
_SENT = _METER.create_counter(
    "messaging.client.sent.messages",
    unit="{message}",
    description="Number of messages producer attempted to send to the broker.",
)
_CONSUMED = _METER.create_counter(
    "messaging.client.consumed.messages",
    unit="{message}",
    description="Number of messages that were delivered to the application.",
)
_REDELIVERIES = _METER.create_counter(
    "sagastream.redeliveries",
    unit="{message}",
    description="Number of commands that were taken over from a handler that was lost or stopped.",
)
_DEAD_LETTERS = _METER.create_counter(
    "sagastream.dead_letters",
    unit="{message}",
    description="Number of commands that became dead letters.",
)
_LEASE_LOSSES = _METER.create_counter(
    "sagastream.lease.losses", unit="{lease}", description="Number of claims that handlers lost."
)
_STEP = _METER.create_histogram(
    "sagastream.saga.step.duration",
    unit="s",
    description="Duration of a saga step from its intent to its end.",
    explicit_bucket_boundaries_advisory=_MINUTES,
)
_COMPENSATIONS = _METER.create_counter(
    "sagastream.saga.compensations",
    unit="{compensation}",
    description="Number of compensations that have ended.",
)


def series_of(attributes: Mapping[str, Any]) -> Series:
    """The low-cardinality attributes of a span."""
    series = {name: attributes[name] for name in _KEPT if name in attributes}
    template = attributes.get("messaging.destination.template")
    if template:
        return series | {"messaging.destination.template": template}
    return series | {"messaging.destination.name": attributes["messaging.destination.name"]}


def _with(series: Series, error_type: str) -> Series:
    return {**series, "error.type": error_type} if error_type else series


def operated(series: Series, seconds: float, error_type: str) -> None:
    """Record the duration of a client's operation on a stream."""
    _OPERATION.record(seconds, _with(series, error_type))


def sent(series: Series, error_type: str) -> None:
    """Count a message that was sent, or that could not be sent."""
    _SENT.add(1, _with(series, error_type))


def consumed(series: Series, count: int, error_type: str = "") -> None:
    """Count delivered messages."""
    _CONSUMED.add(count, _with(series, error_type))


def processed(series: Series, seconds: float, event_type: str, error_type: str) -> None:
    """Record the duration of a handler; `event_type` is one that is handled, or `_OTHER`."""
    attributes = _with(series, error_type)
    _PROCESS.record(seconds, {**attributes, "sagastream.event_type": event_type})


def redelivered(series: Series) -> None:
    """Count a command that has a new handler because the one before was lost or stopped."""
    _REDELIVERIES.add(1, series)


def dead_lettered(series: Series, error_type: str) -> None:
    """Count a dead letter."""
    _DEAD_LETTERS.add(1, _with(series, error_type))


def lease_lost(series: Series) -> None:
    """Count a lost claim."""
    _LEASE_LOSSES.add(1, series)


def step_ended(saga: str, step: str, direction: str, seconds: float, error_type: str) -> None:
    """Record the duration of a saga's request, and count a compensation."""
    series = _with({"sagastream.saga": saga, "sagastream.step": step}, error_type)
    _STEP.record(seconds, {**series, "sagastream.direction": direction})
    if direction == "undo":
        _COMPENSATIONS.add(1, series)
