"""OpenTelemetry providers of a process: started after its fork, if any, shut down at its exit.

Spans are always created, so that stream entries and log lines carry trace ids. They are exported
over OTLP if a standard OTEL_* variable names an endpoint, and written to a file in OTLP JSON if
TRACE_FILE is set. Metrics are exported over OTLP in the same way, and served on `/metrics` if
HTTP_PORT is set.
"""

import atexit
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import IO, cast

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from app.config import Settings
from app.logging_config import configure_logs
from sagastream.tracing import chosen_span_id

logger = logging.getLogger(__name__)

# An unresponsive collector delays the exit of a process by this much at most.
_EXIT_S = 1.5
_EXPORT_S = 1

_running: dict[int, tuple[TracerProvider, MeterProvider]] = {}


class SpanIdGenerator(RandomIdGenerator):
    """Generates random ids, except for the span of a killed handler.

    The handler that takes over records that span, under the id that the killed handler's
    children already name as their parent.
    """

    def generate_span_id(self) -> int:
        """Return the id that the library chose for the next span, or a random one."""
        return chosen_span_id() or super().generate_span_id()


class SharedFile:
    """A file that several processes append lines to, one write per line.

    Args:
        path: The file. Its folder is created at once, the file itself with its first line.
    """

    closed = False

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = -1

    def write(self, line: str) -> int:
        """Append a line; return the number of bytes written."""
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o644)
        return os.write(self._descriptor, line.encode())

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""


def configure(settings: Settings, service: str) -> None:
    """Set up logs, spans and metrics. Call it once per process; in a forked one, after the fork."""
    configure_logs(settings, service)
    start(settings, service)


def start(settings: Settings, service: str) -> None:
    """Start the providers of this process, once; its exit shuts them down."""
    if os.getpid() in _running:
        return
    resource = Resource.create(
        {
            "service.name": service,
            "service.namespace": "mission",
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
    )
    tracers = TracerProvider(
        resource=resource, id_generator=SpanIdGenerator(), shutdown_on_exit=False
    )
    if settings.exports_spans:
        delay_ms = settings.otel_bsp_schedule_delay
        tracers.add_span_processor(
            BatchSpanProcessor(_span_exporter(settings), schedule_delay_millis=delay_ms)
        )
    if settings.trace_file:
        _add_file(tracers, settings.trace_file)
    meters = MeterProvider(_readers(settings), resource=resource, shutdown_on_exit=False)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    _running[os.getpid()] = (tracers, meters)
    atexit.register(shut_down)


def shut_down() -> None:
    """Export what is buffered, within a bounded time; safe to call twice."""
    stopping = [
        threading.Thread(target=provider.shutdown, daemon=True)
        for provider in _running.pop(os.getpid(), ())
    ]
    for thread in stopping:
        thread.start()
    deadline = time.monotonic() + _EXIT_S
    for thread in stopping:
        thread.join(max(0.0, deadline - time.monotonic()))


def _add_file(tracers: TracerProvider, path: Path) -> None:
    # Imported here because most processes write no file.
    from opentelemetry.exporter.otlp.json.file.trace_exporter import (  # noqa: PLC0415
        FileSpanExporter,
    )

    try:
        stream = SharedFile(path)
    except OSError as error:
        logger.warning("cannot write spans to %s: %s", path, error)
        return
    # One write per span, not in batches: a killed process loses no ended span.
    exporter = FileSpanExporter(stream=cast("IO[str]", stream))
    tracers.add_span_processor(SimpleSpanProcessor(exporter))


def _span_exporter(settings: Settings) -> SpanExporter:
    # Imported here because gRPC is slow to import and most runs export nothing.
    if settings.traces_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc  # noqa: PLC0415

        return grpc.OTLPSpanExporter(timeout=_EXPORT_S)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http  # noqa: PLC0415

    return http.OTLPSpanExporter(timeout=_EXPORT_S)


def _metric_exporter(settings: Settings) -> MetricExporter:
    if settings.metrics_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc  # noqa: PLC0415

        return grpc.OTLPMetricExporter(timeout=_EXPORT_S)
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as http  # noqa: PLC0415

    return http.OTLPMetricExporter(timeout=_EXPORT_S)


def _readers(settings: Settings) -> list[MetricReader]:
    readers: list[MetricReader] = []
    if settings.exports_metrics:
        interval_ms = settings.otel_metric_export_interval
        readers.append(
            PeriodicExportingMetricReader(
                _metric_exporter(settings),
                export_interval_millis=interval_ms,
                export_timeout_millis=1000 * _EXPORT_S,
            )
        )
    if settings.http_port:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415

        readers.append(PrometheusMetricReader())
    return readers
